from __future__ import annotations

import socket

import pytest

from engines.addresses import address_faults
from tests.deployment.federation import free_port


@pytest.mark.parametrize("address", ["somewhere", "host:", ":80", "host:0", "host:99999", "a/b:1"])
def test_what_is_not_host_and_port_is_refused(address: str) -> None:
    (fault,) = address_faults("engine.address", address)
    assert str(fault) == (
        f"engine.address={address!r}: is not HOST:PORT. Write it as in 10.0.0.5:6379."
    )


def test_an_address_where_somebody_listens_is_good() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert address_faults("engine.address", f"127.0.0.1:{server.getsockname()[1]}") == []


def test_an_address_where_nobody_listens_is_refused() -> None:
    (fault,) = address_faults("engine.address", f"127.0.0.1:{free_port()}")
    assert fault.problem == "nothing answers there (Connection refused)"
