"""What is repeated of a request that failed: what failed quickly."""

from __future__ import annotations

from typing import Any, Self

import requests
import urllib3
from urllib3.util.retry import Retry


class QuickFailures(Retry):
    """Repeats what failed quickly, not what ran into its time limit."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: Any = None,
        error: Exception | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        """See Retry."""
        retry = self.new(total=0) if error is not None and is_timeout(error) else self
        return super(QuickFailures, retry).increment(method, url, response, error, *args, **kwargs)


def is_timeout(error: Exception) -> bool:
    """Whether an exception of the HTTP libraries says that a time limit was reached."""
    # To urllib3 a connection that is refused at once is a timeout as well.
    return isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)) and not isinstance(
        error, urllib3.exceptions.NewConnectionError
    )
