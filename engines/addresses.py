"""Addresses: whether one that was given makes sense and answers."""

from __future__ import annotations

import socket

from corolla.errors import Fault

CONNECT_TIMEOUT_S = 5.0


def address_faults(key: str, address: str) -> list[Fault]:
    """Return a fault unless ``address`` is HOST:PORT and something accepts connections there."""
    host, _, port = str(address).rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        return [Fault(key, address, "is not HOST:PORT", "Write it as in 10.0.0.5:6379.")]
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S):
            return []
    except OSError as problem:
        return [
            Fault(
                key,
                address,
                f"nothing answers there ({problem.strerror or problem})",
                "Start it first, and see that this machine can reach the port.",
            )
        ]
