"""A client's name as the name of a file or directory."""

from __future__ import annotations

from urllib.parse import quote, unquote

from corolla.errors import Fault, RefusedError
from corolla.types import ClientId

_MAX_BYTES = 200  # file systems allow 255; temporary names need some of them


def directory_name(client: ClientId) -> str:
    """Return a name without any path in it, different for different clients.

    Letters, digits and ``_ . - ~`` stay (so "0" and "site-a" do), everything else is
    percent-encoded, and so is a leading dot: no name is hidden, is "..", or leads elsewhere.

    Raises: RefusedError for an empty or overlong name.
    """
    name = quote(client, safe="")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if not name or len(name) > _MAX_BYTES:
        raise RefusedError(
            Fault(
                "client",
                client,
                f"a client's name must have 1 to {_MAX_BYTES} characters as a file name, "
                f"this one has {len(name)}",
                "Give the node another name",
            )
        )
    return name


def client_of(name: str) -> ClientId:
    """Return the client that ``directory_name`` made ``name`` of."""
    return unquote(name)
