"""`make up`: the whole stack from the command line. Apart from the other tests of the stack, because it runs an Airflow."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stack.ports import free_ports, setting
from tests.support.servers.processes import processes_of

pytestmark = pytest.mark.integration


@pytest.mark.soak
def test_up_prints_where_everything_is_and_ctrl_c_stops_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, port in free_ports().items():
        monkeypatch.setenv(setting(name), str(port))
    argv = [sys.executable, "-m", "stack", "up", "--state-dir", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        lines = []
        for line in up.stdout:
            lines.append(line)
            if "Ctrl-C stops everything" in line:
                break
        output = "".join(lines)
        urls = re.findall(r"http://127\.0\.0\.1:(\d+)", output)
        services = ("s3", "mlflow", "triton", "triton-staging", "airflow", "gateway")
        assert {os.environ[setting(n)] for n in services} <= {*urls}
        environment = (tmp_path / "env").read_text()
        port = os.environ[setting("triton-staging-grpc")]
        assert f"export TRITON_DEPLOY_STAGING_GRPC_URL=127.0.0.1:{port}\n" in environment
        assert str(tmp_path / "logs") in output
        assert f"source {tmp_path / 'env'}" in output
        up.send_signal(signal.SIGINT)
        assert up.stdout.read().endswith("stopped\n")
    assert up.returncode == 0
    assert not processes_of(tmp_path)
