"""The twists of a hostile MLflow and S3 in one case, each at one endpoint from one call on, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.support.servers.endless_twists import ENDLESS
from tests.support.servers.hostile_messages import Answer, Asked
from tests.support.servers.hostile_site import HostileSite
from tests.support.servers.mild_twists import MILD, MILD_JSON, MILD_OBJECTS, SOON, SOON_OBJECTS
from tests.support.servers.twisted_content import FOLDERS, MEMBERS, OBJECTS, PAGES, SIGNED, TOKENS
from tests.support.servers.twists import ANY, Play, Scene
from tests.support.servers.wire import Wire

FOR_EVER = 1 << 30
LIMIT_S = 1.0
"""Every limit of the settings in these cases, seconds."""
FILES = 2
"""Files of the version that are read: the model and its golden inputs."""
MODEL_BYTES, SLOWEST_BYTES_PER_S = 3_300_000, 1 << 19
"""The size of the first, and the rate below which a transfer is given up."""
TRANSFER = FILES + MODEL_BYTES / SLOWEST_BYTES_PER_S / LIMIT_S
"""How many limits the transfer of both can take."""

SITES: Mapping[str, Sequence[str]] = {
    "presigned": ("alias", "place", "run", "listing", "presigned", "object"),
    "proxied": ("alias", "place", "run", "listing", "presigned", "proxied"),
    "direct": ("alias", "place", "run", "s3-listing", "object"),
}
"""Where artifacts are, and which endpoints a deploy then needs."""
TOLD = ("search", "tag")
"""Endpoints that a deploy tells of its end: whatever they answer, the deploy has ended as it has."""

FIRSTS: Mapping[str, Sequence[int]] = {
    "listing": (1, 1, 1, 2, 3),
    "s3-listing": (1, 1, 1, 2),
    "presigned": (1, 1, 2),
    "object": (1, 1, 2, 3, 4, 5),
    "proxied": (1, 1, 2),
    "tag": (1, 1, 2),
    "experiments": (1, 1, 2),
}
"""From which call on something is done, at endpoints that are asked more than once."""

USUAL = (ANY, ENDLESS, MEMBERS)
GROUPS: Mapping[str, Sequence[Mapping[str, Play]]] = {
    "listing": (*USUAL, FOLDERS),
    "s3-listing": (*USUAL, PAGES),
    "object": (ANY, ENDLESS, OBJECTS, OBJECTS),
    "proxied": (ANY, ENDLESS, OBJECTS),
    "presigned": (*USUAL, SIGNED),
    "search": (*USUAL, TOKENS),
    "experiments": (*USUAL, TOKENS),
}
"""Which twists an endpoint may have; any other one has the usual ones."""
ALL: Mapping[str, Play] = {
    name: play
    for group in (
        ANY,
        ENDLESS,
        MEMBERS,
        FOLDERS,
        PAGES,
        OBJECTS,
        SIGNED,
        TOKENS,
        MILD,
        MILD_JSON,
        MILD_OBJECTS,
        SOON,
        SOON_OBJECTS,
    )
    for name, play in group.items()
}

ANSWERS_OF_A_DEPLOY: Mapping[str, float] = {
    "alias": 1,
    "place": 1,
    "run": 1,
    # Each as a whole three times the limit; the snapshot looks in two places, the transfer in one.
    "listing": 9,
    "s3-listing": 9,
    # One a file; a read that is refused asks once more.
    "presigned": 2 * FILES,
    # One try whether it can be reached; each file again when its URL expired.
    "object": 1 + 2 * TRANSFER,
    "proxied": 2 * TRANSFER,
    # At the end, and at the rollback.
    "search": 2,
    "tag": 2,
    "experiments": 6,
    "version": 2,
    "logged": 1,
}
"""How many limits an endpoint can cost that answers nothing, by the settings."""


@dataclass(frozen=True, kw_only=True)
class Twist:
    """A twist of answers.

    Attributes:
        where: the endpoint.
        kind: the twist; see twists.py and its neighbours.
        first: to which call of the endpoint it happens first.
        times: to how many from there on.
        every: to each one, or to each second one.
        seed: of what it chooses; with ``changes`` it chooses anew each time.
    """

    where: str
    kind: str
    first: int = 1
    times: int = FOR_EVER
    every: int = 1
    seed: int = 0
    changes: bool = False

    def hits(self, number: int) -> bool:
        """Whether the twist applies to the call of this number."""
        return 0 <= number - self.first < self.times * self.every and (number - self.first) % self.every == 0

    def __str__(self) -> str:
        times = "" if self.times == FOR_EVER else f", {self.times} times"
        every = "" if self.every == 1 else ", every second call"
        return f"{self.kind} at {self.where}, from call {self.first}{times}{every}, seed {self.seed}{' changing' * self.changes}"


@dataclass(frozen=True, kw_only=True)
class Hostility:
    """One case.

    Attributes:
        number: its number; with the seed of the run it says everything else.
        site: one of SITES.
        command: the command.
        token: a token goes to MLflow, not a user and password.
        digest: training recorded the digest of the version.
        twists: the twists.
        must_deploy: nothing of it is a reason to fail.
    """

    number: int
    site: str = "presigned"
    command: tuple[str, ...] = ("deploy",)
    token: bool = False
    digest: bool = True
    twists: tuple[Twist, ...] = ()
    must_deploy: bool = False

    @classmethod
    def of(cls, number: int, seed: int) -> Hostility:
        """Return the case of a number: of ten, one is healthy, and one is well again soon."""
        chance = random.Random(f"{seed} {number}")
        site = chance.choice(tuple(SITES))
        case = cls(number=number, site=site, token=chance.random() < 0.3, digest=chance.random() < 0.6)
        if number % 10 == 0:
            return case.having((), must_deploy=True)
        if number % 10 == 5:
            return case.having(_mild(chance, site), must_deploy=True)
        command = chance.choices(COMMANDS, WEIGHTS)[0]
        endpoints = (*SITES[site], *TOLD) if command[0] == "deploy" else ASKED_BY[command[0]]
        count = chance.choice((1, 1, 1, 2, 3))
        twists = tuple(_grim(chance, chance.choice(endpoints)) for _ in range(count))
        return case.having(twists, command=command)

    def having(
        self, twists: Sequence[Twist], *, must_deploy: bool = False, command: tuple[str, ...] = ("deploy",)
    ) -> Hostility:
        return Hostility(
            number=self.number,
            site=self.site,
            command=command,
            token=self.token,
            digest=self.digest,
            twists=tuple(twists),
            must_deploy=must_deploy,
        )

    @property
    def deadline_s(self) -> float:
        """By when the command has ended, as the settings have it: two seconds, and what each endpoint may cost that is not well, seconds."""
        wrong = {twist.where for twist in self.twists}
        return 2.0 + LIMIT_S * sum(ANSWERS_OF_A_DEPLOY[where] for where in wrong)

    def do(self, site: HostileSite, asked: Asked, answer: Answer, wire: Wire) -> bool:
        """See Hostile.do."""
        for twist in self.twists:
            if twist.where == asked.endpoint and twist.hits(asked.number):
                chance = random.Random(f"{twist.seed} {asked.number if twist.changes else 0}")
                ALL[twist.kind](Scene(site, asked, answer, wire, chance))
                return True
        return False

    def __str__(self) -> str:
        done = "; ".join(map(str, self.twists)) or "nothing"
        return f"case {self.number}: {' '.join(self.command)}, {self.site}{', token' * self.token}{', digest' * self.digest}: {done}"


COMMANDS = (("deploy",), ("deploy", "--dry-run"), ("status",), ("reconcile",), ("doctor",))
WEIGHTS = (80, 8, 4, 4, 4)
ASKED_BY = {
    "status": ("alias",),
    "reconcile": ("alias", "search", "tag"),
    "doctor": ("version", "logged", "experiments", "listing"),
}
"""Which endpoints the other commands ask."""


def _grim(chance: random.Random, where: str) -> Twist:
    kinds = chance.choice(GROUPS.get(where, USUAL))
    return Twist(
        where=where,
        kind=chance.choice(sorted(kinds)),
        first=chance.choice(FIRSTS.get(where, (1,))),
        times=chance.choice((FOR_EVER, FOR_EVER, FOR_EVER, 1, 2)),
        every=chance.choice((1, 1, 1, 2)),
        seed=chance.randrange(1 << 30),
        changes=chance.random() < 0.5,
    )


def _mild(chance: random.Random, site: str) -> list[Twist]:
    """Return what is no reason to fail: at endpoints that a deploy needs, or anything at those that it tells."""
    twists = [_mild_at(chance, where) for where in chance.sample(SITES[site], chance.choice((1, 2, 3)))]
    if chance.random() < 0.3:
        twists.append(_grim(chance, chance.choice(TOLD)))
    return twists


def _mild_at(chance: random.Random, where: str) -> Twist:
    if where == "object":
        kind = chance.choice(sorted({**MILD, **MILD_OBJECTS, **SOON, **SOON_OBJECTS}))
    elif where in ("s3-listing", "proxied"):
        kind = chance.choice(sorted({**MILD, **SOON}))
    else:
        kind = chance.choice(sorted({**MILD, **MILD_JSON, **SOON}))
    soon = kind in SOON or kind in SOON_OBJECTS
    # The first reading of an object is a try, which decides whether it is read from there.
    first = 2 if kind in SOON_OBJECTS else 1
    most = 1 if kind == "expired once" else 2
    return Twist(
        where=where,
        kind=kind,
        first=first,
        times=chance.randint(1, most) if soon else FOR_EVER,
        seed=chance.randrange(1 << 30),
        changes=chance.random() < 0.5,
    )
