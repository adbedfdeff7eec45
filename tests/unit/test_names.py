"""Names that may become paths and URLs, and those that may not."""

import pytest

from ml_code.triton_deploy.errors import InvalidInput
from ml_code.triton_deploy.repository import origins, switch_config
from ml_code.triton_deploy.repository.origins import leftover_name
from ml_code.triton_deploy.rules.names import (
    MAX_VERSION,
    RESERVED_FILES,
    check_alias,
    check_deploy_id,
    check_model,
    check_version,
    deploy_id_for,
    ends_triton,
    is_version,
    needs_quoting,
    same_name,
    unfit_for_weights,
)
from ml_code.triton_deploy.rules.version_files import GOLDEN, MODEL_FILE, OPTIONS, SERVING_EXAMPLE, SMOKE_CASE


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


@pytest.mark.parametrize("value", [1, "1", 2**31 - 1, "2147483647", "0000000003"])
def test_versions(value: int | str) -> None:
    assert check_version(value) == int(value)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        2**31,
        10**30,
        "0",
        "-1",
        "+1",
        "2147483648",
        "9" * 5000,
        "1.0",
        " 1",
        "1\n",
        "",
        "³",
        "٣",
        None,
        1.0,
        True,
    ],
)
def test_what_is_no_version(value: int | str) -> None:
    with pytest.raises(InvalidInput, match="model version") as caught:
        check_version(value)
    assert "1 to 2147483647" in caught.value.hint
    assert len(caught.value.message) < 100


def test_a_directory_of_ours_is_a_version_and_ends_no_triton() -> None:
    for name in ("1", str(MAX_VERSION)):
        assert is_version(name)
        assert not ends_triton(name)
        assert not ends_triton(leftover_name(int(name), "9" * 100))
        assert not ends_triton(f"{name}.failed_20260102T030405")
    assert not any(map(is_version, ["0", "01", "2147483648", "1.failed_x", "", "9" * 21, "1\n"]))


@pytest.mark.parametrize(
    "name", ["9" * 19, "9" * 21, "9" * 21 + ".failed_x", "-" + "9" * 20, " +" + "9" * 20 + " copy"]
)
def test_names_that_end_triton(name: str) -> None:
    assert ends_triton(name)


@pytest.mark.parametrize(
    "name", ["9" * 18, ".9" + "9" * 20, "v" + "9" * 20, "20260102030405", "9" * 18 + "x9"]
)
def test_names_that_do_not(name: str) -> None:
    assert not ends_triton(name)


@pytest.mark.parametrize(
    "path",
    [
        "model.onnx.data",
        "weights.bin",
        "./w",
        "a/b//c.bin",
        "weights/manifest.json",
        "onnx__MatMul_1",
        "läyer::0",
        "my weights",
        "x" * 255,
    ],
)
def test_names_of_weights(path: str) -> None:
    assert unfit_for_weights(path) == ""


@pytest.mark.parametrize(
    ("path", "why"),
    [
        *((name, "the deployer's own") for name in sorted(RESERVED_FILES)),
        *((name.upper(), "the deployer's own") for name in sorted(RESERVED_FILES)),
        ("./manifest.json", "the deployer's own"),
        ("manifest.json/w.bin", "the deployer's own"),
        ("triton/w.bin", "the deployer's own"),
        ("Triton/w.bin", "the deployer's own"),
        ("\uff4danifest.json", "the deployer's own"),
        ("manife\u017ft.json", "the deployer's own"),
        ("manifest\u200b.json", "invisible"),
        ("w\n.bin", "invisible"),
        ("w\0", "invisible"),
        ("\ud800", "invisible"),
        (".w.bin", "hidden"),
        ("a/.b/w.bin", "hidden"),
        ("\uff0ew.bin", "hidden"),
        ("model.onnx ", "space"),
        (" w", "space"),
        ("w.", "dot at its end"),
        ("a./w", "dot at its end"),
        ("x" * 256, "too long"),
        ("ä" * 128, "too long"),
        ("x/" * 520 + "x", "too long"),
        ("", "outside"),
        (".", "outside"),
        ("/etc/passwd", "outside"),
        ("../w", "outside"),
        ("a/../../w", "outside"),
        ("a\\w", "outside"),
    ],
)
def test_what_is_no_name_of_weights(path: str, why: str) -> None:
    assert why in unfit_for_weights(path)


def test_all_that_the_deployer_writes_beside_a_model_is_reserved() -> None:
    ours = {
        MODEL_FILE,
        origins.MANIFEST,
        origins.FAILURE,
        SMOKE_CASE,
        switch_config.SWITCH_CONFIG,
        SERVING_EXAMPLE,
        *(path.partition("/")[0] for path in (GOLDEN, OPTIONS)),
    }
    assert ours == RESERVED_FILES
    assert {same_name(name) for name in ours} == ours
