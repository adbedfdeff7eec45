"""Models run in a process of their own: what a bad one can do there, what it can't, and what a good one answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ml_code.triton_deploy.errors import ArtifactRejected, Misconfigured, Unavailable
from ml_code.triton_deploy.model import derived_case, onnx_model, reference, reference_process
from ml_code.triton_deploy.model.derived_case import derive_case
from ml_code.triton_deploy.model.reference import ModelProcess
from ml_code.triton_deploy.model.reference_frames import HEAD_BYTES, Reader, TooLarge, packed
from ml_code.triton_deploy.model.reference_limits import Limits, ModelFailed
from ml_code.triton_deploy.model.smoke_case import SmokeCase
from ml_code.triton_deploy.rules.datatypes import NUMPY_TYPES
from ml_code.triton_deploy.rules.machine_faults import machine_fault
from tests.support.models import external, times, unknown_operator
from tests.support.signing import declared

QUICK = Limits(timeout_s=2.0)
"""For models that end at once or never."""


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, list[Any]]],
    outputs: Mapping[str, tuple[int, list[Any]]],
    constants: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """A model of some nodes, with element type and shape of each tensor."""

    def tensors(named: Mapping[str, tuple[int, list[Any]]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, element, shape) for name, (element, shape) in named.items()
        ]

    kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", tensors(inputs), tensors(outputs), kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def endless() -> onnx.ModelProto:
    """A Loop of 2^62 turns."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["sum", "one"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["b", 2]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, ["b", 2]),
        ],
    )
    return model_of(
        [helper.make_node("Loop", ["turns", "yes", "x"], ["y"], body=body)],
        {"x": (TensorProto.FLOAT, ["b", 2])},
        {"y": (TensorProto.FLOAT, ["b", 2])},
        {"turns": np.int64(2**62), "yes": np.bool_(True), "one": np.float32(1)},
    )


def vast(elements: int, *, answered: bool) -> onnx.ModelProto:
    """A tensor of so many numbers, which is the answer or is summed up for it."""
    shape: list[Any] = ["n"] if answered else []
    last = helper.make_node("ReduceSum", ["all"], ["sum"], keepdims=0)
    return model_of(
        [
            helper.make_node("ConstantOfShape", ["size"], ["all"]),
            *([] if answered else [last]),
            helper.make_node("Add", ["all" if answered else "sum", "x"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, [1])},
        {"y": (TensorProto.FLOAT, shape or [1])},
        {"size": np.array([elements], np.int64)},
    )


def written(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def derived(file: Path, example: Any = None, limits: Limits | None = None) -> SmokeCase:
    """What the deployer makes of a model without golden inputs."""
    schema = onnx_model.inspect(file, max_opset=99, max_ir_version=99, sign=declared)
    return derive_case(file, schema, None if example is None else json.dumps(example), limits)


def processes() -> set[int]:
    """Children of this process that run models, and zombies."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, parent = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue
        if parent == os.getpid() and (b"reference_child" in command or not command):
            found.add(pid)
    return found


def seen_children(seconds: float = 10.0) -> set[int]:
    """Wait for such a child to come up."""
    deadline = time.monotonic() + seconds
    while not (found := processes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test that fails leaves no process to the others."""
    yield
    for pid in processes():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# What a bad model can't do


def test_a_model_that_never_ends_is_stopped_at_its_deadline(tmp_path: Path) -> None:
    file = written(tmp_path, endless())
    started = time.monotonic()
    with pytest.raises(ArtifactRejected, match="not ended after 1 s, and was stopped") as refused:
        derived(file, limits=Limits(timeout_s=1.0))
    assert time.monotonic() - started < 20
    assert "triton/golden.json" in refused.value.hint
    assert "raise TRITON_DEPLOY_REFERENCE_TIMEOUT_S" in refused.value.hint
    assert processes() == set()


def test_a_declared_input_that_is_too_large_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = [1, 3_000_000_000]
    file = written(
        tmp_path,
        model_of(
            [helper.make_node("Identity", ["x"], ["y"])],
            {"x": (TensorProto.DOUBLE, shape)},
            {"y": (TensorProto.DOUBLE, shape)},
        ),
    )
    monkeypatch.setattr(derived_case, "ModelProcess", None)
    with pytest.raises(ArtifactRejected, match=r"3000000000 elements.*x FP64\[1, 3000000000\]") as refused:
        derived(file)
    assert "triton/golden.json" in refused.value.hint


def test_the_elements_of_all_generated_inputs_count_together(tmp_path: Path) -> None:
    most = derived_case.MOST_GENERATED // 2 + 1
    names = ("a", "b")
    file = written(
        tmp_path,
        model_of(
            [helper.make_node("Concat", list(names), ["y"], axis=0)],
            {name: (TensorProto.INT8, [most]) for name in names},
            {"y": (TensorProto.INT8, [2 * most])},
        ),
    )
    with pytest.raises(ArtifactRejected, match=f"have {2 * most} elements"):
        derived(file)


def test_a_model_that_asks_for_all_memory_is_told_the_limit(tmp_path: Path) -> None:
    file = written(tmp_path, vast(10**10, answered=False))
    with pytest.raises(ArtifactRejected, match=f"more memory than the {4 << 30} bytes") as refused:
        derived(file)
    assert "TRITON_DEPLOY_REFERENCE_MEMORY_BYTES" in refused.value.hint


def test_the_limit_of_memory_is_that_of_the_setting(tmp_path: Path) -> None:
    file = written(tmp_path, vast(200 << 20, answered=False))
    with pytest.raises(ArtifactRejected, match=f"more memory than the {600 << 20} bytes"):
        derived(file, limits=Limits(memory_bytes=600 << 20))
    assert derived(file, limits=Limits(memory_bytes=3 << 30)).outputs["y"].shape == (1,)


def test_the_smallest_limit_of_memory_is_enough_for_a_small_model(tmp_path: Path) -> None:
    limits = Limits(memory_bytes=512 << 20)
    assert derived(written(tmp_path, times(2.0)), limits=limits).source == "generated"


def test_an_answer_that_is_too_large_is_refused_with_its_size(tmp_path: Path) -> None:
    file = written(tmp_path, vast(1000, answered=True))
    with pytest.raises(ArtifactRejected, match="answers with 4000 bytes, more than the 3999"):
        derived(file, limits=replace(QUICK, output_bytes=3999))
    assert derived(file, limits=replace(QUICK, output_bytes=4000)).outputs["y"].size == 1000


def test_what_onnx_runtime_says_is_told(tmp_path: Path) -> None:
    file = written(tmp_path, unknown_operator())
    with pytest.raises(ArtifactRejected, match=r"ONNX Runtime can't load the model: .*Nonsense"):
        derived(file)


def test_a_missing_file_of_weights_is_told(tmp_path: Path) -> None:
    model, data = external("weights.bin")
    (tmp_path / "weights.bin").write_bytes(data)
    file = written(tmp_path, model)
    schema = onnx_model.inspect(file, max_opset=99, max_ir_version=99, sign=declared)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ArtifactRejected, match=r"weights\.bin"):
        derive_case(file, schema, None)


def normalizer(locale: str) -> onnx.ModelProto:
    """Small letters, by the rules of a locale."""
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", locale=locale)
    text = {"x": (TensorProto.STRING, ["n"])}
    return model_of([node], text, {"y": text["x"]})


def test_a_locale_that_this_machine_lacks_is_not_held_against_the_model(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Failed to construct locale with name:no_WHERE") as failed:
        derived(written(tmp_path, normalizer("no_WHERE.UTF-8")))
    assert "locale-gen" in failed.value.hint
    assert derived(written(tmp_path, normalizer("C"))).outputs["y"].tolist() == [""]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : Load model from /m/model.onnx failed:system error number 24", "open files"),
        ("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: pthread_create failed", "threads"),
        ("[ONNXRuntimeError] : 1 : FAIL : libgomp.so.1: cannot open shared object file: No such file or directory", "Install that library"),
        ("[Errno 28] No space left on device", "disk"),
        # A name that a model brings decides nothing.
        ("[ONNXRuntimeError] : 1 : FAIL : Node (Failed to construct locale with name:) Op (X) is wrong", ""),
        ("[ONNXRuntimeError] : 10 : INVALID_GRAPH : libgomp.so.1: cannot open shared object file", ""),
    ],
)  # fmt: skip
def test_what_onnx_runtime_says_of_the_machine_blames_no_model(said: str, remedy: str) -> None:
    fault = machine_fault(said)
    assert (fault is None) == (not remedy)
    if fault:
        assert remedy in fault.hint
        assert not fault.blames_artifact


def test_without_onnx_runtime_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen
    program = "raise ImportError('libgomp.so.1: cannot open shared object file')"
    monkeypatch.setattr(
        subprocess, "Popen", lambda argv, **options: start([sys.executable, "-I", "-c", program], **options)
    )
    with pytest.raises(Misconfigured, match=r"can't be imported here.*libgomp\.so\.1") as failed:
        derived(written(tmp_path, times(2.0)))
    assert "Install what it names" in failed.value.hint


# A process that ends


def test_a_crash_of_the_process_is_the_models(tmp_path: Path) -> None:
    with ModelProcess(written(tmp_path, endless()), Limits()) as model:
        threading.Timer(0.3, os.kill, (model.pid, signal.SIGSEGV)).start()
        with pytest.raises(ModelFailed, match="its process crashed with SIGSEGV"):
            model.run({"x": np.ones((1, 2), np.float32)})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_somebody_else_ended_says_nothing_of_the_model(
    tmp_path: Path, number: signal.Signals
) -> None:
    file = written(tmp_path, endless())
    threading.Thread(target=lambda: [os.kill(pid, number) for pid in seen_children()]).start()
    with pytest.raises(Unavailable) as ended:
        derived(file)
    assert processes() == set()
    assert not ended.value.blames_artifact


def test_what_the_process_wrote_last_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_is(
        monkeypatch, "import sys; print('x' * 9999, '\\x1b[31m\\nlast words', file=sys.stderr); sys.exit(3)"
    )
    with pytest.raises(ModelFailed) as failed:
        ModelProcess(written(tmp_path, times(2.0)), QUICK)
    assert failed.value.what.endswith("x [31m last words")
    assert "exit code 3" in failed.value.what
    assert len(failed.value.what) < 2 * reference_process.STDERR_BYTES


@pytest.mark.parametrize(
    "answer",
    [
        "b'[]'",
        "json.dumps({'arrays': [{'name': 'y'}]}).encode()",
        "b'{\"a\"'",
        'b\'{"arrays": [], "too_large": "x"}\'',
    ],
)
def test_a_process_that_a_model_took_over_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    say = f"text = {answer}; os.write(1, struct.pack('<QQ', len(text), 0) + text)"
    child_is(monkeypatch, f"import json, os, struct, sys; {say}; sys.stdin.buffer.read()")
    with pytest.raises(ModelFailed, match="nonsense"):
        ModelProcess(written(tmp_path, times(2.0)), QUICK)


def test_a_process_that_stops_answering_and_goes_on_writing_holds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_process, "_GRACE_S", 0.1)
    child_is(monkeypatch, "os.close(1)\nwhile True: os.write(2, b'e' * 99999)")
    with pytest.raises(ModelFailed, match="answers no more; it wrote last: eee"):
        ModelProcess(written(tmp_path, times(2.0)), QUICK)


def test_a_process_that_floods_the_deployer_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_is(
        monkeypatch,
        "import os, struct; os.write(1, struct.pack('<QQ', 2, 1 << 40)); os.write(2, b'e' * 99999)",
    )
    with pytest.raises(ModelFailed, match=f"{1 << 40} bytes, more than"):
        ModelProcess(written(tmp_path, times(2.0)), QUICK)


def test_a_process_that_does_not_come_up_is_the_machines_affair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(Unavailable, match="No process can be started"):
        derived(written(tmp_path, times(2.0)))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match=r"did not come up: .*exit code 1"):
        derived(written(tmp_path, times(2.0)))
    monkeypatch.undo()
    monkeypatch.setattr(reference, "START_TIMEOUT_S", 0.01)
    with pytest.raises(Unavailable, match=r"did not come up: not within 0\.01 s"):
        derived(written(tmp_path, times(2.0)))


def child_is(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let the process come up, and then be another one than ours."""
    start, ready = subprocess.Popen, packed({"ready": True}, {})
    begin = f"import os; os.write(1, {b''.join(ready)!r}); os.read(0, 1)\n"

    def popen(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-I", "-c", begin + program], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)


# What the process has of the deployer


def test_the_process_has_no_secret_no_file_and_no_way_to_write_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "secret").open("w") as kept, ModelProcess(written(tmp_path, times(2.0)), QUICK) as model:
        os.set_inheritable(kept.fileno(), True)
        proc = Path("/proc", str(model.pid))
        environment = proc.joinpath("environ").read_bytes()
        names = {entry.partition(b"=")[0].decode() for entry in environment.split(b"\0")} - {""}
        places = {os.readlink(fd) for fd in proc.joinpath("fd").iterdir()}
        limits = proc.joinpath("limits").read_text()
        assert names <= {
            *("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH"),
            *("PYTHONPATH", "MALLOC_ARENA_MAX", "OPENBLAS_NUM_THREADS", "ORT_DISABLE_TELEMETRY"),
        }
        assert b"hidden" not in environment
        assert os.readlink(proc / "cwd") == "/"
        assert {place.partition(":")[0] for place in places} == {"pipe"}
        assert os.getpgid(model.pid) == model.pid != os.getpgid(0)
        assert proc.joinpath("oom_score_adj").read_text().strip() == "1000"
    soft = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()}
    assert soft["Max core file size"] == soft["Max file size"] == "0"
    assert soft["Max address space"] == str(QUICK.memory_bytes)
    assert 60 < int(soft["Max cpu time"]) < 1000


def test_a_file_name_in_the_folder_of_the_deployer_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    assert derived(written(tmp_path, times(2.0))).source == "generated"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
def test_a_signal_gets_through_to_who_waits_and_the_process_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Airflow's time limit of a task is a signal handler that raises."""

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError("of somebody else")

    before = signal.signal(number, late)
    file = written(tmp_path, endless())
    threading.Timer(1.5, os.kill, (os.getpid(), number)).start()
    started = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match="of somebody else"):
            derived(file)
    finally:
        signal.signal(number, before)
    assert time.monotonic() - started < 20
    assert processes() == set()


def test_the_process_does_not_outlive_a_deployer_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, numpy; from pathlib import Path; from ml_code.triton_deploy.model.reference import *\n"
        "model = ModelProcess(Path(sys.argv[1]), Limits()); print(model.pid, flush=True)\n"
        "model.run({'x': numpy.ones((1, 2), 'f4')})"
    )
    argv = [sys.executable, "-c", program, str(written(tmp_path, endless()))]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, cwd=Path(reference.__file__).parents[2]
    ) as parent:
        assert parent.stdout is not None
        child = Path("/proc", parent.stdout.readline().strip())
        # Until it is asked, it would end with its input.
        before_run = processor_ticks(child)
        while processor_ticks(child) < before_run + 20:
            time.sleep(0.05)
        parent.kill()
    deadline = time.monotonic() + 10
    while computes(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    outlived = computes(child)
    if outlived:
        os.kill(int(child.name), signal.SIGKILL)
    assert not outlived


def computes(proc: Path) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return proc.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processor_ticks(proc: Path) -> int:
    """Time that a process computed, hundredths of a second."""
    return int(proc.joinpath("stat").read_text().rpartition(")")[2].split()[11])


# What a good model answers


def same(element: int, shape: list[Any]) -> onnx.ModelProto:
    return model_of(
        [helper.make_node("Identity", ["x"], ["y"])], {"x": (element, shape)}, {"y": (element, shape)}
    )


MANY = model_of(
    [
        helper.make_node("Add", ["a", "a"], ["twice"]),
        helper.make_node("Cast", ["a"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["a"], ["text"], to=TensorProto.STRING),
        helper.make_node("Not", ["b"], ["not_b"]),
        helper.make_node("ReduceSum", ["a"], ["sum"], keepdims=0),
        helper.make_node("Shape", ["a"], ["shape"]),
    ],
    {"a": (TensorProto.DOUBLE, ["n", 3]), "b": (TensorProto.BOOL, [])},
    {
        "twice": (TensorProto.DOUBLE, ["n", 3]),
        "half": (TensorProto.FLOAT16, ["n", 3]),
        "text": (TensorProto.STRING, ["n", 3]),
        "not_b": (TensorProto.BOOL, []),
        "sum": (TensorProto.DOUBLE, []),
        "shape": (TensorProto.INT64, [2]),
    },
)


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (MANY, None),
        (MANY, {"inputs": {"a": [[1, 2, 3], [4, 5, 6.5]], "b": True}}),
        (same(TensorProto.STRING, ["n", 1]), None),
        (same(TensorProto.STRING, ["n"]), {"inputs": ["", "ä\n\0", "🙂" * 99, "a", 7, None, 1.5]}),
        (same(TensorProto.STRING, ["n"]), {"inputs": []}),
        (same(TensorProto.FLOAT, [0, 2]), None),
        (same(TensorProto.UINT64, []), {"inputs": 2**64 - 1}),
        (same(TensorProto.FLOAT, ["n"]), {"inputs": [-0.0, 1e-45, 3e38]}),
        *(
            (same(getattr(TensorProto, name), ["n", 2]), None)
            for name, datatype in onnx_model.DATATYPES.items()
            if datatype in NUMPY_TYPES
        ),
    ],
)
def test_a_case_is_the_same_as_if_the_model_ran_here(
    tmp_path: Path, model: onnx.ModelProto, example: Any
) -> None:
    file = written(tmp_path, model)
    case = derived(file, example)
    assert case.source == ("generated" if example is None else "input_example")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert list(case.outputs) == names
    for name, answer in zip(names, session.run(names, dict(case.inputs)), strict=True):
        assert case.outputs[name].dtype == answer.dtype
        np.testing.assert_array_equal(case.outputs[name], answer)


def test_weights_beside_the_model_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = external("weights.bin", factor=5.0)
    (tmp_path / "weights.bin").write_bytes(data)
    written(tmp_path, model)
    monkeypatch.chdir(tmp_path)
    case = derived(Path("model.onnx"))
    np.testing.assert_allclose(case.outputs["y"], 5 * case.inputs["x"])


def test_an_output_that_triton_has_no_type_for_is_refused(tmp_path: Path) -> None:
    model = model_of(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
        {"x": (TensorProto.FLOAT, ["n"])},
        {"y": (TensorProto.BFLOAT16, ["n"])},
    )
    with pytest.raises(ArtifactRejected, match="BFLOAT16") as refused:
        derived(written(tmp_path, model))
    assert "Put a Cast from and to FLOAT" in refused.value.hint


def test_a_process_answers_again_and_again_and_measures_itself(tmp_path: Path) -> None:
    with ModelProcess(written(tmp_path, times(3.0)), QUICK, threads=1) as model:
        for rows in (1, 7):
            x = np.full((rows, 2), rows, np.float32)
            np.testing.assert_array_equal(model.run({"x": x}, ["y"])["y"], 3 * x)
        model.hold({"x": np.ones((1, 2), np.float32)})
        assert all(0 < model.measure() < 1 for _ in range(3))
        with pytest.raises(ModelFailed, match="z"):
            model.run({"z": np.ones((1, 2), np.float32)})
        assert model.run({"x": np.ones((1, 2), np.float32)})["y"].shape == (1, 2)


def test_inputs_that_are_larger_than_a_pipe_arrive(tmp_path: Path) -> None:
    x = np.arange(2 << 20, dtype=np.float32).reshape(-1, 2)
    with ModelProcess(written(tmp_path, times(2.0)), Limits()) as model:
        np.testing.assert_array_equal(model.run({"x": x})["y"], 2 * x)


# Frames


def read(data: bytes, limit_bytes: int = 1 << 20) -> Any:
    reader = Reader(limit_bytes)
    while missing := reader.missing_bytes:
        part, data = data[:missing], data[missing:]
        reader.feed(part[:3] or b"?")
        data = part[3:] + data
    return reader.frame()


def test_a_frame_reads_back_in_small_parts() -> None:
    arrays = {"a": np.ones((2, 0, 3)), "b": np.array([["x"], ["ä"]], np.object_), "c": np.array(True)}
    frame = read(b"".join(packed({"ask": 1}, arrays)))
    assert frame.head["ask"] == 1
    for name, array in arrays.items():
        np.testing.assert_array_equal(frame.arrays[name], array)
        assert frame.arrays[name].dtype == array.dtype


def test_a_frame_that_is_too_large_is_known_from_its_first_bytes() -> None:
    data = b"".join(packed({}, {"a": np.ones(100)}))
    reader = Reader(799)
    reader.feed(data[:16])
    with pytest.raises(TooLarge, match="800"):
        _ = reader.missing_bytes
    head = Reader(799)
    head.feed((HEAD_BYTES + 1).to_bytes(8, "little") + bytes(8))
    with pytest.raises(TooLarge):
        _ = head.missing_bytes


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        ("dtype", "object"),
        ("dtype", "O8"),
        ("shape", [3]),
        ("shape", [-2]),
        ("shape", [True, 2]),
        ("shape", 2),
        ("bytes", 7),
        ("bytes", "16"),
        ("name", ["a"]),
        ("dtype", "int32"),
    ],
)
def test_a_frame_that_contradicts_itself_is_refused(what: str, wrong: Any) -> None:
    parts = packed({}, {"a": np.array([1.5, 2.5])})
    head = json.loads(parts[1])
    head["arrays"][0][what] = wrong
    text = json.dumps(head).encode()
    with pytest.raises(ValueError, match=r"."):
        read(len(text).to_bytes(8, "little") + (16).to_bytes(8, "little") + text + parts[2])
