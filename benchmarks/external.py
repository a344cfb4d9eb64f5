"""Runs the settings of other people's tables and compares our figures with theirs.

    python -m benchmarks.external --root PATH [--work FOLDER] [--seeds 0,1] [CELL ...]

PATH holds CIFAR-10 as class folders, ``train/<class>/`` and ``test/<class>/``. A cell is a method on a
partition; without names all are run, one after another. A finished run is not repeated, an interrupted one
goes on, and ``results/external.json`` is written after each.

``niid_*``: the table of Flower's niid_bench (LeNet; the global model on the official test images; best round;
baselines/niid_bench at fdef7af). There the best of 50 rounds is chosen on test images, so it is here, and the
last round stands beside it. Partitions are drawn by its rules from its seed, 42, plus ours. Its SCAFFOLD has
faults (`clients.scaffold`): ``_as_published`` has them, too. About 3,000 CPU seconds a cell.

``fedrep_*``: the setting of Flower's fedrep baseline, after the paper's. Two or five labels per client, 83 %
of its images to train on; figures are means over all clients' own test images, after every fifth round, where
theirs are over 10 clients drawn in every round. Published is what can be read off its picture for two labels:
a band, whose middle and half width stand for mean and spread; for five labels nothing. Its FedAvg trains head
and body in turn, as its FedRep does, and averages both; ours trains the whole network, as often. By trials
of one and three rounds a cell of FedRep takes about 1,000 CPU seconds, of FedAvg 2,000 (the network alone:
1,700).

Departures: the pictures may be compressed (JPEG), so they are not to the bit those of the table; initial
weights and batches are drawn by our seeds; one training image of each client is called its validation image,
and trained on. The fedrep baseline has BatchNorm in its network ("no BN will definitely lead training to
collapse", its code says), the paper's and ours have none.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.client_labels import RULES, with_official_test, with_own_test
from benchmarks.recording import print_table, read_raw, write_result
from corolla.config.build import build_dataset
from corolla.config.compose import compose_values
from corolla.config.schema import require_config
from corolla.launch import plan_run, resume, start
from corolla.records.run_directory import RunDirectory

_NAME = "external"
_FIRST_SEED = 42  # of both baselines' partitions
_TRAIN_SHARE = 0.83  # of a client's images, in fedrep


@dataclass(frozen=True)
class Cell:
    """One figure of a published table."""

    method: tuple[str, ...]  # overrides of the experiment
    partition: str  # one of `client_labels.RULES`
    published: float | None  # %, mean over runs
    spread: float | None  # its standard deviation, points
    experiment: str = "niid_bench"
    model: str = "global"  # whose accuracy: global | personalised


_FEDPROX = ("method=fedprox", "method.mu=0.01")
_SCAFFOLD = ("method=scaffold", "method.server_lr=1.0", "method.option=II")
_PUBLISHED = (*_SCAFFOLD, "method.form=niid_bench", "method.weights=examples")
_FEDREP = (  # 5 epochs of the head with augmentation, one of the body; no further training before a score
    *("method=fedrep", "method.head_epochs=5", "method.body_epochs=1"),
    *("method.final_head_epochs=0", "method.head_phase_bn=train"),
)
_FEDAVG = ("method=fedavg", "local_epochs=6")  # as many
CELLS = {
    "niid_fedavg_dir05": Cell(("method=fedavg",), "dir05", 62.47, 0.43),
    "niid_fedavg_iid": Cell(("method=fedavg",), "iid", 71.32, 0.33),
    "niid_fedavg_2labels": Cell(("method=fedavg",), "2labels", 51.17, 1.09),
    "niid_fedprox_dir05": Cell(_FEDPROX, "dir05", 65.63, 0.08),
    # The table's mu is the best of four on the test images: its page says so, and not which.
    "niid_fedprox_dir05_mu01": Cell(("method=fedprox", "method.mu=0.1"), "dir05", 65.63, 0.08),
    "niid_scaffold_dir05": Cell(_SCAFFOLD, "dir05", 68.08, 0.96),
    "niid_scaffold_dir05_as_published": Cell(_PUBLISHED, "dir05", 68.08, 0.96),
    "fedrep_fedrep_2labels": Cell(
        _FEDREP, "2labels_drawn", 83.5, 6.5, "fedrep_bench", "personalised"
    ),
    "fedrep_fedavg_2labels": Cell(_FEDAVG, "2labels_drawn", 44.0, 17.5, "fedrep_bench"),
    "fedrep_fedrep_5labels": Cell(
        _FEDREP, "5labels_drawn", None, None, "fedrep_bench", "personalised"
    ),
    "fedrep_fedavg_5labels": Cell(_FEDAVG, "5labels_drawn", None, None, "fedrep_bench"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells that are missing and write what there is after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--root", type=Path, required=True, help="train/<class>/, test/<class>/")
    parser.add_argument("--work", type=Path, default=Path("runs/external"), help="run directories")
    parser.add_argument("--seeds", default="0", help="as in 0,1,2")
    parser.add_argument("--rounds", type=int, help="a trial of so many; nothing is written")
    options = parser.parse_args(arguments)
    unknown = set(options.cells) - set(CELLS)
    if unknown:
        parser.error(f"no cell {', '.join(sorted(unknown))}; there are {', '.join(CELLS)}")
    for seed in (int(seed) for seed in options.seeds.split(",")):
        for name in options.cells or CELLS:
            directory = _run(name, seed, options)
            if options.rounds is None:
                add_run(name, seed, directory)
            last = accuracies(directory.metrics(), CELLS[name].model)[-1][1]
            print(f"{name}, seed {seed}: {last:.2f} % at the end")


def _run(name: str, seed: int, options: argparse.Namespace) -> RunDirectory:
    """Return the finished run of a cell, running what is missing of it."""
    folder = options.work.absolute() / f"{name}-s{seed}"
    if (folder / "summary.json").is_file():
        return RunDirectory.open(folder)
    if folder.is_dir():
        return resume(folder)
    cell = CELLS[name]
    common = [f"experiment={cell.experiment}", f"dataset.root={options.root.absolute()}"]
    path = folder.with_name(f"{cell.partition}-s{seed}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_partition(path, cell, seed, common)
    own = [
        f"partition.path={path}",
        f"seed={seed}",
        f"run_dir={folder}",
        *([] if options.rounds is None else [f"rounds={options.rounds}", "evaluation.every=1"]),
    ]
    cheap = ["engine=inline", "report=false", "tensorboard=false"]
    return start(plan_run([*common, *cell.method, *own, *cheap]))


def _write_partition(path: Path, cell: Cell, seed: int, overrides: list[str]) -> None:
    config = require_config(compose_values(overrides))
    dataset = build_dataset(config)
    rng = np.random.default_rng(_FIRST_SEED + seed)
    rule = cell.partition
    known: Any = {"seed": seed, "rule": f"{cell.experiment} {rule}"}
    if cell.experiment == "fedrep_bench":
        parts = RULES[rule](dataset.labels(), config.clients, rng)
        partition = with_own_test(dataset, parts, share=_TRAIN_SHARE, rng=rng, **known)
    else:
        train = dataset.train_size()
        if train is None:
            raise SystemExit(f"{config.dataset['root']}: no folders train/ and test/ in it")
        parts = RULES[rule](dataset.labels()[:train], config.clients, rng)
        partition = with_official_test(dataset, parts, **known)
    partition.save(path)


def accuracies(metrics: list[dict[str, Any]], model: str) -> list[tuple[int, float]]:
    """Return the rounds that have scores with the mean over clients' test images of ``model``, in %.

    Where clients have equally many test images, that is the mean over images.
    """
    scored = [(row["round"], row["evaluation"]) for row in metrics if row.get("evaluation")]
    return [(number, 100 * float(row[model]["test_accuracy"]["mean"])) for number, row in scored]


def add_run(name: str, seed: int, directory: RunDirectory) -> None:
    """Put a finished run into results/external.json, beside those that are there."""
    raw = read_raw(_NAME)
    curve = accuracies(directory.metrics(), CELLS[name].model)
    best_round, best = max(curve, key=lambda point: (point[1], -point[0]))
    run = {
        "best": best,
        "best_round": best_round,
        "last": curve[-1][1],
        "rounds": [number for number, _ in curve],
        "by_round": [round(value, 2) for _, value in curve],
        "wall_s": directory.summary()["costs"]["wall_s"],
    }
    raw.setdefault(name, {})[str(seed)] = run
    figures = compared(raw)
    write_result(_NAME, figures, raw)
    print_table(figures, "best round, % (and less the published figure)")


def compared(raw: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Return means over seeds: of the best round, its difference from the published one, the last round."""
    figures = {}
    for name, runs in raw.items():
        best = float(np.mean([run["best"] for run in runs.values()]))
        figures[name] = best
        published = CELLS[name].published
        if published is not None:
            figures[f"{name}_difference"] = best - published
        figures[f"{name}_last"] = float(np.mean([run["last"] for run in runs.values()]))
    return figures


if __name__ == "__main__":
    main()
