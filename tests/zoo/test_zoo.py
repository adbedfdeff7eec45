"""The whole zoo, a group a test: every model is deployed and asked in five ways. Run with ``-m soak``; writes docs/zoo.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.zoo import GROUPS, cases_of
from tests.zoo.enclosure import Enclosure, enclosure
from tests.zoo.verdicts import Outcome, forget_others, record

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.fixture
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclosure]:
    """A Triton and a gateway for one group: a gateway keeps the name of every model that it has seen."""
    with enclosure(tmp_path_factory.mktemp("zoo")) as running:
        yield running


@pytest.mark.parametrize("group", GROUPS)
def test_what_onnx_runtime_serves_we_serve(group: str, zoo: Enclosure) -> None:
    cases = cases_of(group)
    assert len({case.model for case in cases}) == len(cases)
    verdicts = []
    for case in cases:
        verdicts.append(zoo.judge(case))
        record(verdicts[-1:])
    forget_others(group, [case.name for case in cases])
    wrong = [f"{v.name}: {v.cause}" for v in verdicts if v.outcome == Outcome.WRONG]
    assert not wrong, "\n".join(wrong)
    missing = [f"{v.name}: {v.cause}" for v in verdicts if v.outcome == Outcome.UNAVAILABLE]
    assert not missing, "\n".join(missing)
    seen = Counter(verdict.outcome for verdict in verdicts)
    if group == "sklearn_estimators":
        assert seen[Outcome.SERVED] >= 0.99 * (seen[Outcome.SERVED] + seen[Outcome.REFUSED]), seen
