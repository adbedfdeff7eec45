"""Makes what test_side_by_side.py reads: repositories as earlier commits wrote them, and the code of those commits.

    python tests/data/make_repositories.py [COMMIT ...]

Each commit's own code and fakes write its repositories, from an export of that commit. A clone in CI may be shallow, so what comes of it
is checked in. It is packed, because git keeps no empty folder, no time and no hard link, and reads a folder of Python as ours to lint.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMITS = ("537c519", "39eb77d", "d7e7a7d")
CODE = ("537c519", "39eb77d")
"""Those whose code is kept as well: what the newest one writes, the code under test reads."""
LEFT_OUT = ("/doctor/", "/bake/", "/cli.py", "/commands.py", "/initialize.py")
"""What neither deploys nor reads."""
SITUATIONS = ("live", "loaded", "committing", "watched")


def main(commits: list[str]) -> None:
    for commit in commits or COMMITS:
        with tempfile.TemporaryDirectory() as folder:
            export = Path(folder) / "export"
            exported = subprocess.run(
                ["git", "archive", commit], cwd=HERE.parents[1], check=True, stdout=subprocess.PIPE
            )
            with tarfile.open(fileobj=io.BytesIO(exported.stdout)) as tar:
                tar.extractall(export, filter="tar")
            made = Path(folder) / "made"
            for situation in SITUATIONS:
                root = made / situation
                root.mkdir(parents=True)
                subprocess.run(
                    [sys.executable, __file__, "--write", situation, root],
                    env={**os.environ, "PYTHONPATH": str(export)},
                    cwd=export,
                    check=True,
                )
            _pack(made, HERE / f"repositories_{commit}.tar.xz", ".")
            if commit in CODE:
                code = export / "ml_code/triton_deploy"
                _pack(code, HERE / f"code_{commit}.tar.xz", f"triton_deploy_{commit}")


def _pack(folder: Path, target: Path, name: str) -> None:
    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if any(
            part in f"/{entry.name}/" if part.endswith("/") else entry.name.endswith(part)
            for part in LEFT_OUT
        ):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(target, "w:xz", preset=9) as tar:
        tar.add(folder, name, filter=plain)
    print(f"{target.name}: {target.stat().st_size} bytes")


def write(situation: str, root: Path) -> None:
    """Write one repository with the code that is on the path, and end without tidying up: as a process that was killed."""
    try:
        from tests.support import fakes, world
    except ImportError:
        from tests import fakes, world  # type: ignore[attr-defined, no-redef]
    from ml_code.triton_deploy.canary import canary_of

    from ml_code.triton_deploy.repository.releases import Releases

    # It is written down who has a lease.
    socket.gethostname = lambda: "worker-1"
    with fakes.fake_store() as store:
        ours = world.World(
            root,
            replace(world.SETTINGS, repository=root),
            fakes.FakeRegistry(),
            store,
            fakes.FakeTriton(root),
        )
        model = world.MODEL
        for version in (1, 2, 3):
            ours.register_times(version)
            ours.deploy(f"d{version}")
            ours.later(60)
        ours.register_times(4, expected=5)
        try:
            ours.deploy("d4")
        except Exception as error:
            print(f"{situation}: {type(error).__name__}")
        ours.later(60)
        ours.register_times(5)
        deployer = ours.deployer()
        if situation == "loaded":
            deployer.snapshot(ours.request("d5"))
            deployer.materialize(model, "d5")
            deployer.load(model, "d5")
        if situation == "watched":
            deployer.snapshot(ours.request("d5", canary=canary_of("5,25", 0, 10)))
            for step in (deployer.materialize, deployer.load, deployer.ready, deployer.smoke):
                step(model, "d5")
        if situation == "committing":
            Releases.publish = lambda self, release: os._exit(0)  # type: ignore[method-assign]
            ours.deploy("d5")
        os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
