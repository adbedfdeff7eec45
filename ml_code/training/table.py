"""Reads the table that a user gives: a CSV file with a header line, on disk or in S3."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_code.training.errors import DataError
from ml_code.triton_deploy.clients import http
from ml_code.triton_deploy.clients.artifacts import S3Store, Source
from ml_code.triton_deploy.errors import DeployError
from ml_code.triton_deploy.settings import Settings

if TYPE_CHECKING:
    import requests

LARGEST_BYTES = 4 << 30
"""Largest table that is read from S3: it has to fit into memory several times."""
_BLOCK_BYTES = 1 << 20
_AGAIN = "Check that it runs and that MLFLOW_S3_ENDPOINT_URL is right."


def read_table(location: str) -> pd.DataFrame:
    """Reads a CSV file.

    Args:
        location: A path, or ``s3://bucket/key`` at ``MLFLOW_S3_ENDPOINT_URL`` with keys as boto3 finds them.

    Returns:
        The table; at least one row.

    Raises:
        DataError: It can't be reached or read, is no CSV file, or has no rows.
    """
    content = _from_s3(location) if location.startswith("s3://") else _from_disk(location)
    try:
        table = pd.read_csv(io.BytesIO(content))
    except (ValueError, OverflowError) as error:  # pandas' own are ValueErrors, UnicodeDecodeError too
        raise DataError(
            f"{location} is no CSV file: {error}",
            "It has a header line with the names of the columns, commas between them, and is UTF-8.",
        ) from error
    if table.empty:
        raise DataError(f"{location} has no rows", "Give a table with a header line and rows below it.")
    return table


def need_columns(table: pd.DataFrame, columns: Sequence[str], location: str) -> None:
    """Raises DataError unless the table has the columns; ``location`` is for the message."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"{location} has no column {missing[0]!r}",
            f"It has {', '.join(map(repr, table.columns[:20]))}; name one of them.",
        )


def need_ascending(table: pd.DataFrame, column: str, location: str) -> None:
    """Raises DataError unless a column holds numbers or times, each after the one before.

    Args:
        table: What :func:`read_table` returned.
        column: Its name.
        location: Path or address of the table, for messages.
    """
    need_columns(table, [column], location)
    values = table[column]
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
    # A time that could not be read compares false.
    wrong = ~(values > values.shift())
    wrong.iloc[0] = pd.isna(values.iloc[0])
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{location}, column {column!r}, row {row + 1}: {table[column].iloc[row]!r} is no time after that of the row before"
            f" ({int(wrong.sum())} such rows)",
            "Sort the rows from old to new, and write times as ISO 8601 (2026-01-31T12:00) or as numbers.",
        )


def numbers(table: pd.DataFrame, columns: Sequence[str], location: str) -> npt.NDArray[np.float64]:
    """Takes columns of numbers out of a table.

    Args:
        table: What :func:`read_table` returned.
        columns: Their names.
        location: Path or address of the table, for messages.

    Returns:
        float64 ``[rows, columns]``, finite.

    Raises:
        DataError: A column is missing, or a cell is empty, not a finite number, or beyond what float32
            holds; the text names the first such cell.
    """
    need_columns(table, columns, location)
    values: npt.NDArray[np.float64] = (
        table[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    )
    # Clients send float32: the model would be trained on numbers that it never gets.
    wrong = ~(np.abs(values) <= np.finfo(np.float32).max)
    if wrong.any():
        row, column = map(int, np.argwhere(wrong)[0])
        raise DataError(
            f"{location}, column {columns[column]!r}, row {row + 1}: {_shown(table[columns[column]].iloc[row])}"
            f" ({int(wrong.any(axis=1).sum())} such rows)",
            "Every cell has to be a number that float32 holds: fill in or remove those rows, or leave the column out.",
        )
    return values


def _shown(cell: Any) -> str:
    return "an empty cell or NaN" if pd.isna(cell) else f"{cell!r} is no finite number"


def _from_disk(location: str) -> bytes:
    scheme, colon, _ = location.partition("://")
    if colon:
        raise DataError(
            f"{location} can't be read: {scheme}:// is not known", "Give a path, or s3://bucket/key."
        )
    try:
        return Path(location).read_bytes()
    except OSError as error:
        raise DataError(
            f"{location} can't be read: {error.strerror}",
            "Give the path of a CSV file that this user may read.",
        ) from error


def _from_s3(location: str) -> bytes:
    folder, _, name = location.rpartition("/")
    if not name or folder in ("s3:", "s3:/"):
        raise DataError(f"{location} names no object", "Write it as s3://bucket/key.")
    try:
        settings = Settings.from_env()
        return _whole(S3Store(settings).source(folder, name), location, settings)
    except DeployError as error:
        raise DataError(f"{location} can't be read: {error.message}", error.hint) from error


def _whole(source: Source, location: str, settings: Settings) -> bytes:
    """Return the bytes of an object; raises DataError or DeployError if they stop or come too slowly."""
    response = http.send(
        http.new_session(pool_size=1, trust=source.trust),
        "GET",
        source.url,
        headers={"Accept-Encoding": "identity"},
        timeout_s=settings.transfer.timeout_s,
        server=source.server,
        hint=_AGAIN,
        stream=True,
    )
    with response:
        if response.status_code != 200:
            # The refusal's text is read within a time limit too.
            said = http.refusal_of(response, settings.transfer.timeout_s)
            raise DataError(
                f"{location} can't be read: {source.server} answers {response.status_code}, {said}",
                "Check bucket and key, and that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are those of a user who may read it.",
            )
        try:
            return b"".join(_blocks(response, location, settings))
        except http.broken_reads() as error:
            raise http.unreachable(error, source.server, _AGAIN, source.trust.kind) from error


def _blocks(response: requests.Response, location: str, settings: Settings) -> Iterator[bytes]:
    begun_s, count = time.monotonic(), 0
    while True:
        http.limit(response, settings.transfer.timeout_s)
        block = response.raw.read1(_BLOCK_BYTES, decode_content=False)
        if not block:
            _need_all(response, count, location)
            return
        yield block
        count += len(block)
        if count > LARGEST_BYTES:
            raise DataError(
                f"{location} has more than {LARGEST_BYTES >> 30} GiB",
                "Give a smaller table: it has to fit into memory.",
            )
        allowed_s = settings.transfer.timeout_s + count / max(1, settings.transfer.min_bytes_per_s)
        if time.monotonic() - begun_s > allowed_s:
            raise DataError(
                f"{location} comes too slowly", "Look at the S3 server and the network, then try again."
            )


def _need_all(response: requests.Response, count: int, location: str) -> None:
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) != count:
        raise DataError(
            f"{location} ended after {count} of {announced} bytes", "The connection broke off: try again."
        )
