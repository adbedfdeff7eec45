"""`make up`: the whole stack from the command line. Apart from the other tests of the stack, because it runs an Airflow."""

import re
from pathlib import Path

import pytest

from stack.ports import setting
from tests.support.servers.whole_stack import whole_stack

pytestmark = pytest.mark.integration


@pytest.mark.soak
def test_up_prints_where_everything_is_and_ctrl_c_stops_all_of_it(tmp_path: Path) -> None:
    with whole_stack(tmp_path) as (ports, output):
        urls = re.findall(r"http://127\.0\.0\.1:(\d+)", output)
        services = ("s3", "mlflow", "triton", "triton-staging", "airflow", "gateway")
        assert {ports[setting(n)] for n in services} <= {*urls}
        environment = (tmp_path / "env").read_text()
        port = ports[setting("triton-staging-grpc")]
        assert f"export TRITON_DEPLOY_STAGING_GRPC_URL=127.0.0.1:{port}\n" in environment
        assert str(tmp_path / "logs") in output
        assert f"source {tmp_path / 'env'}" in output
