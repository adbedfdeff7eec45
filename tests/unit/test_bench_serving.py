"""What the benchmarks of servers ask, and what they make of the answers."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bench import local_backend
from bench.http_load import Round, Target, as_series, measure, post
from bench.process_tree import memory_bytes, resident_bytes, tree

ROUNDS = {
    "ours": [Round(10.0, [1.0, 2.0, 3.0]), Round(20.0, [5.0] * 200)],
    "theirs": [Round(40.0, [1.0, 1.0])] * 2,
}


def test_a_request_says_how_long_its_body_is() -> None:
    assert post("/predict", b"{}", {"X-Kind": "a"}) == (
        b"POST /predict HTTP/1.1\r\nHost: bench\r\nX-Kind: a\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_every_target_has_a_series_a_column_with_a_value_a_round() -> None:
    series = as_series("1 conn.", ROUNDS, baseline="theirs", percentiles=(50, 99))
    assert [(one.name, one.unit, one.baseline) for one in series] == [
        ("1 conn.: ours, requests", "/s", "1 conn.: theirs, requests"),
        ("1 conn.: theirs, requests", "/s", ""),
        ("1 conn.: ours, p50", "ms", "1 conn.: theirs, p50"),
        ("1 conn.: theirs, p50", "ms", ""),
        ("1 conn.: ours, p99", "ms", "1 conn.: theirs, p99"),
        ("1 conn.: theirs, p99", "ms", ""),
    ]
    assert series[0].values == (10.0, 20.0)
    assert series[2].values == (2.0, 5.0)


def test_without_the_baseline_nothing_is_compared() -> None:
    alone = as_series("1 conn.", {"ours": ROUNDS["ours"]}, baseline="theirs", percentiles=())
    assert [one.baseline for one in alone] == [""]


async def _ask_one_that_answers(answer: bytes, connections: int = 1) -> tuple[Round, list[bytes]]:
    request, asked = post("/predict", b"{}"), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while question := await reader.read(len(request)):
            asked.append(question)
            # In two writes: the client has to put the answer together.
            writer.write(answer[:-1])
            await writer.drain()
            await asyncio.sleep(0.005)
            writer.write(answer[-1:])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await measure(Target(f"127.0.0.1:{port}", request), connections, 0.05), asked


def test_every_answer_is_counted_when_it_is_whole() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nyes!"
    measured, asked = asyncio.run(_ask_one_that_answers(answer, connections=2))
    assert len(measured.latencies_ms) == len(asked) >= 2
    assert min(measured.latencies_ms) >= 5
    assert set(asked) == {post("/predict", b"{}")}


def test_a_refusal_ends_the_measurement() -> None:
    answer = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nlate"
    with pytest.raises(RuntimeError, match="429 Too Many"):
        asyncio.run(_ask_one_that_answers(answer))


def test_memory_is_what_the_kernel_says_of_a_process() -> None:
    assert resident_bytes("Rss:  900 kB\nPss_Dirty:  3 kB\nPss:   812 kB\n") == 812 * 1024
    with pytest.raises(ValueError, match="no Pss"):
        resident_bytes("")


def test_memory_is_that_of_all_processes_below() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "1\n"
        pids = tree(parent.pid)
        assert len(pids) == 2
        assert pids[0] == parent.pid
        assert memory_bytes(parent.pid) > memory_bytes(pids[1]) > 0
        parent.communicate("\n")


def test_a_server_that_ends_at_its_start_is_reported_with_what_it_said(tmp_path: Path) -> None:
    server = local_backend.Server(
        command=[sys.executable, "-c", "raise SystemExit('no such model')"],
        environment={},
        port=9,
        path="/predict",
        body=b"{}",
        log=tmp_path / "log",
    )
    with pytest.raises(RuntimeError, match="no such model"), server:
        pass


def test_other_answers_than_the_others_are_not_measured() -> None:
    ours = {"outputs": {"label": [1], "probabilities": [[0.25, 0.75]]}}
    local_backend.check_same_answer(ours, {"predictions": {"label": [1], "probabilities": [[0.25, 0.75]]}})
    with pytest.raises(RuntimeError, match="label differs"):
        local_backend.check_same_answer(ours, {"predictions": {"label": [0]}})
