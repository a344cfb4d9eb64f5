"""Reads a page strictly enough to notice what a browser would silently mend."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = {"meta", "link", "br", "img", "input", "hr"}


class PageParser(HTMLParser):
    """Collects tags with attributes, and text; raises when tags are not properly nested."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID and "svg" not in self.open:  # in SVG any element may
            raise ValueError(f"<{tag}/> does not close itself in HTML")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise ValueError(f"</{tag}> at {self.getpos()} closes what was not open")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All visible text, white space folded."""
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str) -> int:
        """How often ``tag`` was opened."""
        return sum(1 for name, _ in self.tags if name == tag)


def read(html: str) -> PageParser:
    """Parse a whole page; ValueError when tags are left open or crossed."""
    parser = PageParser()
    parser.feed(html)
    parser.close()
    if parser.open:
        raise ValueError(f"left open: {parser.open}")
    return parser
