"""What engines there are, on disk and in each Triton, looked up once for every model of a repository.

Both come as one list for all models: to ask for it again for each of a thousand models would be a million entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..clients.triton import Index, Triton
from ..repository.engines import engines_in

T = TypeVar("T")

Loaded = Mapping[str, tuple[int, ...]]
"""Names in Triton with the versions that are ready."""


class IndexCache:
    """Looks when it is first asked, and remembers the answer until it is told to forget.

    Args:
        root: the model repository.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.forget()

    def forget(self) -> None:
        """Look anew the next time."""
        self._engines: dict[str, list[int]] | None = None
        self._seen: dict[str, dict[str, Index]] = {}

    def engines(self, model: str) -> Sequence[int]:
        """Return the versions of a model that have an engine directory, ascending; raises StorageFailed."""
        if self._engines is None:
            self._engines = engines_in(self._root)
        return self._engines.get(model, [])

    def loaded(self, triton: Triton, model: str) -> Loaded:
        """Return what of a model is loaded in a Triton: its public name and its engines.

        Raises:
            Unavailable: it does not answer; it is asked again the next time.
        """
        return self._of(triton, model).ready

    def stuck(self, triton: Triton, model: str) -> Mapping[str, str]:
        """Return what of a model a Triton neither serves nor lets go, with what it says of it: ``LOADING`` or ``UNLOADING``.

        Raises:
            Unavailable: it does not answer; it is asked again the next time.
        """
        return self._of(triton, model).hanging

    def _of(self, triton: Triton, model: str) -> Index:
        if triton.url not in self._seen:
            index = triton.index()
            ready, states = _by_model(index.ready), _by_model(index.states)
            self._seen[triton.url] = {
                name: Index(ready.get(name, {}), states.get(name, {})) for name in {*ready, *states}
            }
        return self._seen[triton.url].get(model, Index({}, {}))


def _by_model(names: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Sort names in Triton by the model whose public name or engine they are."""
    by_model: dict[str, dict[str, T]] = {}
    for name, value in names.items():
        # No model's name has a dot: see names.py.
        by_model.setdefault(name.partition(".v")[0], {})[name] = value
    return by_model
