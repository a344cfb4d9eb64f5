"""Checksums inside of what they protect: a byte that flipped on the disk must not become a number.

A JSON object carries the CRC-32 of its other entries as its last entry; ``config.yaml``, which
people read and may have to change, that of its other lines as its last line, a comment.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import yaml

from corolla.records.atomic import write_bytes
from corolla.records.errors import RESTORE, CorruptStateError
from corolla.records.json_files import read_bytes, read_json, to_json

KEY = "crc32"
BY_HAND = "# changed by hand"
"""The last line of a ``config.yaml`` that a person changed on purpose; nothing is compared then."""

_LINE = "# crc32 of the lines above: "


def sealed_text(content: dict[str, Any], *, indent: int | None = None) -> str:
    """Return a JSON object as text with its checksum; ``content`` is what `to_json` returned.

    Raises: ValueError when the checksum's own key is taken.
    """
    if KEY in content:
        raise ValueError(f"the key {KEY!r} is that of the checksum")
    text = json.dumps(content)
    if indent is not None:
        return json.dumps({**content, KEY: _crc(text)}, indent=indent)
    return f'{text[:-1]}{", " if content else ""}"{KEY}": "{_crc(text)}"}}'


def checksum(content: dict[str, Any]) -> str:
    """Return what a JSON object with this content has under `KEY`."""
    return _crc(json.dumps(content))


def unsealed(content: dict[str, Any]) -> dict[str, Any] | None:
    """Return a JSON object without its checksum; None when that does not match.

    An object without a checksum is returned as it is.
    """
    if KEY not in content:
        return content
    rest = {key: value for key, value in content.items() if key != KEY}
    return rest if content[KEY] == checksum(rest) else None


def write_sealed(path: Path, value: Any, *, exact: bool = False, indent: int | None = 2) -> None:
    """Write ``value``, a mapping, to ``path`` as `write_json` does, with its checksum."""
    content = to_json(value, exact=exact, where=path.name)
    write_bytes(path, f"{sealed_text(content, indent=indent)}\n".encode())


def read_sealed(path: Path, *, remedy: str = RESTORE) -> dict[str, Any]:
    """Return the object that `write_sealed` wrote.

    Raises: CorruptStateError, also when there is no such file, or no checksum in it.
    """
    content = read_json(path, remedy=remedy)
    rest = unsealed(content)
    if rest is None:
        raise CorruptStateError(path, "its checksum does not match", remedy)
    if KEY not in content:
        raise CorruptStateError(path, "it has no checksum; an older release wrote none", remedy)
    return rest


def sealed_config(text: str) -> str:
    """Return the text of a ``config.yaml`` with its checksum as the last line."""
    body = f"{text.rstrip()}\n"
    return f"{body}{_LINE}{_crc(body)}\n"


def read_config(path: Path) -> str:
    """Return the text that `sealed_config` was given.

    Raises: CorruptStateError.
    """
    remedy = f"{RESTORE}; if you changed it on purpose, let its last line be {BY_HAND!r}"
    try:
        text = read_bytes(path, remedy=remedy).decode()
    except UnicodeDecodeError as error:
        raise CorruptStateError(path, str(error), remedy) from error
    body, _, last = text.rstrip().rpartition("\n")
    body += "\n"
    if last == BY_HAND:
        _require_mapping(path, body)
    elif not last.startswith(_LINE):
        raise CorruptStateError(path, "its last line is not its checksum", remedy)
    elif last.removeprefix(_LINE) != _crc(body):
        raise CorruptStateError(path, "its checksum does not match", remedy)
    return body


def _require_mapping(path: Path, text: str) -> None:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CorruptStateError(path, " ".join(str(error).split()), "Correct it") from error
    if not isinstance(values, dict):
        raise CorruptStateError(path, "it holds no keys with values", "Correct it")


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
