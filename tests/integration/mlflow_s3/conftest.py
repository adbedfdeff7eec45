"""The S3 server for the tests of S3 semantics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers.ceph_rgw import RadosGateway


@pytest.fixture(scope="package")
def rados_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGateway]:
    """A running gateway; skips where Ceph's packages of Debian 12 cannot be had."""
    with RadosGateway(tmp_path_factory.mktemp("rados-gateway")) as gateway:
        yield gateway
