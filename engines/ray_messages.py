"""Messages on their way through Ray's object store: the arrays' bytes lie there once, and are read in place.

A message's array records travel apart from the rest. Their bytes are shown to Ray as numpy arrays, which it
writes to shared memory once and maps, read-only, into every process of the machine that asks for them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from numpy.typing import NDArray


class Parts(NamedTuple):
    """An array record: name, dtype, shape and kind of serialisation of each array, and their bytes."""

    described: list[tuple[str, str, tuple[int, ...], str]]
    bytes_: list[NDArray[np.uint8]]


def apart(record: ArrayRecord) -> Parts:
    """Return the record's parts; no byte is copied."""
    return Parts(
        [(name, array.dtype, array.shape, array.stype) for name, array in record.items()],
        [np.frombuffer(array.data, np.uint8) for array in record.values()],
    )


def together(parts: Parts) -> ArrayRecord:
    """Return the record; its arrays' ``data`` are read-only views of ``parts``, not ``bytes``."""
    record = ArrayRecord()
    for (name, dtype, shape, stype), values in zip(parts.described, parts.bytes_, strict=True):
        array = Array(dtype, tuple(shape), stype, b"")
        array.data = cast(Any, values.data)
        record[name] = array
    return record


def light(message: Message) -> tuple[Message, dict[str, ArrayRecord]]:
    """Return the message without its array records, and these by their names."""
    if not message.has_content():
        return message, {}
    content = message.content
    arrays = {name: record for name, record in content.items() if isinstance(record, ArrayRecord)}
    rest = RecordDict({name: record for name, record in content.items() if name not in arrays})
    return Message(content=rest, metadata=message.metadata), arrays  # type: ignore[call-overload]


def whole(message: Message, arrays: dict[str, Parts]) -> Message:
    """Put the array records back into a message."""
    for name, parts in arrays.items():
        message.content[name] = together(parts)
    return message
