"""Settings: what they refuse, and the schedule of learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from corolla.errors import RefusedError
from corolla.training.settings import LoopSettings, TrainerSettings

CONF = Path(__file__).parents[2] / "conf" / "trainer"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_trainer_file_states_every_setting(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert set(values) == set(TrainerSettings.__dataclass_fields__)
    assert TrainerSettings(**values).betas == (0.9, 0.999)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"nesterov": True},
            "nesterov=True: needs sgd with momentum; optimizer='sgd' momentum=0.0. "
            "Set trainer.momentum, or nesterov=false",
        ),
        ({"lr_min": 0.5}, "lr_min=0.5: is above trainer.lr=0.1. Use 0 to 0.1"),
    ],
)
def test_a_fault_says_what_and_how_to_mend_it(values: dict[str, Any], text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        TrainerSettings(**{"optimizer": "sgd", "lr": 0.1, **values})
    assert str(caught.value) == text


def test_loop_settings_name_their_faults_too() -> None:
    with pytest.raises(RefusedError) as caught:
        LoopSettings(fused=True, foreach=True, autocast="float16", threads=0)
    assert str(caught.value).splitlines() == [
        "autocast='float16': is not known. Did you mean 'bfloat16'? Known: bfloat16, none",
        "threads=0: is out of range. Use a whole number, 1 or more, 1,024 or less",
    ]
    with pytest.raises(RefusedError, match=r"foreach=True: excludes fused=true. Set one of the"):
        LoopSettings(fused=True, foreach=True)


def test_cosine_falls_from_the_first_round_and_still_moves_in_the_last() -> None:
    settings = TrainerSettings(optimizer="sgd", lr=1.0, lr_schedule="cosine", lr_min=0.2)
    # 0.2 + 0.4 (1 + cos(0, pi/4, pi/2, 3 pi/4))
    expected = [1.0, 0.2 + 0.4 * 1.7071068, 0.6, 0.2 + 0.4 * 0.2928932]
    assert [settings.learning_rate(r, 4) for r in (1, 2, 3, 4)] == pytest.approx(expected)
    assert settings.learning_rate(9, 4) == settings.learning_rate(4, 4)


def test_warm_up_climbs_in_equal_steps_to_the_first_full_round() -> None:
    settings = TrainerSettings(optimizer="sgd", lr=0.9, lr_schedule="cosine", warmup_rounds=2)
    # 1/3, 2/3, then cosine over the 2 rounds that are left: t = 0, 1/2.
    rates = [settings.learning_rate(r, 4) for r in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.3, 0.6, 0.9, 0.45])
    constant = TrainerSettings(optimizer="sgd", lr=0.9, warmup_rounds=2)
    rates = [constant.learning_rate(r, 4) for r in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.3, 0.6, 0.9, 0.9])


@given(
    rounds=st.integers(1, 200),
    warmup=st.integers(0, 250),
    schedule=st.sampled_from(["constant", "cosine"]),
)
def test_rates_are_positive_and_never_above_lr(rounds: int, warmup: int, schedule: str) -> None:
    settings = TrainerSettings(optimizer="sgd", lr=0.5, lr_schedule=schedule, warmup_rounds=warmup)
    rates = [settings.learning_rate(r, rounds) for r in range(1, rounds + 1)]
    assert all(0 < rate <= 0.5 for rate in rates)
    assert warmup >= rounds or rates[warmup] == 0.5


@pytest.mark.parametrize(("number", "rounds"), [(0, 5), (1, 0)])
def test_rounds_count_from_one(number: int, rounds: int) -> None:
    settings = TrainerSettings(optimizer="sgd", lr=0.1)
    with pytest.raises(ValueError, match=f"round={number} of rounds={rounds}: both count from 1"):
        settings.learning_rate(number, rounds)
