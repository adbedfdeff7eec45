"""Chooses the version that answers a request, and the versions that get the same request as evidence.

The live version answers most requests. A candidate has a share before it is committed, and the predecessor
of a release may keep a share after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..http.exchange import Exchange
from .candidate_client import Candidate
from .candidates import Candidates
from .pool import Reply
from .predecessor import Predecessor
from .upstream import Tritons, is_failure


@dataclass(slots=True, kw_only=True)
class Question:
    """A request as Triton gets it, and the version that is to answer it.

    The live version answers each request that the candidate or the predecessor does not.

    Attributes:
        model: public model name.
        path: path of the live version.
        headers: as for Tritons.ask.
        body: the body, or its beginning.
        more: the rest of a body that is not held; then only the live version can answer.
        candidate: the candidate, if it is to answer.
        shadow: the candidate that gets the same request after the live version.
        before: the predecessor, if it is to answer.
    """

    model: str
    path: str
    headers: bytes
    body: bytes
    more: AsyncIterator[bytes] | None = None
    candidate: Candidate | None = None
    shadow: Candidate | None = None
    before: int | None = None


class Versions:
    """Asks the version that is to answer.

    Args:
        tritons: the servers.
        candidates: asks the candidates.
        predecessor: asks the predecessors.
    """

    def __init__(self, tritons: Tritons, candidates: Candidates, predecessor: Predecessor) -> None:
        self._tritons = tritons
        self._candidates = candidates
        self._predecessor = predecessor

    def question(self, model: str, exchange: Exchange, headers: bytes, body: bytes) -> Question:
        """Return the question of a request that any version may answer.

        Args:
            model: public model name.
            exchange: the client's request.
            headers: as for Tritons.ask.
            body: the whole body, so that a second version can get it.
        """
        candidate, shadow = self._candidates.of(model, exchange)
        return Question(
            model=model,
            path=f"/v2/models/{model}/infer",
            headers=headers,
            body=body,
            candidate=candidate,
            shadow=shadow,
            before=self._predecessor.of(model, exchange) if candidate is None else None,
        )

    async def ask(self, asked: Question) -> Reply:
        """Return the answer, under the model's public name; raises as Tritons.ask."""
        model, headers, body = asked.model, asked.headers, asked.body
        if asked.candidate is not None:
            return await self._candidates.ask(model, asked.candidate, headers, body)
        if asked.before is not None:
            return await self._predecessor.ask(model, asked.before, headers, body)
        return await self._tritons.ask("POST", asked.path, headers, body, asked.more)

    def answered(self, asked: Question, reply: Reply, took_s: float) -> None:
        """Ask a shadow the same if the live version answered, or the predecessor if it failed.

        Args:
            asked: the question.
            reply: its answer.
            took_s: time from the request to Triton until the answer, seconds.
        """
        if reply.status == 200 and asked.shadow is not None:
            self._candidates.mirror(asked.model, asked.shadow, asked.headers, asked.body, reply, took_s)
        elif is_failure(reply):
            self._ask_predecessor(asked, timed_out=False)

    def late(self, asked: Question) -> None:
        """Ask the predecessor a question that the live version did not answer in time."""
        self._ask_predecessor(asked, timed_out=True)

    def _ask_predecessor(self, asked: Question, *, timed_out: bool) -> None:
        # The live version gets failed requests of other versions: they are no fair sample of its failures.
        if asked.more is None and asked.candidate is None and asked.before is None:
            self._predecessor.ask_again(asked.model, asked.headers, asked.body, timed_out=timed_out)
