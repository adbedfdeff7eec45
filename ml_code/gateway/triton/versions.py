"""Which version answers a request, and what is to be learnt from its answer.

Most requests the live version answers. A candidate has its share before it is committed, and the version before may keep one after.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from ..http.exchange import Exchange
from .candidates import Candidate, Candidates
from .pool import Reply
from .predecessor import Predecessor
from .upstream import Tritons, is_failure


@dataclass(slots=True, kw_only=True)
class Question:
    """A request as Triton gets it, and who is to answer it.

    Attributes:
        model: public model name.
        path: where the live version is asked.
        headers: as for Tritons.ask.
        body: the body, or its beginning.
        more: the rest of a body that is not held; only the live version can be asked that.
        candidate: the candidate that is to answer; live answers what it does not.
        shadow: the candidate that is to be asked the same after live.
        before: the version before, if that is to answer; live answers what it does not.
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
    """Asks the version whose turn it is.

    Args:
        tritons: the servers.
        candidates: share in the traffic before they are committed.
        predecessor: the version that was live before.
    """

    def __init__(self, tritons: Tritons, candidates: Candidates, predecessor: Predecessor) -> None:
        self._tritons = tritons
        self._candidates = candidates
        self._predecessor = predecessor

    def question(self, model: str, exchange: Exchange, headers: bytes, body: bytes) -> Question:
        """Return the question of a request that any version may answer; its body is held, so that live can be asked the same.

        Args:
            model: public model name.
            exchange: says which client asks.
            headers: as for Tritons.ask.
            body: the whole body.
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
        """Ask other versions the same, in nobody's name: a shadow what live answered, the version before what live failed on.

        Args:
            asked: the question.
            reply: its answer.
            took_s: how long Triton took for it, seconds.
        """
        if reply.status == 200 and asked.shadow is not None:
            self._candidates.mirror(asked.model, asked.shadow, asked.headers, asked.body, reply, took_s)
        elif is_failure(reply):
            self._ask_again(asked, timed_out=False)

    def late(self, asked: Question) -> None:
        """Ask the version before what live did not answer in time. While the gateway stops, nothing is asked."""
        self._ask_again(asked, timed_out=True)

    def _ask_again(self, asked: Question, *, timed_out: bool) -> None:
        # What live got because another version had failed on it is no fair sample of what live fails on.
        if asked.more is None and asked.candidate is None and asked.before is None:
            self._predecessor.ask_again(asked.model, asked.headers, asked.body, timed_out=timed_out)
