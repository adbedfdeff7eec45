"""A hook of MkDocs: links to files of the repository that are no documents become plain text in the site."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's Markdown without links that lead out of ``docs/``.

    Args:
        markdown: text of the page.
        page: the page, as MkDocs describes it.
    """
    folder = posixpath.dirname(page.file.src_uri)

    def plain(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[3]))
        return f"`{target[3:]}`" if target.startswith("../") else found[0]

    return LINK.sub(plain, markdown)
