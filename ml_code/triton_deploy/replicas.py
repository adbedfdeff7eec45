"""All Tritons of a repository at once: the same is done on each, and some may be away if the quorum allows it.

A Triton that is passed over goes on serving what it serves; when it is restarted it serves what was committed, and
``reconcile`` brings it there without a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from .errors import DeployError, NotFound, Unavailable
from .triton import Triton

T = TypeVar("T")

AWAY = (Unavailable, NotFound)
"""What a Triton says, or does not say, that does not answer or has lost what it had: nothing is known against the model."""


@dataclass(frozen=True)
class Outcomes(Generic[T]):
    """What came of an action.

    Attributes:
        answers: by address of each Triton that did it.
        away: why each other one was passed over, by address.
    """

    answers: Mapping[str, T]
    away: Mapping[str, str]


class Replicas:
    """The Tritons of a repository.

    Args:
        tritons: each of them.
        quorum: ``all``, ``majority``, or how many have to take part.
    """

    def __init__(self, tritons: Sequence[Triton], quorum: str) -> None:
        self.all = tuple(tritons)
        self._quorum = quorum

    @property
    def required(self) -> int:
        """How many have to take part."""
        match self._quorum:
            case "all":
                return max(1, len(self.all))
            case "majority":
                return len(self.all) // 2 + 1
            case number:
                return int(number)

    def on_all(self, action: Callable[[Triton], T], among: Collection[str] | None = None) -> Outcomes[T]:
        """Do the same on every Triton at once.

        Args:
            action: what is done on one.
            among: addresses of those that are still in it; all by default.

        Raises:
            Unavailable, NotFound: too few Tritons took part; the text has each that did not.
            DeployError: what the action raised otherwise, on any of them.
        """
        tritons = [triton for triton in self.all if among is None or triton.url in among]

        def attempt(triton: Triton) -> tuple[str, T | None, DeployError | None]:
            try:
                return triton.url, action(triton), None
            except DeployError as error:
                return triton.url, None, error

        if len(tritons) == 1:
            ends = [attempt(tritons[0])]
        else:
            with ThreadPoolExecutor(max_workers=max(1, len(tritons))) as pool:
                # Every end is waited for, and an error that is not of ours is raised.
                ends = list(pool.map(attempt, tritons))
        errors = {url: error for url, _, error in ends if error is not None}
        answers = {url: cast(T, answer) for url, answer, error in ends if error is None}
        against = [error for error in errors.values() if not isinstance(error, AWAY)]
        if against or len(answers) < self.required:
            raise self._refusal(against or list(errors.values()))
        return Outcomes(answers, {url: error.message for url, error in errors.items()})

    def _refusal(self, errors: Sequence[DeployError]) -> DeployError:
        if not errors:
            return Unavailable(
                f"{self.required} Tritons have to take part, and {len(self.all)} are known.",
                hint="Start the others, or correct TRITON_DEPLOY_GRPC_URLS or TRITON_DEPLOY_QUORUM.",
            )
        # Which of several is told must not hang on which Triton was first: one that may be repeated before one that may not.
        first, *others = sorted(errors, key=lambda error: not error.retryable)
        return type(first)(" ".join(error.message for error in errors), hint=first.hint) if others else first
