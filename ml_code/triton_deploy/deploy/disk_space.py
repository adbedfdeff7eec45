"""Whether the Tritons have the memory for one more version, by the sizes of files."""

from __future__ import annotations

from ..errors import NoRoom
from ..repository import ModelFolder
from ..repository.engines import engines_in
from ..settings import Settings

FACTOR = 1.2
"""Memory of a loaded model, in sizes of its files: ONNX Runtime adds its own arrangement of the weights."""


def require_room(settings: Settings, version: int, folder: ModelFolder) -> None:
    """Raise NoRoom when a candidate does not fit beside the versions that the Tritons of the repository hold.

    Each Triton holds the live and the warm versions of every model; the folders of the engines name them.

    Args:
        settings: the memory of one Triton (``triton_memory_bytes``; 0 compares nothing).
        version: the candidate.
        folder: its model's place in the repository.
    """
    memory = settings.triton.memory_bytes
    if not memory:
        return
    root = settings.repository_root
    held = {(model, engine) for model, engines in engines_in(root).items() for engine in engines} - {
        (folder.model, version)
    }
    taken = sum(_need(ModelFolder.at(root, model), engine) for model, engine in held)
    needed = _need(folder, version)
    if taken + needed > memory:
        raise NoRoom(
            f"Version {version} of {folder.model} needs about {needed} bytes in each Triton ({FACTOR} times its files), and of "
            f"{memory} (TRITON_DEPLOY_TRITON_MEMORY_BYTES) {max(0, memory - taken)} are left beside the {len(held)} versions that are loaded.",
            hint="Nothing was loaded. Lower TRITON_DEPLOY_KEEP_WARM, take models out of these Tritons, or give them more memory and raise the setting.",
        )


def _need(folder: ModelFolder, version: int) -> int:
    manifest = folder.versions.manifest(version)
    return int(FACTOR * sum(entry.size_bytes for entry in manifest.files)) if manifest else 0
