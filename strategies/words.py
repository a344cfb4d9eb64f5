"""What came from outside, as a short line of a log or a record."""

from __future__ import annotations

_MOST = 300  # characters


def brief(text: str, most: int = _MOST) -> str:
    """Return ``text`` in one printable line of at most ``most`` characters, its middle left out."""
    if len(text) > 4 * most:  # before anything looks at all of a very long one
        text = f"{text[: 2 * most]}{text[-2 * most :]}"
    line = "".join(one if one.isprintable() else " " for one in text)
    line = " ".join(line.split())
    if len(line) <= most:
        return line
    half = (most - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"


def last_line(reason: str | None, most: int = _MOST) -> str:
    """Return the last line of an error reply's reason, as `brief` does; nothing where there is none.

    What Flower puts around what a ClientApp raised is left out.
    """
    text = reason or ""
    lines = text[-4 * most :].strip().splitlines()
    line = lines[-1] if lines else ""
    if text.startswith("<class "):
        for opening in ("ClientAppException occurred. Message: ", ">:<'"):
            line = line.partition(opening)[2] or line
        line = line.removesuffix("'>")
    return brief(line, most)
