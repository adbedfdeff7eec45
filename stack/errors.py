"""The one error of the embedded stack."""


class StackError(RuntimeError):
    """The stack cannot start, or a process of it failed; the text says which and what to do."""
