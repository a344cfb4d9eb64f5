"""What reading records can end in, besides a refusal."""

from __future__ import annotations

from corolla.errors import CorollaError


class CorruptStateError(CorollaError):
    """A file that Corolla wrote whole is no longer whole; the message names the file."""
