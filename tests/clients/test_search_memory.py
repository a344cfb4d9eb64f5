"""Measured pairs are taken up again where they are still true, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clients.search_memory import SearchMemory, measured_on
from corolla.data.images import Images
from corolla.errors import RefusedError
from corolla.records.client_store import ClientStore
from corolla.search.measured import Measured
from tests.conftest import make_space

SPACE = make_space("mobilenetv2_8")
PAIRS = [Measured(SPACE.smallest(), 2.5, 0.25), Measured(SPACE.largest(), float("inf"), 0.0)]


def _memory(path: Path, of: str, store: bool = True, **experiment: str) -> SearchMemory:
    kept = ClientStore(path, experiment=experiment) if store else None
    site: Any = SimpleNamespace(client="1", store=kept, space=SPACE)
    return SearchMemory(site, of=of)


def _images(value: int = 0) -> Images:
    pixels = torch.full((2, 1, 8, 8), value, dtype=torch.uint8)
    return Images(pixels, torch.tensor([0, 1]), (0.5,), (0.25,))


def test_pairs_of_an_earlier_round_are_taken_up(tmp_path: Path) -> None:
    _memory(tmp_path, "a").save(7, PAIRS)
    assert _memory(tmp_path, "a").load(7) == PAIRS  # the round, begun anew
    assert _memory(tmp_path, "a").load(9) == PAIRS
    assert _memory(tmp_path, "a").load(6) == []  # a round from before they were measured


def test_pairs_of_another_supernet_are_not(tmp_path: Path) -> None:
    _memory(tmp_path, "a").save(7, PAIRS)
    assert _memory(tmp_path, "b").load(7) == []


def test_without_a_disk_a_search_begins_anew(tmp_path: Path) -> None:
    memory = _memory(tmp_path, "a", store=False)
    memory.save(7, PAIRS)
    assert memory.load(7) == []
    assert not list(tmp_path.iterdir())


def test_what_is_damaged_goes_back_to_earlier_pairs_and_is_lost_where_there_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _memory(tmp_path, "a").save(6, PAIRS[:1])
    _memory(tmp_path, "a").save(7, PAIRS)
    earlier, newest = sorted(tmp_path.rglob("round-*"))
    newest.write_bytes(newest.read_bytes()[:-9])
    assert _memory(tmp_path, "a").load(7) == PAIRS[:1]
    assert "client 1: its saved search of round 7 cannot be used" in caplog.text
    earlier.write_bytes(earlier.read_bytes()[:-9])
    assert _memory(tmp_path, "a").load(7) == []
    assert "client 1: its saved search STARTS ANEW" in caplog.text


def test_pairs_of_another_experiment_are_refused(tmp_path: Path) -> None:
    _memory(tmp_path, "a", seed="0").save(7, PAIRS)
    with pytest.raises(RefusedError, match="another experiment: seed is '0' there, '5' here"):
        _memory(tmp_path, "a", seed="5").load(7)


def test_the_digest_tells_weights_images_and_settings_apart() -> None:
    ones = np.ones((2, 3), np.float32)
    same = measured_on({"a": ones, "b": ones[:1]}, [_images()], 30, 16)
    assert same == measured_on({"b": ones[:1].copy(), "a": ones.copy()}, [_images()], 30, 16)
    assert same == measured_on({"b": ones[:1], "a": np.asfortranarray(ones)}, [_images()], 30, 16)
    one_bit = np.nextafter(ones, 2, dtype=np.float32)
    others = [
        measured_on({"a": one_bit, "b": ones[:1]}, [_images()], 30, 16),
        measured_on({"a": ones[:1], "b": ones}, [_images()], 30, 16),
        measured_on({"a": ones.reshape(3, 2), "b": ones[:1]}, [_images()], 30, 16),
        measured_on({"a": ones, "b": ones[:1]}, [_images(1)], 30, 16),
        measured_on({"a": ones, "b": ones[:1]}, [_images(), _images()], 30, 16),
        measured_on({"a": ones, "b": ones[:1]}, [_images()], 0, 16),
        measured_on({"a": ones, "b": ones[:1]}, [_images()], 30, 8),
    ]
    assert len({same, *others}) == 1 + len(others)
