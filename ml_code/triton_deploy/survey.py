"""What engines there are, on disk and in each Triton, looked up once for every model of a repository.

Both come as one list for all models: to ask for it again for each of a thousand models would be a million entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .repository.versions import engines_in
from .triton import Triton

Loaded = Mapping[str, tuple[int, ...]]
"""Names in Triton with the versions that are ready."""


class Survey:
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
        self._loaded: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}

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
        if triton.url not in self._loaded:
            by_model: dict[str, dict[str, tuple[int, ...]]] = {}
            for name, versions in triton.loaded().items():
                # No model's name has a dot: see names.py.
                by_model.setdefault(name.partition(".v")[0], {})[name] = versions
            self._loaded[triton.url] = by_model
        return self._loaded[triton.url].get(model, {})
