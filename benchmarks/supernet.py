"""What cutting a subnet out and averaging subnets costs, against copying the same bytes.

    python -m benchmarks.supernet [--spaces nasvit darts ...]

One thread, random architectures, both sides in turn; the figures are ratios of medians of CPU time:

- ``<space>_cut_over_copy``: cutting a subnet's arrays out of the supernet, over copying those arrays;
- ``<space>_aggregate_over_copy``: averaging five clients' subnets into the supernet, over copying those
  five and the supernet once (what must be read and written at least);
- ``<space>_step_over_plain``: a training step of the module that a client builds from received arrays,
  over one of a freshly built plain module of the same architecture.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.recording import print_table, write_result
from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.updates import Update
from corolla.config.build import build_space, build_trainer_settings
from corolla.launch import plan_run
from corolla.spaces.supernet import Supernet
from corolla.training.optimizers import build_optimizer
from corolla.training.settings import LoopSettings
from corolla.training.torch_settings import configure_torch
from corolla.types import Arrays

SPACES = ("mobilenetv3", "nasvit", "darts")
STEPPED = {"mobilenetv3": "mobilenetv3_32", "nasvit": "nasvit_32", "darts": "darts_small"}
CLIENTS, BATCH = 5, 32


def main() -> None:
    """Measure, print, write results/supernet.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--spaces", nargs="+", default=list(SPACES))
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    raw: dict[str, Any] = {}
    for name in options.spaces:
        found = _arrays(_space(name), options.repeats)
        found |= _steps(_space(STEPPED.get(name, name)), options.repeats)
        for over in ("cut_over_copy", "aggregate_over_copy", "step_over_plain"):
            top, _, bottom = over.partition("_over_")
            against = f"{top}_copy" if bottom == "copy" else bottom
            figures[f"{name}_{over}"] = statistics.median(found[top]) / statistics.median(
                found[against]
            )
        raw[name] = found
    print_table(figures, "figures")
    print(f"written: {write_result('supernet', figures, raw)}")


def _space(name: str) -> Supernet:
    # The data set gives classes and channels; the spaces' own resolution counts.
    return build_space(plan_run([f"space={name}", "engine=inline", "run_dir=unused"]).config)


def _arrays(space: Supernet, repeats: int) -> dict[str, list[float]]:
    """Return milliseconds of cutting, of averaging, and of the copies beside them."""
    state, rng = space.initial_state(0), np.random.default_rng(0)
    found: dict[str, list[float]] = {
        key: [] for key in ("cut", "cut_copy", "aggregate", "aggregate_copy")
    }
    for _ in range(repeats):
        updates = []
        for client in range(CLIENTS):
            architecture = space.sample(rng)
            regions = space.regions(architecture)
            space.cut(state, architecture)  # shapes are known from the second time on, as in a run
            arrays = _timed(found["cut"], lambda a=architecture: space.cut(state, a))
            _timed(found["cut_copy"], lambda a=arrays: _copy(a))
            updates.append(Update(arrays=arrays, regions=regions, client=str(client)))
        _timed(found["aggregate"], lambda u=updates: coverage_average(state, u))
        _timed(
            found["aggregate_copy"],
            lambda u=updates: [_copy(state), *(_copy(update.arrays) for update in u)],
        )
    return found


def _copy(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def _timed(into: list[float], work: Callable[[], Any]) -> Any:
    start = time.process_time()
    result = work()
    into.append(1e3 * (time.process_time() - start))
    return result


def _steps(space: Supernet, repeats: int) -> dict[str, list[float]]:
    """Return milliseconds of training steps of a client's module and of a plain one."""
    config = plan_run([f"space={space.name}", "engine=inline", "run_dir=unused"]).config
    loop = LoopSettings(**config.space.loop["cpu"])
    configure_torch(loop)
    state, architecture = space.initial_state(0), space.middle()
    ours = space.load(architecture, space.cut(state, architecture))
    plain = space.subnet(architecture)
    plain.load_state_dict({n: t.clone() for n, t in ours.state_dict().items()})
    settings = build_trainer_settings(config)
    steps = {
        "step": _stepper(space, ours, settings, loop),
        "plain": _stepper(space, plain, settings, loop),
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(3 * repeats + 3):
        order = list(steps) if repeat % 2 else list(steps)[::-1]
        for name in order:
            _timed(found[name] if repeat >= 3 else [], steps[name])
    return found


def _stepper(
    space: Supernet, model: nn.Module, settings: Any, loop: LoopSettings
) -> Callable[[], None]:
    model.train()
    if loop.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, settings=settings, loop=loop, lr=1e-3)
    shape = (BATCH, space.in_channels, space.resolution, space.resolution)
    images, labels = torch.randn(shape), torch.arange(BATCH) % space.num_classes
    if loop.channels_last:
        images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
