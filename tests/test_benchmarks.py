"""What the benchmarks find by themselves is there: every space of the configuration is counted."""

from __future__ import annotations

import pytest

from benchmarks.space_sizes import _space
from tests.conftest import CONF

SPACES = sorted(path.stem for path in (CONF / "space").glob("*.yaml"))


@pytest.mark.parametrize("name", SPACES)
def test_every_space_is_counted(name: str) -> None:
    space = _space(name, 3)
    assert space.name == name
    assert space.num_classes == 10
    assert space.known_macs(space.smallest()) > 0
