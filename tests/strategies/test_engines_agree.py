"""The same seed gives the same numbers wherever the clients run, and wherever their replies wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from corolla.records.spilled_arrays import SpilledArrays
from tests.strategies.conftest import results, run


@pytest.mark.slow
@pytest.mark.parametrize("method", ["perfedrlnas", "local"])
def test_ray_equals_inline(method: str, tmp_path: Path) -> None:
    inline = run(tmp_path / "inline", f"method={method}")
    ray = run(tmp_path / "ray", f"method={method}", "engine=ray", "engine.actors=2")
    assert results(ray) == results(inline)


def test_replies_on_disk_equal_replies_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ["method=perfedrlnas", "robust=trimmed_mean"]
    in_memory = run(tmp_path / "memory", *plain)
    spilled, on_disk = [], SpilledArrays._spilled
    monkeypatch.setitem(SpilledArrays.__init__.__kwdefaults__, "memory_bytes", 0)
    monkeypatch.setattr(
        SpilledArrays, "_spilled", lambda self, arrays: spilled.append(1) or on_disk(self, arrays)
    )
    assert results(run(tmp_path / "disk", *plain)) == results(in_memory)
    assert len(spilled) >= 4  # replies of two rounds
