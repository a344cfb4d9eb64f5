"""The same seed gives the same numbers wherever the clients run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.strategies.conftest import results, run


@pytest.mark.slow
@pytest.mark.parametrize("method", ["perfedrlnas", "local"])
def test_ray_equals_inline(method: str, tmp_path: Path) -> None:
    inline = run(tmp_path / "inline", f"method={method}")
    ray = run(tmp_path / "ray", f"method={method}", "engine=ray", "engine.actors=2")
    assert results(ray) == results(inline)
