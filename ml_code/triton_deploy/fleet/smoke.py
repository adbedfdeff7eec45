"""The smoke test: sends a version's smoke case to Tritons, and checks the answers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..clients.triton import Inference, Triton
from ..errors import AnsweredLate, ArtifactRejected, Unavailable, VerificationFailed
from ..model import smoke_case
from ..model.smoke_case import Array, SmokeCase
from ..repository import ModelFolder
from ..rules.names import engine_name
from ..rules.version_files import SMOKE_CASE
from ..settings import Settings
from ..storage import storage_errors

SMOKE_REQUESTS = 5
"""Requests that count, after one that warms up."""


@dataclass(frozen=True)
class Measurement:
    """The smoke test of one Triton.

    Attributes:
        latency_s: median time of an answer, seconds.
        max_abs_error: largest absolute difference from an expected number.
    """

    latency_s: float
    max_abs_error: float

    def figures(self) -> dict[str, float]:
        """Return the measurement as a deployment's record has it."""
        return {"latency_ms": round(self.latency_s * 1000, 3), "max_abs_error": self.max_abs_error}


@dataclass(frozen=True)
class SmokeTest:
    """The smoke test of one version.

    Attributes:
        model: public model name.
        version: the version.
        case: inputs and expected answers.
        inputs: those of the case, in the shapes that clients send.
        settings: deadlines and tolerances.
    """

    model: str
    version: int
    case: SmokeCase
    inputs: Mapping[str, Array]
    settings: Settings

    @classmethod
    def read(cls, folder: ModelFolder, version: int, settings: Settings) -> Self:
        """Read the smoke case of a version; raises StorageFailed when a file can't be read."""
        path = folder.versions.path(version) / SMOKE_CASE
        with storage_errors(f"reading {path}"):
            text = path.read_text(encoding="utf-8")
        offer = folder.versions.require(version).offer
        case = smoke_case.parse_case(text, offer.schema)
        return cls(folder.model, version, case, case.sent(offer), settings)

    def measure(self, triton: Triton) -> Measurement:
        """Ask exactly this version on one Triton, and compare every answer.

        Raises:
            VerificationFailed: answers that are wrong or random, or of another version.
            ArtifactRejected: the model fails on the inputs.
            NotFound, Unavailable: the version is not there any more, or does not answer in time.
        """
        answers = self.ask_engine(triton)
        try:
            error = max(self.largest_error(answer) for answer in answers)
        except VerificationFailed:
            self._refuse_random(answers)
            raise
        # The first request warms up and is not timed.
        return Measurement(statistics.median(answer.latency_s for answer in answers[1:]), error)

    def _refuse_random(self, answers: Sequence[Inference]) -> None:
        """Raise VerificationFailed when answers to the same inputs differ: no expectation fits them all."""
        first, *others = answers
        for other in others:
            if apart := smoke_case.at_random(first.outputs, other.outputs):
                raise VerificationFailed(
                    f"The candidate answers at random: {apart}.", hint=smoke_case.HOW_TO_TAKE_RANDOM
                )

    def judge(self, measured: Mapping[str, Measurement]) -> dict[str, Any]:
        """Return the result for the deployment's record, see ``Fleet.smoke``; the slowest Triton decides.

        Args:
            measured: the measurement of each Triton, by address.

        Raises:
            AnsweredLate: the slowest Triton's median is above the limit.
        """
        latency_s = max(one.latency_s for one in measured.values())
        limit_s = self.settings.smoke.latency_limit_s
        if latency_s > limit_s:
            raise AnsweredLate(
                f"The candidate takes {latency_s:.3f} s a request, more than {limit_s:g} s.",
                hint="A busy machine looks the same: deploy again. If it lasts, make the model faster, or raise TRITON_DEPLOY_SMOKE_LATENCY_LIMIT_S.",
            )
        worst = Measurement(latency_s, max(one.max_abs_error for one in measured.values()))
        return {
            "source": self.case.source,
            "requests": SMOKE_REQUESTS,
            **worst.figures(),
            "tritons": {url: one.figures() for url, one in measured.items()},
        }

    def check_public_name(self, triton: Triton) -> None:
        """Ask the public name of one Triton, and compare every answer.

        Raises:
            VerificationFailed: wrong answers, or answers of another version.
            AnsweredLate: the public name does not answer in time.
            DeployError: see ``Triton.infer``.
        """
        for _ in range(1 + SMOKE_REQUESTS):
            self.largest_error(self.ask_public_name(triton))

    def ask_engine(self, triton: Triton) -> list[Inference]:
        """Send all requests to the engine on one Triton; raises DeployError, see ``Triton.infer``."""
        engine = engine_name(self.model, self.version)
        try:
            return [
                triton.infer(engine, self.inputs, self.settings.triton.infer_timeout_s, self.version)
                for _ in range(1 + SMOKE_REQUESTS)
            ]
        except ArtifactRejected as error:
            raise smoke_case.asked_with(self.case, error) from error

    def ask_public_name(self, triton: Triton) -> Inference:
        """Send one request to the public name on one Triton; raises AnsweredLate after the deadline."""
        timeout_s = self.settings.triton.infer_timeout_s
        began = time.monotonic()
        try:
            return triton.infer(self.model, self.inputs, timeout_s)
        except Unavailable as error:
            if time.monotonic() - began < timeout_s:
                raise
            # The engine behind the public name answered a moment ago: no other Triton may get into the
            # same state.
            raise AnsweredLate(error.message, hint=error.hint) from error

    def largest_error(self, answer: Inference) -> float:
        """Return the largest absolute difference between an answer and the expected one.

        Raises:
            VerificationFailed: the answer is wrong, or another version gave it.
        """
        if answer.version != self.version:
            raise VerificationFailed(
                f"Version {answer.version} answered instead of {self.version}.",
                hint="Check who else loads models into this Triton, then deploy again.",
            )
        return smoke_case.largest_error(
            self.case, answer.outputs, rtol=self.settings.smoke.rtol, atol=self.settings.smoke.atol
        )
