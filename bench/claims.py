"""The claims of the documents: series, series to compare with, aim, and reason of a miss. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from . import markdown
from .deploy_tables import OWN
from .series import Series


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A line of the table of claims in docs/performance.md.

    Attributes:
        what: the claim in words.
        bench: the benchmark.
        series: name of the series in the benchmark.
        versus: series to divide the median by; empty: the median itself is the figure.
        beside: ``versus`` in words.
        less: series whose median is subtracted.
        count: name of a count of the series, which is the figure then.
        at_most: the aim, an upper bound of the figure; None: no upper bound.
        at_least: the aim, a lower bound of the figure; None: no lower bound.
        why: reason why the aim was missed.
    """

    what: str
    bench: str
    series: str
    versus: str = ""
    beside: str = ""
    less: str = ""
    count: str = ""
    at_most: float | None = None
    at_least: float | None = None
    why: str = ""

    def figure(self, measured: Mapping[str, Sequence[Series]]) -> float:
        """Return the figure.

        Raises:
            KeyError: the figure was not measured.
        """
        by_name = {series.name: series for series in measured[self.bench]}
        mine = by_name[self.series]
        if self.count:
            return (mine.counts or {})[self.count]
        if self.less:
            return mine.median - by_name[self.less].median
        return mine.median / by_name[self.versus].median if self.versus else mine.median

    def unit(self, measured: Mapping[str, Sequence[Series]]) -> str:
        """Return the unit of the figure; a ratio and a count have none."""
        if self.versus or self.count:
            return ""
        return next(series.unit for series in measured[self.bench] if series.name == self.series)

    def met(self, figure: float) -> bool | None:
        """Return whether the figure, rounded as in the table, meets the aim; None without an aim."""
        if self.at_most is None and self.at_least is None:
            return None
        shown = float(f"{figure:.3g}") if not self.versus else round(figure, 2)
        return (self.at_most is None or shown <= self.at_most) and (
            self.at_least is None or shown >= self.at_least
        )


def table(claims: Sequence[Claim], measured: Mapping[str, Sequence[Series]]) -> str:
    """Return claims with their figures as a Markdown table."""
    return markdown.table(
        ("what", "figure", "compared with", "aim"), (_cells(claim, measured) for claim in claims)
    )


def _cells(claim: Claim, measured: Mapping[str, Sequence[Series]]) -> list[str]:
    figure = claim.figure(measured)
    shown = f"{figure:.3g} {claim.unit(measured)}"
    if claim.versus:
        shown = f"{figure:.2f}"
    elif claim.count:
        shown = f"{figure:.0f}"
    return [claim.what, shown, claim.beside, _aim(claim, figure)]


def _aim(claim: Claim, figure: float) -> str:
    met = claim.met(figure)
    if met is None:
        return ""
    bound = f"at most {claim.at_most:g}" if claim.at_most is not None else f"at least {claim.at_least:g}"
    return bound if met else f"{bound}: **missed**, {claim.why}"


NAIVE = "the naive way"
START = "the most is Python's start and the import of requests, numpy, gRPC and ONNX, and Triton's load is the same in both"
LOAD = (
    "Triton's load is the same in both, and the greater part; what is left waits until every byte is on disk, "
    "as the naive way does not"
)


def _deploys() -> Iterator[Claim]:
    for size, aim in (("1 KB", 0.35), ("100 MB", None), ("1 GB", 0.5)):
        for place in ("direct", "proxied"):
            case = f"{size}, {place}"
            for quantity in ("whole process", OWN):
                yield Claim(
                    what=f"deploy of {size}, {place}, {quantity}",
                    bench="deploy",
                    series=f"{case}: ours, {quantity}",
                    versus=f"{case}: naive, {quantity}",
                    beside=NAIVE,
                    at_most=aim if quantity == "whole process" else None,
                    why=START if size == "1 KB" else LOAD,
                )
    for quantity in ("whole process", OWN):
        yield Claim(
            what=f"deploy of 1 GB with external data, direct, {quantity}",
            bench="deploy",
            series=f"1 GB, external data, direct: ours, {quantity}",
            versus=f"1 GB, external data, direct: naive, {quantity}",
            beside=NAIVE,
            at_most=0.5 if quantity == "whole process" else None,
            why=LOAD,
        )
    for size in ("1 KB", "1 GB"):
        yield Claim(
            what=f"deploy of {size}, direct, whole process",
            bench="deploy",
            series=f"{size}, direct: ours, whole process",
            versus=f"{size}, direct: plugin, whole process",
            beside="NVIDIA's plugin",
        )


def _memory(size: str) -> Claim:
    return Claim(
        what=f"peak memory of a deploy of {size}, above that of one of 1 KB",
        bench="deploy",
        series=f"{size}, direct: ours, peak memory",
        less="1 KB, direct: ours, peak memory",
        at_most=40,
    )


def _transfers() -> Iterator[Claim]:
    for server in ("rclone", "Ceph's RADOS Gateway"):
        yield Claim(
            what=f"transfer of 1 GiB with sha256, from {server}",
            bench="transfer",
            series=f"{server}: ours, with sha256",
            versus=f"{server}: bare ranged reads",
            beside="ranged reads that are not hashed",
            at_most=1.15,
            why="two cores serve, read and hash, and the bare reads have them busy already; sha256 takes a core 0.7 s a GiB, "
            "which a server on another machine hides",
        )


def _swaps() -> Iterator[Claim]:
    for what, series in (
        ("deploy", "deploy, flip until all clients have it"),
        ("failed deploy", "deploy of wrong answers, undone"),
        ("revert", "revert to a warm version, call until all clients have it"),
        ("revert to a version that is not loaded", "revert to a version that has to be loaded"),
    ):
        for count, words in (
            ("failed", "requests that failed"),
            ("unverified", "requests that an unverified version answered"),
            ("over 100 ms", "requests that took over 100 ms"),
        ):
            yield Claim(
                what=f"{what} under 300 requests/s: {words}",
                bench="swaps",
                series=series,
                count=count,
                at_most=0,
                why="Triton's Python-based backend starts a process, on the cores that serve",
            )
    yield Claim(
        what="deploy: from the flip until all clients have the new version",
        bench="swaps",
        series="deploy, flip until all clients have it",
        versus="naive deploy, load until all clients have it",
        beside="the naive way, from its load",
    )
    yield Claim(
        what="naive revert under 300 requests/s: requests that failed",
        bench="swaps",
        series="naive revert: unload, load",
        count="failed",
    )


def _gateways() -> Iterator[Claim]:
    for kind in ("v2 JSON", "v2 binary"):
        for connections in (1, 16):
            case = f"{kind}, {connections} conn."
            yield Claim(
                what=f"gateway, {kind}, {connections} connection{'s' * (connections > 1)}: requests a second",
                bench="gateway",
                series=f"{case}: gateway, requests",
                versus=f"{case}: Triton, requests",
                beside="Triton itself",
                at_least=0.65,
                why="nothing overlaps, so two more messages through the kernel and an event loop are in every answer (ADR 6)",
            )


def _local() -> Iterator[Claim]:
    for what, series in (
        ("from the start to the first answer", "start to first answer: {}"),
        ("memory", "memory: {}"),
        ("median latency, 1 connection", "1 conn.: {}, p50"),
        ("requests a second, 16 connections", "16 conn.: {}, requests"),
    ):
        yield Claim(
            what=f"a model in the gateway's process: {what}",
            bench="local",
            series=series.format("gateway, local backend"),
            versus=series.format("mlflow models serve"),
            beside="`mlflow models serve`",
        )


_MODELS, _RELEASES = ("1", "1,000"), ("10", "10,000")


def _growth() -> Iterator[Claim]:
    """Yield the claims that cost does not grow with the number of models, nor with that of releases."""
    for what, series, (few, many), beside in (
        (
            "reconcile, a model of 1,000",
            "reconcile of all, {} models, nothing to do (Triton stood in for)",
            _MODELS,
            "one model",
        ),
        ("status with 10,000 releases", "status, {} releases", _RELEASES, "10 releases"),
        ("status, a model of 1,000", "status of all, {} models (Triton stood in for)", _MODELS, "one model"),
        (
            "history with 10,000 releases, a release",
            "history, all of it, {} releases",
            _RELEASES,
            "10 releases",
        ),
    ):
        yield Claim(
            what=what,
            bench="scale",
            series=series.format(many),
            versus=series.format(few),
            beside=beside,
            at_most=1.15,
        )


CLAIMS: tuple[Claim, ...] = (
    *_deploys(),
    Claim(
        what="deploy of 1 KB in a running process, without Triton's load",
        bench="deploy",
        series="1 KB, direct: ours in a running process, without Triton's load",
        at_most=0.2,
        why="seven requests to MLflow are half of it: what the alias means, and what the version is told",
    ),
    Claim(
        what="bytes written by a deploy of 1 GB",
        bench="deploy",
        series="1 GB, direct: ours, written",
        at_most=1,
    ),
    Claim(
        what="bytes written by a deploy of the same 1 GB again",
        bench="deploy",
        series="1 GB, direct: ours, same files again, written",
        at_most=0.001,
    ),
    _memory("100 MB"),
    _memory("1 GB"),
    *_transfers(),
    Claim(
        what="the whole DAG, above as many empty tasks",
        bench="airflow",
        series="added",
        at_most=1.5,
        why="a task is a process that imports, connects and asks; 0.53 s on a machine twice as fast",
    ),
    Claim(
        what="parsing the deploy DAG's file, above a bare DAG file",
        bench="airflow",
        series="mlflow_to_triton_deploy.py, beyond the bare file",
        at_most=100,
    ),
    *_swaps(),
    *_gateways(),
    *_local(),
    *_growth(),
    Claim(
        what="deploy to 8 Tritons, without its load",
        bench="replicas",
        series="8 Tritons: deploy without its load",
        versus="1 Tritons: deploy without its load",
        beside="one Triton",
    ),
    Claim(
        what="deploy to 8 Tritons",
        bench="replicas",
        series="8 Tritons: deploy",
        versus="8 Tritons: bare load, by gRPC at once",
        beside="the bare load on all of them",
    ),
    Claim(
        what="Triton's memory, growth by 100 swaps",
        bench="memory",
        series="server, growth by 100 swaps",
    ),
)
"""All claims, in the order of the table."""
