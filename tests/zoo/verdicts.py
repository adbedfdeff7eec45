"""What became of each case, and ``docs/zoo.json``, from which the table in docs/models.md is made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ml_code.triton_deploy.repository.durable import replace_file

EQUAL = "equal"
"""Result of a way that gave ONNX Runtime's answer."""
NOT_CARRIED = "not carried: "
"""Begin of the result of a way that cannot carry the values; the reason follows."""
FILE = Path(__file__).parents[2] / "docs/zoo.json"


class Outcome(StrEnum):
    """What became of a case.

    A case counts as right when it is SERVED, or REFUSED as the case expects. LOCAL_FAILS, NOT_EXPORTED and
    UNAVAILABLE say nothing of the deployer, and do not count.
    """

    SERVED = "served"
    REFUSED = "refused"
    WRONG = "wrong"
    LOCAL_FAILS = "local fails"
    NOT_EXPORTED = "not exported"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one case.

    Attributes:
        name: of the case.
        group: of the case.
        outcome: see Outcome; a refusal that the case does not expect, or the lack of one that it expects,
            is WRONG, and so is an answer other than ONNX Runtime's.
        cause: why it is not served; empty where it is.
        ways: the result of each way to ask, by its name.
        took_s: seconds from the written file to the last answer.
    """

    name: str
    group: str
    outcome: Outcome
    cause: str = ""
    ways: Mapping[str, str] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether the case says something of the deployer."""
        return self.outcome in {Outcome.SERVED, Outcome.REFUSED, Outcome.WRONG}


def record(verdicts: Iterable[Verdict], file: Path = FILE) -> None:
    """Keep verdicts in place of those that an earlier run gave to the same cases; of the ways, those that are not EQUAL by name."""
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for verdict in verdicts:
        entry = asdict(verdict)
        group, name = entry.pop("group"), entry.pop("name")
        # Times differ from run to run, and would change the file for nothing.
        del entry["took_s"]
        entry["equal_ways"] = sum(said == EQUAL for said in verdict.ways.values())
        entry["ways"] = {way: said for way, said in verdict.ways.items() if said != EQUAL}
        known.setdefault(group, {})[name] = {key: value for key, value in entry.items() if value}
    replace_file(file, json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def forget_others(group: str, names: Iterable[str], file: Path = FILE) -> None:
    """Drop the cases of a group that it has no longer."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    keep = set(names)
    known[group] = {name: entry for name, entry in known.get(group, {}).items() if name in keep}
    replace_file(file, json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
