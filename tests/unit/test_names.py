"""Names that may become paths and URLs, and those that may not."""

import pytest

from ml_code.triton_deploy.errors import InvalidInput
from ml_code.triton_deploy.names import (
    check_alias,
    check_deploy_id,
    check_model,
    deploy_id_for,
    needs_quoting,
)


@pytest.mark.parametrize("name", ["best_model", "m", "A-1", "_x", "x" * 100])
def test_model_names(name: str) -> None:
    assert check_model(name) == name


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a.v1", "-rf", "a b", "ä", "x\n", "x\0", "x" * 101, None, 7]
)
def test_what_is_no_model_name(name: str) -> None:
    with pytest.raises(InvalidInput, match="model name") as caught:
        check_model(name)
    assert "letters" in caught.value.hint


@pytest.mark.parametrize("alias", ["A", "champion", "v1x", "latest_one", "-x"])
def test_aliases(alias: str) -> None:
    assert check_alias(alias) == alias


@pytest.mark.parametrize("alias", ["", "latest", "LATEST", "v12", "V1", "a b", "a/b", "A\n"])
def test_what_mlflow_takes_for_no_alias(alias: str) -> None:
    with pytest.raises(InvalidInput, match="alias"):
        check_alias(alias)


@pytest.mark.parametrize("deploy_id", ["", ".", "..", ".hidden", "a/b", "a b", "x" * 121])
def test_what_is_no_deploy_id(deploy_id: str) -> None:
    with pytest.raises(InvalidInput):
        check_deploy_id(deploy_id)


@pytest.mark.parametrize(
    "run_id", ["manual__2026-01-02T03:04:05.678+00:00", "../../etc", "", "x" * 300, "läuft"]
)
def test_every_run_id_gives_a_deploy_id(run_id: str) -> None:
    assert check_deploy_id(deploy_id_for(run_id)) == deploy_id_for(run_id)


def test_run_ids_that_look_alike_are_kept_apart() -> None:
    assert deploy_id_for("a:b") != deploy_id_for("a+b")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/mnt/my models", "a space"),
        ("/mnt/a b\tc'd", "'\\t', a space, \"'\""),
        ("/mnt/$x;y", "'$', ';'"),
        ("/mnt/models-1.0_a+b@c%d,e=f", ""),
        ("/home/jürgen", ""),
    ],
)
def test_what_a_shell_does_not_read_as_it_stands_is_named(path: str, named: str) -> None:
    assert needs_quoting(path) == named
