"""The engines on disk and the index of each Triton, looked up once for all models of a repository.

Both lists cover all models. To ask for them again for each of a thousand models would read a million entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ..clients.triton import Index, ModelState, Triton
from ..repository.engines import engines_in
from ..rules.names import model_of

T = TypeVar("T")

Loaded = Mapping[str, tuple[int, ...]]
"""Names in Triton with the versions that are ready."""


class IndexCache:
    """Looks up each list at the first question, and keeps the answer until ``forget``.

    Args:
        root: the model repository.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.forget()

    def forget(self) -> None:
        """Let the next question look anew."""
        self._engines: dict[str, list[int]] | None = None
        self._seen: dict[str, dict[str, Index]] = {}

    def engines(self, model: str) -> Sequence[int]:
        """Return the versions of a model that have an engine directory, ascending; raises StorageFailed."""
        if self._engines is None:
            self._engines = engines_in(self._root)
        return self._engines.get(model, [])

    def loaded(self, triton: Triton, model: str) -> Loaded:
        """Return which of a model's names are ready in a Triton: the public name and the engines.

        Raises:
            Unavailable: the Triton does not answer; the next question asks it again.
        """
        return self._of(triton, model).ready

    def stuck(self, triton: Triton, model: str) -> Mapping[str, ModelState]:
        """Return which of a model's names a Triton is loading or unloading, with their states.

        Raises:
            Unavailable: the Triton does not answer; the next question asks it again.
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
    """Group names in Triton by the model whose public name or engine they are."""
    by_model: dict[str, dict[str, T]] = {}
    for name, value in names.items():
        by_model.setdefault(model_of(name), {})[name] = value
    return by_model
