"""Show references in docstrings, such as :func:`fxprune.narrow`, as code on the site."""

from __future__ import annotations

import re
from typing import Any

_REFERENCE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(?:~[\w.]*\.)?([^<]*)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Drop the role in front of a name; of ``~package.name`` the last part is shown."""
    return _REFERENCE.sub(r"<code>\1</code>", html)
