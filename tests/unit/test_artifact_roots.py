"""Which places files may be read from: what MLflow hands out by default, nothing in S3 unless it is named, by whole parts of a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ml_code.triton_deploy.clients import artifacts
from ml_code.triton_deploy.clients.artifacts import store_for
from ml_code.triton_deploy.doctor.mlflow import ArtifactsCheck, Experiment
from ml_code.triton_deploy.doctor.s3 import S3Check
from ml_code.triton_deploy.errors import DeployError, Misconfigured
from ml_code.triton_deploy.rules.artifact_roots import ArtifactRoots
from ml_code.triton_deploy.rules.locations import parse_place
from ml_code.triton_deploy.settings import Settings
from ml_code.triton_deploy.upkeep.initialize import InitRequest, initialize
from tests.support.settings import changed

ALLOWED = [
    ((), "mlflow-artifacts:/1/r/artifacts/model", True),
    ((), "mlflow-artifacts://host:5000/1/r", True),
    ((), "s3://bucket/1/r/artifacts/model", False),
    (("s3://bucket",), "s3://bucket/1/r", True),
    (("s3://bucket",), "s3://bucket", True),
    (("s3://bucket",), "s3://bucket2/1/r", False),
    (("s3://bucket",), "s3://Bucket/1/r", False),
    (("s3://bucket",), "mlflow-artifacts:/1/r", True),
    (("s3://bucket/a",), "s3://bucket/a", True),
    (("s3://bucket/a/",), "s3://bucket/a/b", True),
    (("s3://bucket/a",), "s3://bucket/ab", False),
    (("s3://bucket/a",), "s3://bucket/A/b", False),
    (("s3://bucket/a",), "s3://bucket", False),
    (("s3://bucket/a",), "s3://bucket/b/a/c", False),
    (("s3://bucket/a/b",), "s3://bucket/a/b/c", True),
    (("s3://bucket/a", "s3://other"), "s3://other/x", True),
    (("mlflow-artifacts:/team",), "mlflow-artifacts:/team/1/r", True),
    (("mlflow-artifacts:/team",), "mlflow-artifacts:/teams/1/r", False),
    (("mlflow-artifacts:/team",), "mlflow-artifacts:/1/r", False),
    (("mlflow-artifacts:/team",), "mlflow-artifacts://host/team/r", True),
    (("mlflow-artifacts:/team",), "s3://bucket/team", False),
    (("mlflow-artifacts:/",), "mlflow-artifacts:/1", True),
]


@pytest.mark.parametrize(("roots", "place", "allowed"), ALLOWED)
def test_a_place_is_allowed_below_a_root_alone(roots: tuple[str, ...], place: str, allowed: bool) -> None:
    assert ArtifactRoots.parse(roots).allow(parse_place(place)) is allowed


PARTS = st.text(alphabet="ab.%-", min_size=1, max_size=4)


@given(st.lists(PARTS, min_size=1, max_size=4), st.lists(PARTS, min_size=1, max_size=4))
# A name that begins with the root's: chance finds it in some runs alone.
@example(["a"], ["ab"])
def test_a_place_is_below_a_root_when_its_parts_begin_with_the_roots(
    root: list[str], place: list[str]
) -> None:
    try:
        roots = ArtifactRoots.parse([f"s3://b/{'/'.join(root)}"])
        where = parse_place(f"s3://b/{'/'.join(place)}")
    except DeployError:
        return
    assert roots.allow(where) is (place[: len(root)] == root)


@pytest.mark.parametrize(
    ("uri", "roots", "line"),
    [
        ("s3://hr/payroll/2026", (), "TRITON_DEPLOY_ARTIFACT_ROOTS=s3://hr/payroll "),
        ("s3://hr", (), "TRITON_DEPLOY_ARTIFACT_ROOTS=s3://hr "),
        ("s3://hr/x", ("s3://ml",), "TRITON_DEPLOY_ARTIFACT_ROOTS=s3://ml,s3://hr/x "),
        (
            "mlflow-artifacts:/9/r",
            ("mlflow-artifacts:/team",),
            "TRITON_DEPLOY_ARTIFACT_ROOTS=mlflow-artifacts:/team,mlflow-artifacts:/9 ",
        ),
    ],
)
def test_another_place_is_refused_with_the_line_to_set_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, uri: str, roots: tuple[str, ...], line: str
) -> None:
    def asked(*_: Any) -> None:
        raise AssertionError("a store was made")

    monkeypatch.setattr(artifacts, "S3Store", asked)
    monkeypatch.setattr(artifacts, "ProxiedStore", asked)
    with pytest.raises(Misconfigured, match=f"The artifacts are at {uri}, ") as caught:
        store_for(
            uri, changed(Settings(), transfer__artifact_roots=roots, mlflow__tracking_uri="http://mlflow")
        )
    assert line in caught.value.hint


def test_a_place_that_cant_be_read_from_here_is_told_as_that() -> None:
    with pytest.raises(Misconfigured, match="only the machine that logged them"):
        store_for("file:///srv/1", Settings())


def test_the_doctor_names_experiments_whose_versions_would_be_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {"a": "mlflow-artifacts:/1", "b": "s3://bucket/b", "c": "s3://bucket/c"}
    found = [Experiment(name, at, parse_place(at)) for name, at in places.items()]
    check = ArtifactsCheck(changed(Settings(), transfer__artifact_roots=("s3://bucket/b",)))
    [warned] = [one for one in check._roots(found) if one.fix]
    assert "'c' at s3://bucket/c" in warned.what
    assert "'b'" not in warned.what
    assert "TRITON_DEPLOY_ARTIFACT_ROOTS=s3://bucket/b,s3://bucket/c" in warned.fix
    # No keys are needed for what is not read.
    monkeypatch.setattr("ml_code.triton_deploy.doctor.s3.experiments_of", lambda settings: found)
    [unneeded] = S3Check(Settings()).look()
    assert "no keys are needed" in unneeded.what


def test_init_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ml_code.triton_deploy.upkeep.initialize._all", lambda settings, request: [])
    request = InitRequest(bucket="bucket", proxied="m", direct="m-direct")
    [step] = initialize(Settings(), request, dry_run=True)
    assert step.to_set == "TRITON_DEPLOY_ARTIFACT_ROOTS=s3://bucket/m-direct"
    assert (
        list(
            initialize(changed(Settings(), transfer__artifact_roots=("s3://bucket",)), request, dry_run=True)
        )
        == []
    )
    [more] = initialize(changed(Settings(), transfer__artifact_roots=("s3://other",)), request, dry_run=True)
    assert more.to_set == "TRITON_DEPLOY_ARTIFACT_ROOTS=s3://other,s3://bucket/m-direct"
    assert list(initialize(Settings(), InitRequest(bucket="", proxied="m", direct=""), dry_run=True)) == []
