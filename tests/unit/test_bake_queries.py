"""The file of queries that a user may edit."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_code.triton_deploy.errors import Misconfigured
from ml_code.triton_deploy.watch.canary_judge import QUERIES as CANARY
from ml_code.triton_deploy.watch.queries import DEFAULT, Queries, Span

SOURCE = """
[sources.mine]
requests = 'sum(increase(hits{model="$model"}[$window] $offset))'
failures = 'vector(0)'
latency_s = 'scalar(x{version="$version"})'
"""


def read(folder: Path, text: str) -> Queries:
    path = folder / "queries.toml"
    path.write_text(text)
    return Queries.read(path)


def test_the_shipped_queries_are_for_the_gateway_and_for_triton() -> None:
    assert set(Queries.read().sources) == {"gateway", "triton"}
    assert Queries.read().checks == ()


def test_shipped_sources_count_neither_refusals_nor_a_failure_twice() -> None:
    sources = {**Queries.read().sources, **Queries.read(CANARY).sources}
    for source in ("gateway", "canary"):
        assert 'outcome!~"busy|refused|gone"' in sources[source]["requests"], "a flood must not hide failures"
        assert "busy" not in sources[source]["failures"]
    assert sources["triton"]["failures"].endswith("/ 2")
    assert sources["triton"]["beyond"] == "gateway"


def test_the_example_in_the_shipped_file_is_right(tmp_path: Path) -> None:
    text = DEFAULT.read_text()
    example = text[text.index("# [[checks]]") :].replace("# ", "")
    (check,) = read(tmp_path, text + example).checks
    assert (check.name, check.limit) == ("rows refused by the shop", 0.5)


def test_places_are_filled(tmp_path: Path) -> None:
    queries = read(tmp_path, SOURCE).sources["mine"]
    now, before = Span("m", 13, 120), Span("m", 12, 60, offset_s=3600)
    assert now.fill(queries["requests"]) == 'sum(increase(hits{model="m"}[120s] ))'
    assert before.fill(queries["requests"]) == 'sum(increase(hits{model="m"}[60s] offset 3600s))'
    assert before.fill(queries["latency_s"]) == 'scalar(x{version="12"})'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "nothing could be judged"),
        ("[sources", "can't be read"),
        ("[source.x]\n", "neither 'sources' nor 'checks'"),
        ("[sources.x]\nrequests='1'\n", "[sources.x] has to have requests, failures, latency_s"),
        (SOURCE + "p99 = 'x'", "and nothing else"),
        (SOURCE + "clients = 'x'", "has to have both of clients and clients_failed, or none"),
        (
            SOURCE + "load = '$rows'",
            "[sources.mine] load: $rows is none of $model, $offset, $version, $window",
        ),
        (SOURCE + "beyond = 'gateway'", "[sources.mine] beyond: 'gateway' is no source above it"),
        (SOURCE.replace("$version", "$verson"), "$verson is none of $model, $offset, $version, $window"),
        (SOURCE.replace('"$model"', '"$"'), "'$$' for one"),
        (SOURCE.replace("'vector(0)'", "0"), "[sources.mine] failures: the query has to be text"),
        (SOURCE + "[[checks]]\nname='a'\nquery='b'\n", "[[checks]] number 1 has to have name, query and max"),
        (SOURCE + "[[checks]]\nname='a'\nquery='b'\nmax='5'\n", "max has to be a number"),
        (SOURCE + "[[checks]]\nname='a'\nquery='b'\nmax=nan\n", "max has to be a number"),
        (SOURCE + "[[checks]]\nname=''\nquery='b'\nmax=1\n", "its name has to be text"),
        ("checks = 1\n" + SOURCE, "[[checks]]"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        read(tmp_path, text)
    assert complaint in raised.value.message
    assert str(tmp_path / "queries.toml") in raised.value.message


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="can't be read"):
        Queries.read(tmp_path / "none.toml")
