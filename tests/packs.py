"""Packs of arrays as `clients.wire` sends them, made by hand: right ones and wrong ones."""

from __future__ import annotations

import json
from typing import Any

from flwr.app import Array


def pack(
    listed: Any = (), data: bytes = b"", *, text: bytes | None = None, whole: bytes | None = None
) -> Array:
    """Return a pack of ``data`` with a list, or the list's text, or all of its bytes, as given."""
    head = json.dumps(listed).encode() if text is None else text
    made = len(head).to_bytes(4, "little") + head + data if whole is None else whole
    return Array(dtype="uint8", shape=(len(made),), stype="corolla.pack", data=made)
