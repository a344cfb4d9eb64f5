"""What a method's file sets for itself, and that what the user says wins, wherever it stands."""

from __future__ import annotations

import pytest

from corolla.config.compose import compose_values

BALANCED = "balanced_softmax_client"


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        ("method=corolla", "absent_count", 0.1),
        ("method=corolla trainer.absent_count=1", "absent_count", 1),
        ("method=corolla trainer=adamw", "absent_count", 0.1),
        ("method=corolla", "loss", BALANCED),
        ("method=corolla trainer.absent_count=1", "loss", BALANCED),
        ("method=corolla trainer=adamw", "loss", BALANCED),
        ("method=fedrod", "loss", BALANCED),
        ("method=fedrod trainer.loss=cross_entropy", "loss", "cross_entropy"),
        ("method=hapfnas", "loss", "balanced_softmax"),
        ("method=hapfnas trainer=adamw", "loss", "balanced_softmax"),
        ("method=hapfnas trainer.loss=cross_entropy", "loss", "cross_entropy"),
        ("experiment=hapfnas_small trainer.loss=cross_entropy", "loss", "cross_entropy"),
        ("method=fedavg", "loss", "cross_entropy"),
    ],
)
def test_of_the_trainer(overrides: str, key: str, value: object) -> None:
    assert compose_values(overrides.split())["trainer"][key] == value


@pytest.mark.parametrize(
    ("overrides", "private"),
    [
        ("method=fedavg", []),
        ("method=fedper private=[norm]", ["norm"]),
        ("private=[] method=fedper", []),
        ("method=fedper method.private=[stem]", ["stem"]),
    ],
)
def test_of_private_parts(overrides: str, private: list[str]) -> None:
    assert compose_values(overrides.split())["private"] == private


def test_nothing_settles_by_default() -> None:
    assert compose_values(["method=perfedrlnas"])["method"]["settle"] == 0
