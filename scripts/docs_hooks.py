"""What the site of docs/ needs beyond MkDocs: formulas that need no script, and no links out of docs/."""

from __future__ import annotations

import html
import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+|[^)\s]+\.ipynb)\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page whose links to files of the repository are the files' names: they have no page there."""
    return _OUTSIDE.sub(_named, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Return a page whose formulas are MathML, which browsers draw by themselves."""
    return _FORMULA.sub(_drawn, content)


def _named(found: re.Match[str]) -> str:
    text, path = found[1], found[2].removeprefix("../")
    return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"


def _drawn(found: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    tex = html.unescape(found[2].strip())[2:-2]  # without \( \) or \[ \]
    drawn: str = convert(tex, display="block" if found[1] == "div" else "inline")
    if "\\" in html.unescape(re.sub("<[^>]+>", "", drawn)):
        raise ValueError(f"docs: a part of this formula is not understood: {tex}")
    return drawn
