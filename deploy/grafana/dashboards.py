"""Writes ``dashboards/*.json``, which Grafana is provisioned with (``make docs``).

The tests ask a real Prometheus for every expression.
"""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.board import to_json
from deploy.grafana.deployments import DEPLOYMENTS
from deploy.grafana.fleet import FLEET
from deploy.grafana.one_model import ONE_MODEL

FOLDER = Path(__file__).with_name("dashboards")
BOARDS = {"fleet": FLEET, "model": ONE_MODEL, "deployments": DEPLOYMENTS}


def main() -> None:
    """Write the dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for name, board in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(to_json(board), encoding="utf-8")


if __name__ == "__main__":
    main()
