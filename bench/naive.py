"""A deploy as in many guides: ``python -m bench.naive MODEL ALIAS REPOSITORY TRITON_URL``.

The script prints the seconds of each part as JSON. It downloads to a temporary directory, copies into the
repository, loads, queries readiness, infers once, and writes ``current.json``. The model's ``config.pbtxt``
exists already, as in the guides. This deploy checks nothing and syncs nothing to disk.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import mlflow
import requests

from .stopwatch import Laps


def main() -> None:
    """Deploy the version that the alias names."""
    model, alias, repository, triton = sys.argv[1:5]
    laps = Laps()
    version = mlflow.MlflowClient().get_model_version_by_alias(model, alias)
    laps.end("look-up")
    with tempfile.TemporaryDirectory() as temporary:
        downloaded = Path(
            mlflow.artifacts.download_artifacts(f"models:/{model}/{version.version}", dst_path=temporary)
        )
        laps.end("download")
        target = Path(repository) / model / version.version
        target.mkdir(parents=True)
        for name in ("model.onnx", "weights.bin"):
            if (downloaded / name).exists():
                shutil.copyfile(downloaded / name, target / name)
        laps.end("copy")
        golden = json.loads((downloaded / "triton/golden.json").read_text())
    requests.post(f"{triton}/v2/repository/models/{model}/load", timeout=300).raise_for_status()
    laps.end("load")
    requests.get(f"{triton}/v2/models/{model}/ready", timeout=30).raise_for_status()
    laps.end("ready")
    asked = {"inputs": golden["inputs"]}
    requests.post(f"{triton}/v2/models/{model}/infer", json=asked, timeout=60).raise_for_status()
    laps.end("infer")
    with (Path(repository) / model / "current.json").open("w") as file:
        json.dump({"active_version": int(version.version), "run_id": version.run_id, "alias": alias}, file)
    laps.end("current.json")
    print(json.dumps(laps.took_s))


if __name__ == "__main__":
    main()
