"""Triton's memory over hundreds of swaps: most bring back a warm version, some have to load one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from .process_tree import MIB, tree
from .series import Series
from .small_site import SmallSite, revert, small_site

NAMES = {"server": "server", "all": "with its models' processes"}
"""Names in the table for the keys that ``memory_mib`` returns."""
EVERY = 25
"""Swaps between two samples."""


def run(quick: bool) -> list[Series]:
    """Measure the memory of Triton after every 25th of 500 swaps; one swap in 25 has to load its version.

    Args:
        quick: 50 swaps only.

    Returns:
        For the server alone, and with the processes of its models: MiB in the first and in the last quarter
            of the run, and growth by
        100 swaps.
    """
    with small_site() as site:
        pid = site.stack.pid("triton")
        samples = sample(lambda number: _swap(site, number), lambda: memory_mib(pid), 50 if quick else 500)
    return [one for key, name in NAMES.items() for one in _series(name, [sample[key] for sample in samples])]


def _swap(site: SmallSite, number: int) -> None:
    """Make the other one of versions 1 and 2 live; after every 25th swap the next one has to load."""
    # Write no tags to MLflow: that takes longer than the swap.
    deployer = site.deployer(
        retention__keep_warm=0 if number % EVERY == 0 else 1, mlflow__feedback_prefix="off"
    )
    revert(deployer, 1 + number % 2)


def sample(
    swap: Callable[[int], None], measure: Callable[[], dict[str, float]], swaps: int
) -> list[dict[str, float]]:
    """Swap ``swaps`` times; return the samples before the first swap and after every 25th."""
    samples = [measure()]
    for number in range(swaps):
        if number % 100 == 0:
            print(f"  memory: swap {number} of {swaps}", flush=True)
        swap(number)
        if (number + 1) % EVERY == 0:
            samples.append(measure())
    return samples


def _series(name: str, samples_mib: Sequence[float]) -> list[Series]:
    quarter = max(1, len(samples_mib) // 4)
    first = f"{name}, first quarter"
    return [
        Series(name=first, unit="MiB", values=tuple(samples_mib[:quarter])),
        Series(
            name=f"{name}, last quarter", unit="MiB", values=tuple(samples_mib[-quarter:]), baseline=first
        ),
        Series(name=f"{name}, growth by 100 swaps", unit="MiB", values=growth(samples_mib, 100 / EVERY)),
    ]


def growth(samples_mib: Sequence[float], samples_a_unit: float) -> tuple[float, ...]:
    """Return the growth of memory from each sample of the first half to the sample half a run later.

    The distance of half a run averages over allocations and frees between two samples.

    Args:
        samples_mib: samples at even distances, at least two.
        samples_a_unit: number of distances that the growth is given for.
    """
    half = len(samples_mib) // 2
    return tuple(
        (later - earlier) / half * samples_a_unit
        for earlier, later in zip(samples_mib, samples_mib[half:], strict=False)
    )


def memory_mib(pid: int) -> dict[str, float]:
    """Return Triton's resident memory, MiB: ``server`` alone, ``all`` with the processes of its models."""
    resident: dict[int, float] = {}
    for one in tree(pid):
        # The process of a version that is being unloaded may end meanwhile.
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{one}/statm").read_text().split()[1])
            resident[one] = pages * 4096 / MIB
    return {"server": resident[pid], "all": sum(resident.values())}
