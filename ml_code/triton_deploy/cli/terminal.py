"""Draws results, errors and the steps of a deploy on a terminal. Elsewhere a command prints plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn
from rich.table import Table as RichTable
from rich.text import Text

from ..errors.texts import printable
from .told import Section, Table, Tone

WIDE = 16
"""Longest label that has its text beside it; below a longer one the text begins a line of its own."""
STACKED = 72
"""Columns below which a table without headings has its last column below the others."""


def console(stream: TextIO | None = None) -> Console:
    """Return a console on a stream; NO_COLOR, TERM and COLUMNS hold.

    Args:
        stream: where it draws; standard output by default.
    """
    return Console(file=stream or sys.stdout, highlight=False, markup=False, emoji=False)


class _Lossy:
    """A stream that loses what can't be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or lose what it holds."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def live_console(stream: TextIO) -> Console:
    """Return a console for a drawing that a deploy calls: an error of a terminal must not end the deploy.

    Args:
        stream: where it draws.
    """
    return console(cast("TextIO", _Lossy(stream)))


def draw(parts: Iterable[Section | Table | str], on: Console | None = None) -> None:
    """Draw sections, tables and lines, each before the next is asked for.

    Args:
        parts: see told.py. An error that is raised for a row comes after the rows before it. A line is
            wrapped, and goes on where it began.
        on: the console; one on standard output by default.
    """
    on = on or console()
    for part in parts:
        if isinstance(part, str):
            indent = len(part) - len(part.lstrip(" "))
            on.print(Padding(Text(printable(part.strip())), (0, 0, 0, indent)))
        elif isinstance(part, Section):
            on.print(_section(part))
        else:
            _print_table(part, on)


def say_why(message: str, rest: Sequence[tuple[str, str]], on: Console | None = None) -> None:
    """Draw an error.

    Args:
        message: what happened.
        rest: further lines, each as a label and a text.
        on: the console; one on standard error by default.
    """
    on = on or console(sys.stderr)
    on.print(Text(printable(message), Tone.BAD))
    on.print(Padding(_grid((f"{label}:", text, Tone.PLAIN) for label, text in rest), (0, 0, 0, 2)))


def _section(section: Section) -> RenderableType:
    grid = RichTable.grid(padding=0)
    grid.add_column(overflow="fold")
    grid.add_row(Text(printable(section.heading), section.tone or "bold"))
    rows = [(f"{fact.label}:" if fact.label else "", fact.text, fact.tone) for fact in section.facts]
    if rows:
        grid.add_row(Padding(_grid(rows), (0, 0, 0, 2)))
    return grid


def _grid(rows: Iterable[tuple[str, str, Tone]]) -> RenderableType:
    """Return rows of a label and a text, the texts in one column; a row without a label is as wide as all."""
    whole = RichTable.grid(padding=0)
    whole.add_column(overflow="fold")
    found = list(rows)
    width = max((len(label) for label, _, _ in found if len(label) <= WIDE), default=0)
    for label, text, tone in found:
        if not label:
            whole.add_row(Text(printable(text), tone))
            continue
        if len(label) > WIDE:
            whole.add_row(Text.assemble((printable(label), Tone.FAINT), " ", (printable(text), tone)))
            continue
        row = RichTable.grid(padding=(0, 1, 0, 0))
        row.add_column(width=width)
        row.add_column(overflow="fold")
        row.add_row(Text(printable(label), Tone.FAINT), Text(printable(text), tone))
        whole.add_row(row)
    return whole


def _print_table(table: Table, on: Console) -> None:
    if on.width < STACKED and not any(table.columns):
        _print_stacked(table, on)
        return
    drawn = RichTable(
        show_header=any(table.columns), box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold"
    )
    for number, column in enumerate(table.columns):
        last = number == len(table.columns) - 1
        drawn.add_column(column, overflow="fold", no_wrap=False, ratio=1 if last else None)
    try:
        for cells in table.rows:
            drawn.add_row(*(Text(printable(text), tone) for text, tone in cells))
    finally:
        if drawn.row_count:
            on.print(drawn)
    if not drawn.row_count:
        on.print(Text(printable(table.without)))
    elif table.after:
        on.print(Text(printable(table.after), Tone.FAINT))


def _print_stacked(table: Table, on: Console) -> None:
    """Draw each row as a line of its first cells, and the last cell below: beside them it is too narrow."""
    for *firsts, (text, tone) in table.rows:
        names = [Text(printable(name), of) for name, of in firsts if name]
        if names:
            on.print(Text("  ").join(names))
        on.print(Padding(Text(printable(text), tone), (0, 0, 0, 4)))


class _Bar(BarColumn):
    """The bar of a step that transfers bytes; nothing for the others."""

    def render(self, task: Task) -> RenderableType:  # type: ignore[override]
        return super().render(task) if task.fields["bytes"] else Text("")


class _Mark(SpinnerColumn):
    """A spinner while a step runs, then a check mark or a cross.

    Args:
        unicode: whether the terminal has these signs; letters take their place otherwise.
    """

    def __init__(self, *, unicode: bool) -> None:
        done, self._failed = ("✓", "✗") if unicode else ("+", "x")
        super().__init__("dots" if unicode else "line", finished_text=Text(done, Tone.GOOD))

    def render(self, task: Task) -> RenderableType:
        return Text(self._failed, Tone.BAD) if task.fields["failed"] else super().render(task)


class LiveSteps:
    """The steps of a deploy, a line each, with a spinner, a bar while bytes come, and the time.

    Args:
        on: the console.
    """

    def __init__(self, on: Console) -> None:
        self._progress = Progress(
            _Mark(unicode=on.encoding.startswith("utf")),
            TextColumn("{task.description:<12}"),
            _Bar(bar_width=20, complete_style="green", finished_style="green"),
            TextColumn("{task.fields[note]}"),
            console=on,
        )

    def begin_or_end(self, step: str, took_s: float | None) -> None:
        """Add a line for a step that begins, or end it.

        Args:
            step: the step.
            took_s: its duration, seconds; None when it begins.
        """
        task = self._task(step)
        if task is None:
            # Not earlier: while a deploy waits for its alias, a recorded terminal keeps each empty drawing.
            self._progress.live.start()
            self._progress.add_task(step, total=None, note="", bytes=False, failed=False)
        elif took_s is not None:
            total = task.total or 1
            note = f"{took_s:.1f} s"
            self._progress.update(task.id, total=total, completed=total, note=note)

    def transferred(self, done: int, total: int) -> None:
        """Show the bytes that have come.

        Args:
            done: bytes that have come.
            total: bytes in all.
        """
        running = [task for task in self._progress.tasks if not task.finished]
        if running and total:
            note = f"{decimal(done)} of {decimal(total)}"
            # The step has more to do when the last byte has come: it ends by itself.
            shown = min(done, total - 1)
            self._progress.update(running[-1].id, total=total, completed=shown, note=note, bytes=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the steps while the block runs; when it raises, the step under way is marked as failed."""
        try:
            yield
        except BaseException:
            for task in self._progress.tasks:
                if not task.finished:
                    self._progress.update(task.id, note="failed", failed=True)
            raise
        finally:
            if self._progress.tasks:
                self._progress.stop()

    def drawing(self) -> RenderableType:
        """Return the steps as they stand."""
        return self._progress.get_renderable()

    def _task(self, step: str) -> Task | None:
        return next((task for task in self._progress.tasks if task.description == step), None)
