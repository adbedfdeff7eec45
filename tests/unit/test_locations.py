"""Whatever text comes as a location: it is taken apart once, printed back the same, and never leads out of its root."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ml_code.triton_deploy.errors import InvalidInput
from ml_code.triton_deploy.rules.locations import (
    AliasRef,
    Foreign,
    ForeignPlace,
    Location,
    LoggedModelRef,
    ProxyPlace,
    RunPlace,
    S3Place,
    VersionRef,
    not_from_here,
    parse,
    parse_place,
)

KNOWN: dict[str, Location] = {
    "s3://bucket/a/b": S3Place("bucket", "a/b"),
    "s3://bucket": S3Place("bucket"),
    "s3://bucket/a/": S3Place("bucket", "a"),
    "S3://bucket/a#b?c": S3Place("bucket", "a#b?c"),
    "s3://bucket/with space/é": S3Place("bucket", "with space/é"),
    "mlflow-artifacts:/1/models/m-1/artifacts": ProxyPlace("1/models/m-1/artifacts"),
    "mlflow-artifacts:///1/x": ProxyPlace("1/x"),
    "mlflow-artifacts://mlflow:5000/1/x": ProxyPlace("1/x", "mlflow:5000"),
    "runs:/abc123/model": RunPlace("abc123", "model"),
    "runs:/abc123": RunPlace("abc123"),
    "models:/best_model@champion": AliasRef("best_model", "champion"),
    "models:/best_model/3": VersionRef("best_model", 3),
    "models:/best_model/2147483647": VersionRef("best_model", 2**31 - 1),
    "models:/m-0123abcd": LoggedModelRef("m-0123abcd"),
    "models:/m-0123abcd/3": VersionRef("m-0123abcd", 3),
    **{
        text: ForeignPlace(kind, text)
        for text, kind in {
            "file:///srv/mlruns/1": Foreign.FILE_URL,
            "file:/srv/mlruns/1": Foreign.FILE_URL,
            "file://host/srv/1": Foreign.FILE_URL,
            "file:///E:/mlruns/1": Foreign.WINDOWS_URL,
            "file:///e%3A/mlruns/1": Foreign.WINDOWS_URL,
            "file://E:\\mlruns": Foreign.WINDOWS_URL,
            "E:\\mlruns\\1": Foreign.WINDOWS_DRIVE,
            "e:/mlruns/1": Foreign.WINDOWS_DRIVE,
            "E:mlruns": Foreign.WINDOWS_DRIVE,
            "\\\\server\\share\\1": Foreign.WINDOWS_SHARE,
            "mlruns\\1": Foreign.BACKSLASHES,
            "/srv/mlruns/1": Foreign.ABSOLUTE,
            "./mlruns/1": Foreign.RELATIVE,
            "mlruns/1": Foreign.RELATIVE,
            "dbfs:/x": Foreign.OTHER_STORE,
            "gs://b/x": Foreign.OTHER_STORE,
        }.items()
    },
}


@pytest.mark.parametrize("text", KNOWN)
def test_a_location_is_what_mlflow_means_by_it(text: str) -> None:
    assert parse(text) == KNOWN[text]
    assert parse(str(KNOWN[text])) == KNOWN[text]


HOSTILE = [
    "",
    " ",
    "s3:/bucket/a",
    "s3:///a",
    "s3://../a",
    "s3://user:secret@host/a",
    "s3://bucket/a/../../b",
    "s3://bucket/%2e%2e/b",
    "s3://bucket/%252e%252E/b",
    "s3://bucket/a%2f..%2fb",
    "s3://bucket/1\\model",
    "s3://bucket/a\x00b",
    "s3://bucket/a%00b",
    "s3://bucket/a\nb",
    "mlflow-artifacts:/1/../../etc",
    "mlflow-artifacts:/1/%2e%2e/etc",
    "mlflow-artifacts://a b/1",
    "mlflow-artifacts://user@host/1",
    "runs:/",
    "runs:/../x",
    "runs:/abc/../../x",
    "models:/",
    "models:/best_model",
    "models:/best_model/Production",
    "models:/best_model/0",
    "models:/best_model@",
    "models:/../3",
    "models:/..@A",
    "models:/a/b/3",
    "file:///srv\x00/1",
    "/srv/\udc80",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_could_mean_another_place_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a location of artifacts") as failure:
        parse(text)
    assert failure.value.hint


NASTY = st.sampled_from(
    [
        "..",
        ".",
        "%2e%2e",
        "%2E.",
        "%252e%252e",
        "%2f",
        "\\",
        "/",
        "//",
        "\x00",
        "%00",
        "a",
        "b c",
        "é",
        "@",
        ":",
        "%",
    ]
)
SCHEMES = st.sampled_from(
    [
        "s3://",
        "s3://bucket/",
        "mlflow-artifacts:/",
        "mlflow-artifacts://host/",
        "runs:/",
        "runs:/r/",
        "models:/",
        "file:",
        "file:///",
        "E:\\",
        "E:/",
        "",
        "/",
        "x:",
    ]
)
ANY_TEXT = st.one_of(
    st.text(max_size=40),
    st.builds(
        lambda scheme, parts: scheme + "/".join(parts),
        SCHEMES,
        st.lists(NASTY | st.text(max_size=6), max_size=5),
    ),
)


def inner_path(location: Location) -> str | None:
    """What a store would open below its root."""
    match location:
        case S3Place(_, path) | RunPlace(_, path):
            return path
        case ProxyPlace():
            return location.path
    return None


def stays_inside(path: str) -> bool:
    for _ in range(5):
        if "\x00" in path or "\\" in path or posixpath.isabs(path):
            return False
        if not posixpath.normpath(posixpath.join("/root/in", path)).startswith("/root/in"):
            return False
        path = unquote(path)
    return True


@given(ANY_TEXT)
@example("s3://bucket/%25252e%25252e/x")
def test_any_text_is_refused_or_stays_inside_and_prints_back(text: str) -> None:
    try:
        location = parse(text)
    except InvalidInput:
        return
    assert parse(str(location)) == location
    path = inner_path(location)
    assert path is None or stays_inside(path)


PLACES = st.sampled_from([place for place in KNOWN.values() if isinstance(place, S3Place | ProxyPlace)])


@given(PLACES, st.lists(NASTY | st.text(max_size=8), min_size=1, max_size=4).map("/".join))
def test_a_path_below_a_place_never_leaves_it(place: S3Place | ProxyPlace, path: str) -> None:
    try:
        child = place.child(path)
    except InvalidInput:
        return
    root, below = inner_path(place), inner_path(child)
    assert root is not None
    assert below is not None
    assert below == root or below.startswith(f"{root}/" if root else "")
    assert stays_inside(below)
    assert parse(str(child)) == child


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "%2e%2e/x", "a\\b", "a\x00"])
@pytest.mark.parametrize("place", ["s3://b/k", "mlflow-artifacts:/1", "file:///srv/1"])
def test_a_path_that_leads_out_of_a_place_is_refused(place: str, path: str) -> None:
    with pytest.raises(InvalidInput):
        parse_place(place).child(path)


def test_what_only_mlflow_can_look_up_is_no_place_of_files() -> None:
    for text in ("runs:/abc/model", "models:/m/3", "models:/m@A", "models:/m-1"):
        with pytest.raises(InvalidInput, match="not a place of files"):
            parse_place(text)


def test_a_child_of_a_windows_path_is_written_as_windows_does() -> None:
    assert str(parse_place("E:\\mlruns\\1").child("onnx/x")) == "E:\\mlruns\\1\\onnx\\x"
    assert str(parse_place("file:///E:/mlruns").child("onnx")) == "file:///E:/mlruns/onnx"


@pytest.mark.parametrize("text", [text for text, place in KNOWN.items() if isinstance(place, ForeignPlace)])
def test_a_place_that_cant_be_read_says_its_kind_and_what_to_do(text: str) -> None:
    place = parse(text)
    assert isinstance(place, ForeignPlace)
    error = not_from_here(place)
    assert text in error.message
    assert place.kind.value in error.message
    assert "--artifacts-destination" in error.hint
