"""What a real node keeps from the server: its paths, and its architecture unless it says otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from clients import client_app
from clients.site import _shares
from corolla.errors import Fault, RefusedError
from corolla.records.errors import CorruptStateError

ERRORS = [
    RefusedError(Fault("state-dir", "/secret/place", "of another experiment", "Clear it")),
    CorruptStateError("/secret/place", "it is missing"),
    OSError(28, "No space left on device", "/secret/place"),
]


def _context(monkeypatch: pytest.MonkeyPatch, *, real: bool) -> Any:
    config = SimpleNamespace(config=SimpleNamespace(on_nodes=real))
    monkeypatch.setattr(client_app, "shared", lambda text: config)
    return SimpleNamespace(run_config={"config": ""})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_reasons_that_name_files_stay_in_the_sites_log(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context = _context(monkeypatch, real=True)
    with (
        pytest.raises(client_app.SiteRefusedError, match="its own log says why") as found,
        client_app._kept_to_the_site(context),
    ):
        raise error
    assert "secret" not in str(found.value)
    assert "/secret/place" in caplog.text


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_in_simulation_reasons_are_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    context = _context(monkeypatch, real=False)
    with pytest.raises(type(error), match="secret"), client_app._kept_to_the_site(context):
        raise error


def test_a_node_shares_its_architecture_only_if_it_says_so() -> None:
    assert _shares({}) is False
    assert _shares({"share-architecture": False}) is False
    assert _shares({"share-architecture": True}) is True


@pytest.mark.parametrize("value", ["true", "no", 1, 0.0])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(RefusedError, match=r"share-architecture=.*without quotes"):
        _shares({"share-architecture": value})
