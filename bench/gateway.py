"""The cost of the gateway: throughput and latencies of Triton alone, behind the gateway, and behind nginx."""

from __future__ import annotations

import contextlib
import platform
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from .http_load import Target, as_series, in_turn, post
from .series import Series
from .site import MODEL, Site, site

TRITON, GATEWAY, NGINX = "Triton", "gateway", "nginx"
PREDICT = "/predict"
PERCENTILES = (50, 99)


def requests(model: str, name: str, columns: int) -> dict[str, bytes]:
    """Return the requests by kind, each with a row of ``columns`` numbers for the input ``name``."""
    tensor = {"name": name, "shape": [1, columns], "datatype": "FP32"}
    as_json = orjson.dumps({"inputs": [{**tensor, "data": [1.0] * columns}]})
    binary = orjson.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": 4 * columns}}],
            "parameters": {"binary_data_output": True},
        }
    )
    path, values = f"/v2/models/{model}/infer", struct.pack(f"<{columns}f", *[1.0] * columns)
    return {
        "v2 JSON": post(path, as_json),
        "v2 binary": post(path, binary + values, {"Inference-Header-Content-Length": str(len(binary))}),
        PREDICT: post(f"/predict/{model}", orjson.dumps({"rows": [[1.0] * columns]})),
    }


def run(quick: bool) -> list[Series]:
    """Measure v2 and /predict through the gateway, v2 through nginx if available, and on Triton itself.

    Args:
        quick: a few short rounds only.

    Returns:
        For each kind of request and number of connections: requests a second, and p50 and p99 of the
            latencies in milliseconds; a value
        for each round.
    """
    with site() as ready:
        return _measure(ready, quick)


def _measure(site: Site, quick: bool) -> list[Series]:
    rounds, duration_s = (2, 0.2) if quick else (6, 1.5)
    (name, array), *_ = site.inputs.items()
    with _addresses(site) as addresses:
        series = []
        for kind, request in requests(MODEL, name, array.shape[1]).items():
            asked = {t: Target(a, request) for t, a in addresses.items() if kind != PREDICT or t == GATEWAY}
            for connections in (1, 16):
                print(f"  gateway: {kind}, {connections} connections", flush=True)
                measured = in_turn(asked, connections, rounds, duration_s)
                what = f"{kind}, {connections} conn."
                series += as_series(what, measured, baseline=TRITON, percentiles=PERCENTILES)
    return series


@contextlib.contextmanager
def _addresses(site: Site) -> Iterator[dict[str, str]]:
    """Yield the address of each server in front of the model, by name."""
    triton, gateway = (site.stack.url(name).removeprefix("http://") for name in ("triton", "gateway"))
    addresses = {TRITON: triton, GATEWAY: gateway}
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as folder, contextlib.ExitStack() as running:
        if platform.freedesktop_os_release().get("VERSION_CODENAME") == "bookworm":
            from tests.support.servers.nginx import Nginx

            nginx = running.enter_context(Nginx(Path(folder), [triton], gateway))
            addresses[NGINX] = nginx.address
        else:
            print("  nginx is left out: it is taken from Debian 12", flush=True)
        yield addresses
