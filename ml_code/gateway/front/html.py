"""The gateway's pages for people, each put together into one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fastapi import Response

WEB = Path(__file__).with_name("web")
STYLE, SCRIPT = "/* style */", "/* script */"
"""Places in a page where the styles and the scripts are put."""


@dataclass(frozen=True)
class Html:
    """A page.

    Attributes:
        content: the whole page.
        policy: its Content-Security-Policy.
    """

    content: bytes
    policy: str

    @classmethod
    def read(cls, name: str) -> Self:
        """Put a page together.

        Args:
            name: name of its HTML file and of its script, without suffix.
        """
        style = _text("common.css")
        script = _text("common.js") + _text(f"{name}.js")
        content = _text(f"{name}.html").replace(STYLE, style).replace(SCRIPT, script)
        policy = (
            # The page runs its own script and no other, loads nothing from elsewhere, and asks the gateway
            # alone. No other page may frame it, because that page could trick a user into a click.
            f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
            "img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        )
        return cls(content.encode(), policy)

    def response(self) -> Response:
        """Return the page as an answer."""
        return Response(
            self.content,
            media_type="text/html; charset=utf-8",
            headers={
                "Cache-Control": "no-store",
                "Content-Security-Policy": self.policy,
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Referrer-Policy": "no-referrer",
            },
        )


def _text(file: str) -> str:
    return (WEB / file).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
