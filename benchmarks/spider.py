"""What SPIDER's pair of models costs on a client, in time and memory.

    python -m benchmarks.spider [--sizes small4 paper] [--repeats 12]

One thread, batches of 32, all sides in turn within one run; ratios of medians of CPU time. For each size
(small4: 4 cells of 8 channels; paper: 8 cells of 16 channels):

- ``pair_over_plain_<size>``: a step of both models as a client makes it (loading and augmenting the batch,
  both forward and backward passes, pull, clipping, both optimisers), over two plain steps of the same
  networks on a batch that is there already (forward, backward, clipping, optimiser);
- ``pair_over_forward_<size>``: the same over one forward pass of the supernet in training mode without
  gradients;
- ``pair_memory_over_single`` (small4): most bytes of tensors alive during the pair's epoch, over the same of
  one supernet trained alone;
- ``score_over_passes_<size>``: deciding one edge of two operations, over two passes over the same images;
- ``final_over_first_<size>``: a step of the pair with a finished local model, over one with the whole one.

``raw`` holds the curve: milliseconds of a step of the pair and of the local model alone after each decision.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.live_tensors import peak_of_tensors
from benchmarks.recording import print_table, write_result
from corolla.config.build import build_trainer_settings
from corolla.data.images import Images
from corolla.launch import plan_run
from corolla.search.progressive import ProgressiveSearch, ProgressiveSettings
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_mixed import MixedDartsSpace
from corolla.training.execution_mode import lay_out
from corolla.training.learner import Trainee
from corolla.training.optimizers import build_optimizer
from corolla.training.pull import Pull
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.statistics import batch_statistics
from corolla.training.trainer import LocalTrainer
from corolla.training.training_run import TrainingRun
from corolla.training.variants import VariantScore, VariantScorer

BATCH, STEPS = 32, 4
_EACH = 5  # steps of the search between two rows of the curve: 17 in all
SIZES = {"small4": {"channels": 8, "cells": 4}, "paper": {"channels": 16, "cells": 8}}
LAMBDA = 0.01


def main() -> None:
    """Measure, print, write results/spider.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    overrides = ["method=fedavg", "trainer=sgd_spider", "engine=inline", "run_dir=unused"]
    bench = _Bench(build_trainer_settings(plan_run(overrides).config), options.repeats)
    figures: dict[str, float] = {}
    raw: dict[str, Any] = {}
    for size in options.sizes:
        space = _space(**SIZES[size])
        found = bench.steps(space)
        for over in ("plain", "forward"):
            figures[f"pair_over_{over}_{size}"] = _ratio(found, "pair", over)
        if size == "small4":
            figures["pair_memory_over_single"] = bench.memory(space, 2) / bench.memory(space, 1)
        scored = bench.scoring(space)
        figures[f"score_over_passes_{size}"] = _ratio(scored, "score", "passes")
        curve = bench.curve(space)
        figures[f"final_over_first_{size}"] = curve[-1]["pair_ms"] / curve[0]["pair_ms"]
        raw[size] = {"steps_ms": found, "scoring_ms": scored, "curve": curve}
        print_table({f"{row['undecided']} undecided": row["pair_ms"] for row in curve}, size)
    print_table(figures, "figures")
    print(f"written: {write_result('spider', figures, raw)}")


def _space(channels: int, cells: int) -> MixedDartsSpace:
    return MixedDartsSpace(
        name="s2",
        num_classes=10,
        in_channels=3,
        resolution=32,
        operations="s2",
        channels=channels,
        cells=cells,
        nodes=4,
        stem_multiplier=3,
        affine=False,
    )


def _ratio(found: dict[str, list[float]], top: str, bottom: str) -> float:
    return statistics.median(found[top]) / statistics.median(found[bottom])


def _images(count: int) -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 10, (0.5,) * 3, (0.25,) * 3)


class _Bench:
    def __init__(self, settings: TrainerSettings, repeats: int) -> None:
        self._settings, self._loop = settings, LoopSettings()
        self._repeats = repeats
        self._trainer = LocalTrainer(settings=settings, loop=self._loop)

    def steps(self, space: MixedDartsSpace) -> dict[str, list[float]]:
        """Return milliseconds of a step of the pair, of two plain steps, of a forward pass."""
        models = [self._model(space) for _ in range(3)]
        run = self._run(space, models[:2])
        plain = [self._plain(model) for model in (self._model(space), self._model(space))]
        batch = self._batch()

        def two_plain_steps() -> None:
            for _ in range(STEPS):
                for step in plain:
                    step(*batch)

        def forward() -> None:
            with torch.inference_mode():
                for _ in range(STEPS):
                    models[2](batch[0])

        return self._timed(pair=lambda: run.epoch(0), plain=two_plain_steps, forward=forward)

    def memory(self, space: MixedDartsSpace, count: int) -> float:
        """Return the most bytes of tensors alive while ``count`` models are trained on the same batches."""
        run = self._run(space, [self._model(space) for _ in range(count)])
        run.epoch(0)  # the optimisers' states exist from now on
        return peak_of_tensors(lambda: run.epoch(1), run.tensors())

    def scoring(self, space: MixedDartsSpace) -> dict[str, list[float]]:
        """Return milliseconds of scoring both operations of an edge, and of two passes over the images."""
        images, network = _images(250), self._model(space)
        scorer = VariantScorer(self._trainer, images, batch_size=250)
        variants = [partial(network.masked, "normal", 3, o) for o in space.plan.operations]
        batch = self._batch(250)

        def passes() -> None:
            with torch.inference_mode(), batch_statistics(network):
                for _ in range(2):
                    functional.cross_entropy(network(batch[0]), batch[1])

        return self._timed(score=lambda: scorer(network, variants), passes=passes)

    def curve(self, space: MixedDartsSpace) -> list[dict[str, float]]:
        """Return milliseconds of a step after each decision of a search by lot."""
        settings = ProgressiveSettings(
            criterion="random",
            rank="loss",
            near_ties=1.0,
            warmup_rounds=0,
            recovery_rounds=1,
            first_step="multiple",
            node_recovery=True,
            clock="rounds",
            topology=True,
            in_edges=2,
            statistics="batch",
        )
        search = ProgressiveSearch(settings=settings)
        whole, local = self._model(space), self._model(space)
        rng, rows = np.random.default_rng(0), []
        while True:
            undecided = search.undecided(local)
            pair, alone = self._run(space, [whole, local]), self._run(space, [local])
            timed = self._timed(
                repeats=max(3, self._repeats // 3),
                pair=lambda: pair.epoch(0),  # noqa: B023 - called before the next turn
                local=lambda: alone.epoch(0),  # noqa: B023
            )
            costs = space.costs(space.of_alive(local.alive()), batch_size=BATCH)
            rows.append(
                {
                    "undecided": undecided,
                    "params": costs.params,
                    "macs": costs.macs,
                    "pair_ms": statistics.median(timed["pair"]),
                    "local_ms": statistics.median(timed["local"]),
                }
            )
            if not undecided:
                return rows
            for _ in range(_EACH):
                if search.undecided(local):
                    search.step(local, memory={}, judge=_nobody, rng=rng, round=1)

    def _model(self, space: MixedDartsSpace) -> DartsNetwork:
        torch.manual_seed(0)
        model = space.supernet()
        lay_out(model, self._loop, torch.device("cpu"))
        return model.train()

    def _run(self, space: MixedDartsSpace, models: list[DartsNetwork]) -> TrainingRun:
        pull = Pull(strength=LAMBDA, targets=space.initial_state(0))
        hooks = [None, pull] if len(models) == 2 else [pull]
        return TrainingRun(
            [
                Trainee(model=model, lr=0.01, after_backward=hook)
                for model, hook in zip(models, hooks, strict=True)
            ],
            _images(STEPS * BATCH),
            trainer=LocalTrainer(settings=self._settings, loop=self._loop),
            batch_size=BATCH,
            seed=(0,),
        )

    def _plain(self, model: DartsNetwork) -> Callable[[Tensor, Tensor], None]:
        """Return a bare training step."""
        optimizer = build_optimizer(model, settings=self._settings, loop=self._loop, lr=0.01)
        parameters, clip = list(model.parameters()), self._settings.clip_norm

        def step(images: Tensor, labels: Tensor) -> None:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()

        return step

    def _batch(self, count: int = BATCH) -> tuple[Tensor, Tensor]:
        images = _images(count)
        floats = images.pixels.float().div(64).to(memory_format=torch.channels_last)
        return floats, images.labels

    def _timed(
        self, *, repeats: int | None = None, **sides: Callable[[], object]
    ) -> dict[str, list[float]]:
        """Return milliseconds per step of each side, all of them in turn; the first turn warms up."""
        found: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range((repeats or self._repeats) + 1):
            for name, side in sides.items():
                start = time.process_time()
                side()
                if turn:
                    found[name].append(1e3 * (time.process_time() - start) / STEPS)
        return found


def _nobody(network: nn.Module, variants: Any) -> list[VariantScore]:
    raise AssertionError("a search by lot asks nobody")


if __name__ == "__main__":
    main()
