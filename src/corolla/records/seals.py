"""Checksums inside of what they protect: a byte that flipped on the disk must not become a number.

A JSON object carries the CRC-32 of its other entries as its last entry; ``config.yaml``, which
people read and may have to change, that of its other lines as its last line, a comment. Its first
line says the format of the run directory.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import yaml

import corolla
from corolla.errors import Fault, RefusedError
from corolla.records.atomic import write_bytes
from corolla.records.errors import RESTORE, CorruptStateError
from corolla.records.json_files import read_bytes, read_json, to_json

KEY = "crc32"
BY_HAND = "# changed by hand"
"""The last line of a ``config.yaml`` that a person changed on purpose; nothing is compared then."""

RUN_FORMAT = 2
"""Of the run directory, all but its checkpoints: raised when this release could misread an older one."""

_FORMAT = re.compile(r"^format:[ \t]*(\S*).*\n", re.MULTILINE)
# Directories of format 1 do not say so. Their runs had these two keys, whose values stand below method too.
_OF_FORMAT_1 = re.compile(r"^(damping|lambda_time):.*\n", re.MULTILINE)
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
    """Return the text of a ``config.yaml``: with its format as the first line, its checksum as the last."""
    body = f"format: {RUN_FORMAT}\n{text.rstrip()}\n"
    return f"{body}{_LINE}{_crc(body)}\n"


def read_config(path: Path) -> str:
    """Return the text that `sealed_config` was given; one without a format, of older releases, as of today.

    Raises: CorruptStateError; RefusedError where the run directory has another format.
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
    return _of_today(path, body)


def _of_today(path: Path, text: str) -> str:
    """Return a configuration without what says its format, and without what older formats had besides."""
    found = _FORMAT.search(text)
    if found is None:
        return _OF_FORMAT_1.sub("", text)
    if found[1] != str(RUN_FORMAT):
        raise RefusedError(other_format(path.parent, "format", found[1], RUN_FORMAT, _writer(path)))
    return _FORMAT.sub("", text)


def _writer(path: Path) -> str | None:
    """Return the release that made a run directory, by its environment.json; None where that says nothing."""
    try:
        return str(read_json(path.parent / "environment.json")["versions"]["corolla"])
    except (CorruptStateError, KeyError, TypeError):  # one of its own faults is enough
        return None


def other_format(where: Path, key: str, found: Any, reads: int, writer: str | None) -> Fault:
    """Return the refusal of what a release with another format wrote."""
    problem = (
        f"{where} was written by Corolla {writer or 'of another release'}; "
        f"this is Corolla {corolla.__version__}, which reads format {reads}"
    )
    return Fault(key, found, problem, "Install the release that wrote it, or start a new run_dir")


def _require_mapping(path: Path, text: str) -> None:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CorruptStateError(path, " ".join(str(error).split()), "Correct it") from error
    if not isinstance(values, dict):
        raise CorruptStateError(path, "it holds no keys with values", "Correct it")


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
