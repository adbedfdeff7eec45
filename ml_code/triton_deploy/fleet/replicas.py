"""All Tritons of a repository: does the same action on each; some may be away if the quorum allows it.

An action that may harm a Triton is done on one Triton alone first, and on the others only after that one
has come through it.

A Triton that is passed over goes on serving its version. After a restart it serves the committed version;
``reconcile`` brings it to that version without a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from ..clients.triton import Triton
from ..errors import (
    ArtifactRejected,
    DeployError,
    EndedTriton,
    NotFound,
    TritonsDiffer,
    Unavailable,
    Unclassified,
)

T = TypeVar("T")

AWAY = (Unavailable, NotFound)
"""Errors of a Triton that does not answer or has lost its models: they are no evidence against the model."""


@dataclass(frozen=True)
class _End(Generic[T]):
    """How an action ended on one Triton: with an answer, or with an error."""

    url: str
    answer: T | None = None
    error: DeployError | None = None


@dataclass(frozen=True)
class Outcomes(Generic[T]):
    """The results of an action.

    Attributes:
        answers: result of each Triton that did the action, by address.
        away: why each other Triton was passed over, by address.
    """

    answers: Mapping[str, T]
    away: Mapping[str, str]


class Replicas:
    """The Tritons of a repository.

    Args:
        tritons: the servers.
        quorum: ``all``, ``majority``, or the number of Tritons that have to take part.
    """

    def __init__(self, tritons: Sequence[Triton], quorum: str) -> None:
        self.all = tuple(tritons)
        self._quorum = quorum

    @property
    def required(self) -> int:
        """Number of Tritons that have to take part."""
        match self._quorum:
            case "all":
                return max(1, len(self.all))
            case "majority":
                return len(self.all) // 2 + 1
            case number:
                return int(number)

    def on_all(self, action: Callable[[Triton], T], among: Collection[str] | None = None) -> Outcomes[T]:
        """Do an action on every Triton at once.

        Args:
            action: the action on one Triton.
            among: addresses of the Tritons that still take part; all by default.

        Raises:
            Unavailable, NotFound: too few Tritons took part; the text names each that did not.
            DeployError: any other error of the action, on any Triton.
        """
        return self._outcomes(_at_once(self._among(among), action))

    def one_then_rest(
        self,
        alone: Callable[[Triton], T],
        together: Callable[[Triton], T],
        among: Collection[str] | None = None,
        *,
        then: Callable[[], object] = lambda: None,
        compare: bool = True,
    ) -> Outcomes[T]:
        """Do an action on one Triton after the other until one has come through it, then on the rest at once.

        Two kinds of Tritons are passed over: a Triton that is away, as far as the quorum allows, and the
        first Triton that refuses the candidate. If a second Triton refuses it, too, the artifact is bad;
        if the second one takes it, the first is at fault.

        Args:
            alone: the action on a single Triton.
            together: the action on each of the rest.
            among: addresses of the Tritons that still take part; all by default.
            then: called between the two actions.
            compare: whether a second Triton may be asked after a refusal.

        Raises:
            EndedTriton: a Triton ended; no other Triton was asked after it.
            ArtifactRejected, VerificationFailed: the action's error, the same on every Triton that was asked.
            TritonsDiffer: one Triton refused a candidate that another one took.
            Unavailable, NotFound: too few Tritons took part; the text names each that did not.
            DeployError: any other error of the action.
        """
        waiting = self._among(among)
        ends: list[_End[T]] = []
        while waiting and self._goes_on(ends, len(waiting), compare):
            ends += _at_once([waiting.pop(0)], alone)
        proven = next((end.url for end in ends if end.error is None), "")
        if proven:
            then()
            ends += _at_once(waiting, together)
            ends = [_End(end.url, end.answer, _not_the_model(end.error, proven)) for end in ends]
        elif len(unknown := [end.error for end in ends if isinstance(end.error, Unclassified)]) > 1:
            raise ArtifactRejected(
                " ".join(error.message for error in unknown),
                hint="Two Tritons say so, so the model needs repair. See their logs.",
            )
        return self._outcomes(ends)

    def _goes_on(self, ends: Sequence[_End[T]], waiting: int, compare: bool) -> bool:
        """Whether another Triton is tried alone after these results."""
        errors = [end.error for end in ends]
        if None in errors:
            return False
        compared = sum(_is_compared(error) for error in errors)
        if compared:
            return (
                compare
                and compared == 1
                and all(_is_compared(error) or isinstance(error, AWAY) for error in errors)
            )
        return all(isinstance(error, AWAY) for error in errors) and (not errors or waiting >= self.required)

    def _among(self, among: Collection[str] | None) -> list[Triton]:
        return [triton for triton in self.all if among is None or triton.url in among]

    def _outcomes(self, ends: Sequence[_End[T]]) -> Outcomes[T]:
        errors = {end.url: end.error for end in ends if end.error is not None}
        answers = {end.url: cast(T, end.answer) for end in ends if end.error is None}
        against = [error for error in errors.values() if not isinstance(error, AWAY)]
        ended = [error for error in against if isinstance(error, EndedTriton)]
        if against or len(answers) < self.required:
            raise self._refusal(ended or against or list(errors.values()))
        return Outcomes(answers, {url: error.message for url, error in errors.items()})

    def _refusal(self, errors: Sequence[DeployError]) -> DeployError:
        if not errors:
            return Unavailable(
                f"{self.required} Tritons have to take part, and {len(self.all)} are known.",
                hint="Start the others, or correct TRITON_DEPLOY_GRPC_URLS or TRITON_DEPLOY_QUORUM.",
            )
        # The order of the Tritons must not decide which error counts: a retryable error wins.
        first, *others = sorted(errors, key=lambda error: not error.retryable)
        return type(first)(" ".join(error.message for error in errors), hint=first.hint) if others else first


def _at_once(tritons: Sequence[Triton], action: Callable[[Triton], T]) -> list[_End[T]]:
    def attempt(triton: Triton) -> _End[T]:
        try:
            return _End(triton.url, action(triton))
        except DeployError as error:
            return _End(triton.url, error=error)

    if len(tritons) <= 1:
        return [attempt(triton) for triton in tritons]
    with ThreadPoolExecutor(max_workers=len(tritons)) as pool:
        # Waits for every Triton, and raises an error that is not a DeployError.
        return list(pool.map(attempt, tritons))


def _is_compared(error: DeployError | None) -> bool:
    """Whether only another Triton can show whether the model or the Triton is at fault."""
    if isinstance(error, EndedTriton):
        return False
    return isinstance(error, Unclassified) or (error is not None and error.blames_artifact)


def _not_the_model(error: DeployError | None, proven: str) -> DeployError | None:
    """Return a Triton's error after another Triton took the candidate: TritonsDiffer for a refusal."""
    if error is None or not _is_compared(error):
        return error
    return TritonsDiffer(
        f"{error.message} Triton at {proven} took the same candidate.",
        hint="So a Triton is at fault, not the model: see the first one's log and compare the two (versions, memory, GPU, disk), then deploy again.",
    )
