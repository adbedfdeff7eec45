"""The tables that users bring, and the ways in which they are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_code import train_model
from ml_code.training import split
from ml_code.training.errors import DataError
from ml_code.training.request import TrainingRequest
from ml_code.training.trained import fingerprint
from ml_code.training.trainer import train
from tests.support.lazily import lazily
from tests.support.servers.plain import answer, dripping, path_of, plain_server, sent

registration = lazily("ml_code.training.registration")
tables = lazily("ml_code.training.table")

FLOWERS = "colour,petal,stem\n" + "".join(
    f"{'red' if row % 2 else 'blue'},{row % 2 + row / 1000},{row % 7}\n" for row in range(120)
)


def written(folder: Path, content: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def classify(location: str, **options: Any) -> Any:
    return train(TrainingRequest(options={"data": location, "target": "colour", **options}))


def test_a_table_with_named_classes_is_learned_and_the_names_are_kept(tmp_path: Path) -> None:
    trained = classify(written(tmp_path, FLOWERS))
    assert trained.metrics["test_accuracy"] == 1
    assert trained.params["classes"] == "blue, red"
    assert trained.held_out.inputs["features"].shape[1:] == (2,)
    # blue is 0: its petal is below 1.
    np.testing.assert_array_equal(trained.held_out.target, trained.held_out.inputs["features"][:, 0] >= 1)
    assert trained.parity.holds(1e-4)


def test_the_fingerprint_follows_the_data_and_not_the_file(tmp_path: Path) -> None:
    lines = FLOWERS.splitlines()
    same = "\r\n".join([lines[0], *(line.replace(",0.", ",00.") for line in lines[1:])]) + "\r\n"
    other = FLOWERS.replace("0.002", "0.0020001", 1)
    found = [
        classify(written(tmp_path, text, f"{number}.csv")).data_sha256
        for number, text in enumerate((FLOWERS, same, other))
    ]
    assert found[0] == found[1] != found[2]


def test_the_fingerprint_tells_names_types_and_shapes_apart() -> None:
    ones = np.ones(4)
    given = [
        {"a": ones},
        {"b": ones},
        {"a": ones.reshape(2, 2)},
        {"a": ones.astype(np.float32)},
        {"a": ones, "b": ones},
    ]
    assert len({fingerprint(data) for data in given}) == len(given)
    assert fingerprint({"a": ones, "b": ones}) == fingerprint({"b": ones.copy(), "a": ones.copy()})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "", "is no CSV file"),
        (lambda text: b"\xff\xfe\x00\x01", "is no CSV file"),
        (lambda text: text + "red,1,2,3,4\n", "is no CSV file"),
        (lambda text: text.splitlines()[0], "has no rows"),
        (lambda text: text.replace("colour", "color", 1), "has no column 'colour'"),
        (lambda text: text.replace(",0.002,", ",,", 1), "column 'petal', row 3: an empty cell or NaN (1 such rows)"),
        (lambda text: text.replace(",0.002,", ",NaN,", 1), "column 'petal', row 3: an empty cell or NaN"),
        (lambda text: text.replace(",0.002,", ",inf,", 1), "column 'petal', row 3: "),
        (lambda text: text.replace(",0.002,", ",1e39,", 1), "column 'petal', row 3: "),
        (lambda text: text.replace(",0.002,", ",tall,", 1), "column 'petal', row 3: 'tall' is no finite number"),
        (lambda text: text.replace("red", ""), "column 'colour', row 2: no class (60 such rows)"),
        (lambda text: text.replace("red", "blue"), "not two classes"),
        (lambda text: "".join(text.splitlines(keepends=True)[:9]), "too few rows: "),
        (lambda text: "".join(f"{line.split(',')[0]}\n" for line in text.splitlines()), "no column beside 'colour'"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_learned_from_is_refused_with_column_and_row(
    tmp_path: Path, change: Any, says: str
) -> None:
    with pytest.raises(DataError) as refusal:
        classify(written(tmp_path, change(FLOWERS)))
    assert says in str(refusal.value)
    assert refusal.value.hint


def test_a_file_that_is_not_there_or_of_another_scheme_is_refused(tmp_path: Path) -> None:
    for location, says in (
        (str(tmp_path / "none.csv"), "No such file"),
        (str(tmp_path), "Is a directory"),
        ("https://example.org/table.csv", "https:// is not known"),
        ("s3://bucket", "names no object"),
        ("s3://bucket/", "names no object"),
    ):
        with pytest.raises(DataError, match=says):
            tables().read_table(location)


def test_a_table_in_s3_is_read_and_what_is_no_table_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setenv("TRITON_DEPLOY_TRANSFER_TIMEOUT_S", "0.5")
    denied = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    says = {
        "right": answer(200, b"a,b\n1,2\n"),
        "denied": answer(403, denied),
        "cut": sent(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\na,b\n1,2\n"),
        "slow": dripping(b"1" * 100, 0.2, after=b"HTTP/1.1 200 OK\r\n\r\n"),
    }
    with plain_server(lambda request: says[path_of(request).rpartition("/")[2]]) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        assert tables().read_table("s3://bucket/right").to_dict("list") == {"a": [1], "b": [2]}
        for name, why in (
            ("denied", "answers 403, AccessDenied: no"),
            ("cut", "ended after 8 of 999 bytes|broke the connection off"),
            ("slow", "comes too slowly"),
        ):
            with pytest.raises(DataError, match=why) as refusal:
                tables().read_table(f"s3://bucket/{name}")
            assert "Signature" not in str(refusal.value)


def test_refused_data_exits_with_5_and_nothing_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published: list[object] = []
    monkeypatch.setattr(registration(), "select_experiment", lambda *_: None)
    monkeypatch.setattr(registration(), "publish", lambda *given: published.append(given))
    location = written(tmp_path, FLOWERS)
    arguments = ["--tracking-uri", "http://127.0.0.1:1", "--data", location, "--target"]
    assert train_model.main([*arguments, "size"]) == 5
    assert "has no column 'size'\nhint: It has 'colour', 'petal', 'stem'" in capsys.readouterr().err
    assert published == []


@pytest.mark.parametrize(
    ("times", "row"),
    [
        (["2026-01-01", "2026-01-02T00:00", "2026-01-02T00:00:01+00:00"], 0),
        (["1", "2.5", "30"], 0),
        (["2026-01-01", "2026-01-03", "2026-01-02"], 3),
        (["1", "1", "2"], 2),
        (["2026-01-01", "", "2026-01-03"], 2),
        (["soon", "2026-01-01", "2026-01-02"], 1),
    ],
)
def test_times_have_to_ascend(tmp_path: Path, times: list[str], row: int) -> None:
    table = tables().read_table(
        written(tmp_path, "\n".join(["time,close", *(f"{time},1" for time in times)]))
    )
    if not row:
        tables().need_ascending(table, "time", "the table")
    else:
        with pytest.raises(DataError, match=f"the table, column 'time', row {row}: .* is no time after"):
            tables().need_ascending(table, "time", "the table")


def test_numbers_come_in_the_order_asked_for(tmp_path: Path) -> None:
    table = tables().read_table(written(tmp_path, "a,b,c\n1,x,3.5\n2,y,-4e2\n"))
    np.testing.assert_array_equal(tables().numbers(table, ["c", "a"], "t"), [[3.5, 1], [-400, 2]])


def test_every_class_has_to_be_in_every_part() -> None:
    parts = split.Split(np.array([0, 1, 2]), np.array([3, 4]), np.array([5, 6]))
    split.check_classes(parts, np.array([0, 1, 1, 0, 1, 0, 1]))
    with pytest.raises(DataError, match="the validation part has none of class 0, which has 2 of 7 rows"):
        split.check_classes(parts, np.array([0, 1, 1, 1, 1, 0, 1]))
