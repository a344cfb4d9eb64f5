"""How much a federated round costs beyond the training in it.

    python -m benchmarks.simulation --root FOLDER     class folders of CIFAR-10 (any 32x32 images do)

20 clients with 250 training images, 6 a round, subnets of the 32x32 MobileNetV3 space; the same subnets,
images, batches and epochs in (a) a tutorial's loop, (b) the best bare loop, (c) that loop in two processes
at once, which is what sharing this machine's memory costs, (d) engine=inline, (e) engine=ray with two actors.
CPU and wall seconds per round, all in turn, ``--repeats`` times; the figures are ratios of medians. Rounds
before are left out: each process makes its kernels for every new shape of layer, two actors each their own.
Also: cutting and aggregating at full size, 1,000 clients against 20, what the server's memory holds of 100
replies of 40 MB, and the time from the command to the end of a first round of one client of the main job.
``--only`` keeps the other parts of the results, whose commits they name.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bare_loops import Cost, Setting, Work, best_round, naive_round
from benchmarks.process_cost import measure_run, per_round
from benchmarks.recording import print_table, read_figures, read_raw, write_result
from clients.wire import from_record, to_record
from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import leading_regions
from corolla.aggregation.updates import Update
from corolla.config.build import (
    build_dataset,
    build_partition,
    build_space,
    build_strategy,
    build_trainer,
)
from corolla.data.federation import FederationData
from corolla.federation import Federation
from corolla.launch import plan_run
from corolla.records.environment import collect_environment
from corolla.records.spilled_arrays import MEMORY_BYTES, SpilledArrays
from corolla.training.torch_settings import configure_torch

CLIENTS, PARTICIPANTS, EPOCHS, BATCH = 20, 6, 1, 32
COMMON = [
    "experiment=cifar10_small",
    f"clients={CLIENTS}",
    f"clients_per_round={PARTICIPANTS}",
    f"local_epochs={EPOCHS}",
    f"batch_size={BATCH}",
    "evaluation.every=0",
    "evaluation.statistics=aggregate",
    "method.warmup_rounds=100000",  # policies stay uniform: the subnets are known beforehand
    "trainer.clip_norm=null",  # the bare loops do not clip
    "report=false",
    "tensorboard=false",
]


def main() -> None:
    """Measure, print, write results/simulation.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True, help="folder of class folders of images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6, help="measured rounds per repeat")
    parser.add_argument("--warmup", type=int, default=6, help="rounds before them")
    parser.add_argument("--only", help="the part that is measured anew, such as many_clients")
    options = parser.parse_args()
    common = [*COMMON, f"dataset.root={options.root}"]
    parts: dict[str, Callable[[], Any]] = {
        "overhead": lambda: _overhead(common, options.rounds, options.warmup, options.repeats),
        "supernet": _supernet,
        "first_round": lambda: _first_round(options.repeats),
        "main_job": lambda: _main_job(options.repeats),
        "many_clients": lambda: _many_clients(common, options.repeats),
        "many_replies": lambda: _many_replies(options.repeats),
    }
    if options.only not in (None, *parts):
        parser.error(f"--only: there are {', '.join(parts)}")
    raw = read_raw("simulation") if options.only else {}
    for name in [options.only] if options.only else parts:
        raw[name] = parts[name]()
        raw.setdefault("commits", {})[name] = collect_environment(seed=0, device="cpu")["commit"]
    # What other benchmarks put there stays.
    figures = {**read_figures("simulation"), **_figures(raw)}
    print_table(figures, "figures")
    print(f"written: {write_result('simulation', figures, raw)}")


def _overhead(
    common: list[str], rounds: int, warmup: int, repeats: int
) -> dict[str, list[dict[str, float]]]:
    names = ("naive", "best", "two", "inline", "ray")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in ("naive", "best"):
            # In a process of its own: the tutorial's author made none of our process-wide settings.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[name].append(pool.apply(_bare, (name, common, rounds, warmup)))
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            both = pool.starmap(_bare, [("best", common, rounds, warmup)] * 2, chunksize=1)
        found["two"].append({key: (both[0][key] + both[1][key]) / 2 for key in both[0]})
        for engine in ("inline", "ray"):
            with tempfile.TemporaryDirectory() as folder:
                overrides = [*common, f"engine={engine}", "rounds=100000"]
                marks = measure_run(overrides, Path(folder) / "run", rounds + warmup)
            cpu_s, wall_s = per_round(marks, warmup=warmup)
            found[engine].append({"cpu_s": cpu_s, "wall_s": wall_s})
        print(f"repeat {repeat + 1}:", {name: values[-1] for name, values in found.items()})
    return found


def _bare(name: str, common: list[str], rounds: int, warmup: int) -> dict[str, float]:
    """Return the mean cost of a round of a bare loop, after ``warmup`` others."""
    torch.set_num_threads(1)
    setting, work = _work(common, rounds + warmup)
    if name == "best":
        configure_torch(setting.loop)
    loop = {"naive": naive_round, "best": best_round}[name]
    return _mean([loop(setting, items) for items in work][warmup:])


def _work(common: list[str], rounds: int) -> tuple[Setting, list[list[Work]]]:
    """Return what each round's participants train, as the strategy will draw it."""
    config = plan_run([*common, "engine=inline", "rounds=100000", "run_dir=unused"]).config
    space = build_space(config)
    trainer = build_trainer(config)
    federation = Federation.of(config, space=space, trainer=trainer.settings, budgets={})
    strategy = build_strategy(config, federation=federation)
    dataset = build_dataset(config)
    data = FederationData(dataset, build_partition(config, dataset))
    clients = [str(i) for i in range(CLIENTS)]
    work = [
        [
            Work(order.task.architecture, data.client(order.task.client))
            for order in strategy.orders(number, strategy.cohort(number, clients))
        ]
        for number in range(1, rounds + 1)
    ]
    setting = Setting(
        space=space,
        state=space.initial_state(config.seed),
        settings=trainer.settings,
        loop=trainer.loop,
        epochs=EPOCHS,
        batch_size=BATCH,
    )
    return setting, work


def _supernet() -> dict[str, list[float]]:
    """Time one cut, and one aggregation of five subnets, of the full-size space, in ms."""
    config = plan_run(["space=mobilenetv3", "engine=inline", "run_dir=unused"]).config
    space = build_space(config)
    state, rng = space.initial_state(0), np.random.default_rng(0)
    cuts, folds = [], []
    for _ in range(30):
        architectures = [space.sample(rng) for _ in range(5)]
        updates = []
        for number, architecture in enumerate(architectures):
            space.regions(architecture)
            start = time.perf_counter()
            arrays = space.cut(state, architecture)
            cuts.append(1e3 * (time.perf_counter() - start))
            update = Update(arrays=arrays, regions=space.regions(architecture), client=str(number))
            updates.append(update)
        start = time.perf_counter()
        coverage_average(state, updates)
        folds.append(1e3 * (time.perf_counter() - start))
    return {"cut_ms": cuts, "aggregate5_ms": folds}


def _first_round(repeats: int) -> list[dict[str, float]]:
    """Return wall and CPU seconds from the command to a first round's end, once the files are in memory."""
    settings = ["engine=ray", "clients_per_round=1", "rounds=100000", "report=false"]
    found = []
    for _ in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            (mark,) = measure_run(settings, Path(folder) / "run", 1)
        found.append({"cpu_s": mark.cpu_s, "wall_s": mark.wall_s})
        print(f"first round after {mark.wall_s:.1f} s, {mark.cpu_s:.1f} s of CPU")
    return found[1:]


def _main_job(repeats: int) -> list[float]:
    """Return the seconds that plain `corolla run` takes, once the files are in memory."""
    found = []
    for _ in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            command = [sys.executable, "-m", "corolla.cli.main", "run", f"run_dir={folder}/run"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found.append(time.perf_counter() - start)
        print(f"the main job took {found[-1]:.1f} s")
    return found[1:]


def _many_clients(common: list[str], repeats: int) -> dict[str, Any]:
    """Return seconds per round and growth of the largest server process for 20 and 1,000 clients.

    All train the same network: of a search's, other clients draw others, which cost more or less.
    """
    small = [
        *(override for override in common if not override.startswith("method.")),
        "method=fedavg",
        "engine=ray",
        "rounds=100000",
        "partition.images_per_client=48",
        "evaluation.fine_tune_epochs=0",
    ]
    found: dict[str, Any] = {}
    for clients in (20, 1000) * repeats:
        with tempfile.TemporaryDirectory() as folder:
            marks = measure_run([*small, f"clients={clients}"], Path(folder) / "run", 16)
        cpu_s, wall_s = per_round(marks, warmup=6)
        entry = {
            "cpu_s": cpu_s,
            "wall_s": wall_s,
            "server_mib": [mark.largest_server_mib for mark in marks],
        }
        found.setdefault(str(clients), []).append(entry)
        print(f"{clients} clients: {wall_s:.2f} s a round")
    return found


def _many_replies(repeats: int) -> dict[str, list[dict[str, float]]]:
    """Return what reading and averaging 100 replies of 40 MB takes, with a bound of memory and without."""
    bounds = {"bounded": MEMORY_BYTES, "unbounded": 2**60}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in bounds}
    for name in ["bounded", "unbounded"] * repeats:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name].append(pool.apply(_fold_replies, (bounds[name],)))
        print(f"100 replies, {name}:", found[name][-1])
    return found


def _fold_replies(memory_bytes: int) -> dict[str, float]:
    """Return seconds and the most memory of this process's own (not of files) beyond that before."""
    supernet = {f"w{n}": np.zeros((1000, 1000), np.float32) for n in range(10)}
    shapes = {name: array.shape for name, array in supernet.items()}
    regions = leading_regions(shapes, shapes)
    before, most, start = _own_mib(), 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        kept = SpilledArrays(Path(folder), memory_bytes=memory_bytes)
        updates = []
        for client in range(100):
            record = to_record({name: array + client for name, array in supernet.items()})
            arrays = kept.kept(from_record(record))
            updates.append(Update(arrays=arrays, regions=regions, weight=1.0, client=str(client)))
            del record, arrays
            most = max(most, _own_mib())
        (value,) = {float(a[0, 0]) for a in coverage_average(supernet, updates).values()}
    most = max(most, _own_mib())
    if abs(value - 49.5) > 1e-3:
        raise SystemExit(f"the average is {value}, not 49.5")
    return {"wall_s": time.perf_counter() - start, "own_mib": most - before}


def _own_mib() -> float:
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in x]
    return int(line.split()[1]) / 1024


def _figures(raw: dict[str, Any]) -> dict[str, float]:
    def median(name: str, key: str) -> float:
        return statistics.median(entry[key] for entry in raw["overhead"][name])

    many = raw["many_clients"]
    wall = {n: statistics.median(entry["wall_s"] for entry in many[n]) for n in many}
    growth = [entry["server_mib"][-1] - entry["server_mib"][0] for entry in many["1000"]]
    best_cpu, best_wall = median("best", "cpu_s"), median("best", "wall_s")
    return {
        "naive_over_best_cpu": median("naive", "cpu_s") / best_cpu,
        "two_at_once_over_best_cpu": median("two", "cpu_s") / best_cpu,
        "inline_over_best_cpu": median("inline", "cpu_s") / best_cpu,
        "ray_over_best_cpu": median("ray", "cpu_s") / best_cpu,
        "ray_over_best_wall": median("ray", "wall_s") / best_wall,
        "cut_ms": statistics.median(raw["supernet"]["cut_ms"]),
        "aggregate5_ms": statistics.median(raw["supernet"]["aggregate5_ms"]),
        "round_1000_over_20_clients": wall["1000"] / wall["20"],
        "server_growth_1000_clients_mib": max(growth),
        "server_memory_100_replies_mib": max(e["own_mib"] for e in raw["many_replies"]["bounded"]),
        "unbounded_memory_100_replies_mib": max(
            entry["own_mib"] for entry in raw["many_replies"]["unbounded"]
        ),
        "bounded_over_unbounded_s": statistics.median(
            few["wall_s"] / all_["wall_s"]
            for few, all_ in zip(
                raw["many_replies"]["bounded"], raw["many_replies"]["unbounded"], strict=True
            )
        ),
        "first_round_s": min(entry["wall_s"] for entry in raw["first_round"]),
        "first_round_cpu_s": min(entry["cpu_s"] for entry in raw["first_round"]),
        "main_job_s": min(raw["main_job"]),
    }


def _mean(costs: list[Cost]) -> dict[str, float]:
    count = len(costs)
    return {
        "cpu_s": sum(cost.cpu_s for cost in costs) / count,
        "wall_s": sum(cost.wall_s for cost in costs) / count,
    }


if __name__ == "__main__":
    main()
