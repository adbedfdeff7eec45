"""The one error of the embedded stack."""

from __future__ import annotations


class StackError(RuntimeError):
    """The stack cannot start, or one of its processes failed; the text names the process and what to do."""
