"""Servers that break off, slow down, replace what they hand out, or answer something else: what becomes of one file."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ml_code.triton_deploy.clients import http, transfer_pace
from ml_code.triton_deploy.clients.http import SilentServer
from ml_code.triton_deploy.clients.http.tls import Trust
from ml_code.triton_deploy.clients.sources import Source
from ml_code.triton_deploy.clients.transfer import RESTARTS, Transfer
from ml_code.triton_deploy.errors import AccessDenied, DeployError, Misconfigured, NotFound, Unavailable
from ml_code.triton_deploy.settings import Settings
from tests.support.servers.scripted_store import Said, ScriptedStore, scripted_store, within
from tests.support.settings import changed

MIB = 1 << 20
SIZE = 4 * MIB + 5
CONTENT, OTHER = os.urandom(SIZE), os.urandom(SIZE)
TIMEOUT_S = 0.8
"""Of tests that run into it; all others have time, however busy the machine is."""


@pytest.fixture
def store() -> Iterator[ScriptedStore]:
    with scripted_store(CONTENT) as store:
        yield store


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_pace, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(transfer_pace, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(http, "PAUSES_S", ())


class Reader:
    """Reads the object of a store into a file."""

    def __init__(self, store: ScriptedStore, folder: Path) -> None:
        self.store, self.target = store, folder / "model.onnx"
        self.progress: list[int] = []
        self.at_once = 0

    def source(self, path: str = "/model.onnx", *, ranged: bool = True, **fields: object) -> Source:
        kind = Trust("s3") if ranged else Trust("mlflow")
        return replace(Source(self.store.url + path, "S3 at s3", ranged, trust=kind), **fields)  # type: ignore[arg-type]

    def read(self, source: Source | None = None, size: int = SIZE, **settings: object) -> str:
        given = {"transfer__timeout_s": 30.0, "transfer__range_bytes": MIB, "transfer__streams": 3}
        transfer = Transfer(changed(Settings(), **(given | settings)))  # type: ignore[arg-type]
        return transfer.fetch(source or self.source(), self.target, size, self._told)

    def read_right(self, source: Source | None = None, **settings: object) -> None:
        assert self.read(source, **settings) == hashlib.sha256(CONTENT).hexdigest()
        assert self.target.read_bytes() == CONTENT
        assert sum(self.progress) == SIZE

    def _told(self, count: int) -> None:
        self.at_once += 1
        assert self.at_once == 1, "one thread at a time"
        self.progress.append(count)
        self.at_once -= 1


@pytest.fixture
def reader(store: ScriptedStore, tmp_path: Path) -> Reader:
    return Reader(store, tmp_path)


# All of it is of one object


def replaced_after(number: int, *, etag: bool = True, honest: bool = False) -> Callable[[Said], None]:
    """From the given request on the store holds another object of the same size."""

    def twist(said: Said) -> None:
        if not etag:
            said.headers.pop("ETag", None)
        if said.number <= number:
            return
        said.headers["ETag" if etag else "Last-Modified"] = '"second"'
        start = int(said.asked["Range"].removeprefix("bytes=").split("-")[0])
        said.body = OTHER[start : start + len(said.body)]
        if honest and said.asked.get("If-Match") == '"first"':
            said.refuse(412)

    return twist


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("etag", [True, False], ids=["ETag", "Last-Modified"])
@pytest.mark.parametrize("honest", [True, False], ids=["412", "answers all the same"])
def test_an_object_that_is_replaced_meanwhile_is_refused(
    reader: Reader, number: int, etag: bool, honest: bool
) -> None:
    reader.store.twist = replaced_after(number, etag=etag, honest=honest)
    with pytest.raises(Unavailable, match="was replaced on S3 at s3 while it was read"):
        reader.read()
    assert len(reader.store.asked) <= 5 + 3, "it is not asked for again"


def test_the_rest_of_a_broken_range_is_of_the_same_object(reader: Reader) -> None:
    def twist(said: Said) -> None:
        if said.number == 1:
            said.cut_at = MIB
        else:
            replaced_after(1)(said)

    reader.store.twist = twist
    with pytest.raises(Unavailable, match="was replaced"):
        reader.read(transfer__range_bytes=SIZE)


def test_each_request_after_the_first_answer_names_what_it_wants_the_rest_of(reader: Reader) -> None:
    reader.read_right()
    conditions = [asked.get("If-Match") for asked in reader.store.asked]
    assert conditions == [None, *['"first"'] * 4]


def test_last_modified_will_do(reader: Reader) -> None:
    reader.store.twist = lambda said: said.headers.update(ETag='W/"first"')
    reader.read_right()
    assert [a.get("If-Unmodified-Since") for a in reader.store.asked][1:] == [reader.store.modified] * 4


@pytest.mark.parametrize("range_bytes", [MIB, SIZE], ids=["many ranges", "one range"])
def test_what_nothing_tells_apart_is_read_in_one_stream(reader: Reader, range_bytes: int) -> None:
    def twist(said: Said) -> None:
        del said.headers["ETag"], said.headers["Last-Modified"]

    reader.store.twist = twist
    reader.read_right(transfer__range_bytes=range_bytes)
    assert "Range" not in reader.store.asked[-1]


def test_a_server_without_ranges_is_read_in_one_stream(reader: Reader) -> None:
    def twist(said: Said) -> None:
        said.status, said.body = 200, CONTENT
        said.headers = {"ETag": '"first"', "Content-Length": str(SIZE)}

    reader.store.twist = twist
    reader.read_right()
    assert "Range" not in reader.store.asked[-1]


# A transfer goes on where it was


@pytest.mark.parametrize("streams", [1, 3])
def test_bytes_of_a_broken_range_are_kept(reader: Reader, streams: int) -> None:
    reader.store.twist = lambda said: setattr(said, "cut_at", 300_000)
    reader.read_right(transfer__range_bytes=2 * MIB, transfer__streams=streams)
    asked = sum(min(end - start, 300_000) for start, end in reader.store.ranges)
    assert asked == SIZE, "no byte is sent twice"


def test_a_server_may_answer_with_a_part_of_the_range(reader: Reader) -> None:
    def twist(said: Said) -> None:
        start, end = (int(each) for each in said.asked["Range"].removeprefix("bytes=").split("-"))
        end = min(end, start + 400_000 - 1)
        said.body = CONTENT[start : end + 1]
        said.headers |= {
            "Content-Range": f"bytes {start}-{end}/{SIZE}",
            "Content-Length": str(len(said.body)),
        }

    reader.store.twist = twist
    reader.read_right()


def test_an_overloaded_server_is_asked_again_and_gets_pauses(reader: Reader) -> None:
    asked_s: list[float] = []

    def twist(said: Said) -> None:
        asked_s.append(time.monotonic())
        if said.number <= 12:
            said.refuse(503, b"<Error><Code>SlowDown</Code></Error>")

    reader.store.twist = twist
    reader.read_right(transfer__streams=1)
    assert asked_s[12] - asked_s[0] > 12 * 0.02


def test_a_server_that_stays_overloaded_is_given_up_with_what_it_said(reader: Reader) -> None:
    reader.store.twist = lambda said: said.refuse(503, b"<Error><Code>SlowDown</Code></Error>")
    # On a busy machine the time may be over before the last answer was read to its end.
    with (
        within(2 * TIMEOUT_S + 5),
        pytest.raises(Unavailable, match=r"failed to hand out the artifact: \(503\)"),
    ):
        reader.read(transfer__timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("asked_s", ["3600", "99999999999999999999", "Fri, 31 Dec 2126 23:59:59 GMT", "soon"])
def test_a_server_that_asks_for_hours_gets_the_limit(reader: Reader, asked_s: str) -> None:
    def twist(said: Said) -> None:
        if said.number <= 2:
            said.refuse(503, **{"Retry-After": asked_s})

    reader.store.twist = twist
    with within(2 * TIMEOUT_S + 5):
        reader.read_right(transfer__timeout_s=TIMEOUT_S)


def test_a_stream_without_ranges_begins_again(reader: Reader) -> None:
    def twist(said: Said) -> None:
        said.cut_at = MIB if said.number <= RESTARTS else None

    reader.store.twist = twist
    reader.read_right(reader.source(ranged=False))
    assert len(reader.store.asked) == RESTARTS + 1


def test_a_stream_that_always_breaks_is_given_up(reader: Reader) -> None:
    reader.store.twist = lambda said: setattr(said, "cut_at", MIB)
    with pytest.raises(Unavailable, match="broke the connection off"):
        reader.read(reader.source(ranged=False))
    assert len(reader.store.asked) == RESTARTS + 1
    assert sum(reader.progress) <= SIZE


def test_a_stream_of_unknown_length_that_ends_early_begins_again(reader: Reader) -> None:
    def twist(said: Said) -> None:
        said.headers.pop("Content-Length")
        said.cut_at = MIB if said.number == 1 else None

    reader.store.twist = twist
    reader.read_right(reader.source(ranged=False))


# Slow servers


@pytest.mark.parametrize("ranged", [True, False], ids=["ranges", "stream"])
def test_drops_are_no_transfer(reader: Reader, ranged: bool) -> None:
    def twist(said: Said) -> None:
        said.piece_bytes, said.pause_s = 100, 0.02

    reader.store.twist = twist
    with within(2 * TIMEOUT_S + 5), pytest.raises(Unavailable, match="sends too slowly") as failure:
        reader.read(reader.source(ranged=ranged), transfer__timeout_s=TIMEOUT_S)
    assert not isinstance(failure.value, SilentServer)
    assert "TRITON_DEPLOY_TRANSFER_MIN_BYTES_PER_S" in failure.value.hint


@pytest.mark.parametrize("ranged", [True, False], ids=["ranges", "stream"])
def test_a_server_that_stops_in_the_middle_is_silent(reader: Reader, ranged: bool) -> None:
    def twist(said: Said) -> None:
        said.piece_bytes, said.pause_s = 200_000, 60

    reader.store.twist = twist
    with (
        within(2 * TIMEOUT_S + 5),
        pytest.raises(SilentServer, match="did not answer in time"),
    ):
        reader.read(reader.source(ranged=ranged), transfer__timeout_s=TIMEOUT_S)


def test_a_slow_line_is_no_slow_server(reader: Reader) -> None:
    """It takes longer than the longest silence."""

    def twist(said: Said) -> None:
        said.piece_bytes, said.pause_s = 250_000, 0.1

    reader.store.twist = twist
    began_s = time.monotonic()
    reader.read_right(transfer__timeout_s=TIMEOUT_S)
    assert time.monotonic() - began_s > TIMEOUT_S


def test_one_stream_that_hangs_is_asked_for_again_while_others_go_on(reader: Reader) -> None:
    def twist(said: Said) -> None:
        if said.number == 2:
            said.piece_bytes, said.pause_s = 1000, 60
        else:
            said.piece_bytes, said.pause_s = 100_000, 0.06

    reader.store.twist = twist
    reader.read_right(transfer__timeout_s=TIMEOUT_S)
    assert len(reader.store.asked) == 6


def test_a_stream_that_fails_ends_the_others(reader: Reader) -> None:
    def twist(said: Said) -> None:
        if said.number == 3:
            said.refuse(404)
        else:
            said.piece_bytes, said.pause_s = 10_000, 0.05

    reader.store.twist = twist
    with within(10), pytest.raises(NotFound):
        reader.read(transfer__timeout_s=30.0)


# Presigned URLs that expire


EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"


class Signer:
    """Hands out addresses that are good for so many requests."""

    def __init__(self, reader: Reader, good_for: int) -> None:
        self.reader, self.good_for = reader, good_for
        self.made = 0
        self.used: dict[str, int] = {}
        self.lock = threading.Lock()
        reader.store.twist = self.twist

    def source(self) -> Source:
        self.made += 1
        return self.reader.source(
            f"/model.onnx?key={self.made}&X-Amz-Signature=secret-{self.made}", renew=self.source
        )

    def twist(self, said: Said) -> None:
        with self.lock:
            self.used[said.url] = self.used.get(said.url, 0) + 1
            if self.used[said.url] > self.good_for:
                said.refuse(403, EXPIRED)


def test_an_address_that_expired_is_asked_for_again(reader: Reader) -> None:
    signer = Signer(reader, good_for=2)
    reader.read_right(signer.source(), transfer__streams=1)
    assert signer.made == 3, "five ranges"


def test_streams_that_are_refused_together_ask_for_one_new_address(reader: Reader) -> None:
    signer = Signer(reader, good_for=3)
    reader.read_right(signer.source(), transfer__range_bytes=MIB, transfer__streams=5)
    assert signer.made == 2


def test_a_new_address_that_is_refused_as_well_is_denied(reader: Reader) -> None:
    signer = Signer(reader, good_for=0)
    with pytest.raises(AccessDenied, match="Request has expired") as failure:
        reader.read(signer.source(), transfer__streams=1)
    assert signer.made == 2
    assert "clocks agree" in failure.value.hint


def test_an_address_that_may_not_be_used_is_not_asked_for_again(reader: Reader) -> None:
    signer = Signer(reader, good_for=9)
    reader.store.twist = lambda said: said.refuse(403, b"<Error><Code>AccessDenied</Code></Error>")
    with pytest.raises(AccessDenied):
        reader.read(signer.source(), transfer__streams=1)
    assert signer.made == len(reader.store.asked) == 1


def test_what_was_in_s3_may_have_to_come_from_mlflow(reader: Reader) -> None:
    signer = Signer(reader, good_for=2)
    source = replace(signer.source(), renew=lambda: reader.source("/by-mlflow", ranged=False))
    reader.read_right(source, transfer__streams=1)
    assert "/by-mlflow" in signer.used


def test_signers_that_do_not_answer_are_asked_again(reader: Reader) -> None:
    signer = Signer(reader, good_for=1)
    failures = iter([True, True])

    def renew() -> Source:
        if next(failures, False):
            raise Unavailable("MLflow does not answer.", hint="")
        return signer.source()

    source = signer.source()
    reader.read_right(replace(source, renew=renew), transfer__range_bytes=3 * MIB, transfer__streams=1)


# What would be the same again


@pytest.mark.parametrize(
    ("ranged", "settings", "hint"),
    [
        (True, {}, "S3 keys"),
        (False, {}, "Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME"),
        (False, {"mlflow__token": "x"}, "MLFLOW_TRACKING_TOKEN is set and wrong"),
    ],
)
def test_who_is_denied_is_told_which_credentials_to_correct(
    reader: Reader, ranged: bool, settings: dict[str, str], hint: str
) -> None:
    reader.store.twist = lambda said: said.refuse(401)
    with pytest.raises(AccessDenied, match="denies the artifact") as failure:
        reader.read(reader.source(ranged=ranged), **settings)
    assert hint in failure.value.hint


@pytest.mark.parametrize("ranged", [True, False], ids=["ranges", "stream"])
@pytest.mark.parametrize(
    ("status", "error"), [(401, AccessDenied), (403, AccessDenied), (404, NotFound), (400, Misconfigured)]
)
def test_a_refusal_is_not_repeated(reader: Reader, ranged: bool, status: int, error: type[Exception]) -> None:
    reader.store.twist = lambda said: said.refuse(status)
    with pytest.raises(error):
        reader.read(reader.source(ranged=ranged), transfer__streams=1)
    assert len(reader.store.asked) == 1


@pytest.mark.parametrize("ranged", [True, False], ids=["ranges", "stream"])
@pytest.mark.parametrize("listed", [SIZE - 1, SIZE + 1, 1, 3 * SIZE])
def test_another_size_is_not_repeated_and_never_written(reader: Reader, ranged: bool, listed: int) -> None:
    with pytest.raises(Unavailable, match="not what was listed"):
        reader.read(reader.source(ranged=ranged), listed, transfer__streams=1)
    assert len(reader.store.asked) == 1
    assert reader.target.stat().st_size <= listed


def test_a_stream_that_says_nothing_of_its_size_is_never_written_past_the_listed_one(reader: Reader) -> None:
    reader.store.twist = lambda said: said.headers.pop("Content-Length") and None
    with pytest.raises(Unavailable, match=f"more than {MIB} bytes"):
        reader.read(reader.source(ranged=False), MIB)
    assert reader.target.stat().st_size == MIB


@pytest.mark.parametrize("ranged", [True, False], ids=["ranges", "stream"])
def test_a_compressed_answer_is_refused(reader: Reader, ranged: bool) -> None:
    def twist(said: Said) -> None:
        said.body = gzip.compress(said.body, 1)
        said.headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(said.body))}

    reader.store.twist = twist
    with pytest.raises(Misconfigured, match="encoding 'gzip'"):
        reader.read(reader.source(ranged=ranged), transfer__streams=1)
    assert {asked["Accept-Encoding"] for asked in reader.store.asked} == {"identity"}


def test_what_a_refusal_repeats_of_the_address_is_not_shown(reader: Reader) -> None:
    def twist(said: Said) -> None:
        # Not one that is asked for again: only the last answer is shown, and time may be up before it is read.
        said.refuse(410, f"the proxy could not get {said.url} for you, secret-1 at all".encode())

    signer = Signer(reader, good_for=9)
    reader.store.twist = twist
    with pytest.raises(DeployError, match=r"could not get /model\.onnx") as failure:
        reader.read(signer.source(), transfer__timeout_s=3)
    assert "secret" not in str(failure.value)
