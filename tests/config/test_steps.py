"""Steps along a pull that go beyond what it pulls to: refused before the start, by all methods that pull."""

from __future__ import annotations

import re

import pytest

from corolla.errors import RefusedError
from corolla.launch import plan_run
from tests.strategies.conftest import small

_CASES = [
    ("fedprox", "mu=1000", "", "mu=1000.0: pulls by 1000; times trainer.lr=0.02 that is 20,", 50),
    ("fedprox", "mu=50", "", "mu=50.0: pulls by 50; times trainer.lr=0.02 that is 1,", 50),
    ("feddyn", "alpha=1000", "", "alpha=1000.0: pulls by 1000; times trainer.lr=0.02", 50),
    ("fml", "prox_mu=1000", "", "prox_mu=1000.0: pulls by 1000; times trainer.lr=0.02", 50),
    ("ditto", "lambda_local=1000", "", "lambda_local=1000.0: pulls by 1000; times", 50),
    ("ditto", "lambda_local=30", "method.local_lr_scale=2", "lambda_local=30.0: pulls by 60", 25),
    ("spider", "lambda_local=1000", "", "lambda_local=1000.0: pulls by 1000; times", 50),
    # Of both pulls together; less than 4/5 of each is enough.
    ("sfl", "lambda_graph=50", "method.lambda_global=12.5", "lambda_graph=50.0: pulls by 62.5", 40),
    # w_k's own steps are plain, whatever the trainer's are.
    ("pfedme", "lambda_prox=50", "method.inner_lr=0.01", "lambda_prox=50.0: pulls by 50", 50),
    ("pfedme", "local_lr=0.1", "", "lambda_prox=15.0: pulls by 15; times method.local_lr=0.1", 10),
]


@pytest.mark.parametrize(("method", "setting", "other", "said", "limit"), _CASES)
def test_a_step_beyond_what_it_is_pulled_to_is_refused(
    method: str, setting: str, other: str, said: str, limit: int
) -> None:
    more = [other] if other else []
    asked = small(f"method={method}", f"method.{setting}", *more, "trainer.lr=0.02")
    words = rf"method\.{re.escape(said)}.*Use less than {limit}, or a smaller"
    with pytest.raises(RefusedError, match=words):
        plan_run([*asked, "run_dir=unused"])


def test_feddyns_authors_alpha_is_that_of_the_smallest_client() -> None:
    """Of skewed clients the smallest has the strongest pull; alike large ones all have alpha itself."""
    asked = small("method=feddyn", "method.form=authors", "method.alpha=40", "trainer.lr=0.02")
    plan_run([*asked, "run_dir=unused"])  # 0.8
    skewed = ["partition.alpha=0.3", "partition.balanced=false", "partition.images_per_client=null"]
    with pytest.raises(RefusedError, match=r"alpha=40\.0: pulls by \d+.*; times trainer\.lr=0\.02"):
        plan_run([*asked, *skewed, "run_dir=unused"])


def test_adamws_steps_are_no_longer_for_a_longer_gradient() -> None:
    plan_run(small("method=fedprox", "method.mu=1000", "trainer=adamw", "run_dir=unused"))
