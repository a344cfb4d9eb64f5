"""How much architecture can matter on the leaderboard's tracks: what an oracle would gain.

    python -m benchmarks.oracle --root PATH [--work FOLDER] [--tracks a,b,c,d] [--rounds 40]
                                [--clients 8] [--architectures 24]

PATH holds CIFAR-10 as class folders. Per track, 24 random architectures of equal cost (within 5 % of the
middle network's multiply-accumulates; on c below the third tier) are each trained by FedAvg over all 100
clients to the end of their schedule, twice, from other weights and with other batches and cohorts. Each is
scored on the test images of 8 clients, in two halves, as deployed and after 5 epochs of fine-tuning on the
client. Track e's clients are track a's.

``results/oracle.json`` has, in points: ``oracle_gain_a``, what each client's best on one half gains over a
draw by lot on the other, of the same trained networks; ``oracle_gain_shared_a``, what one network for all
gains; ``oracle_gain_retrained_a``, ``oracle_gain_shared_retrained_a``, what is left of these when the chosen
one is trained anew, which is architecture alone; ``oracle_bound_a``, what architecture alone would gain by a
choice without noise, by the variances (`benchmarks.variance_components`; a training's luck is among the
noise); the spreads as standard deviations; ``.._fine_tuned_..``: the same after fine-tuning. A finished run
is not repeated, an interrupted one goes on; runs of other settings want another FOLDER. 40 of the
leaderboard's 60 rounds: 48 runs are then about 40 core-minutes a track.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.feature_shift import write as write_shifted
from benchmarks.leaderboard_cells import overrides_of
from benchmarks.recording import print_table, read_raw, write_result
from benchmarks.variance_components import Table, components, expected_best, gains
from corolla.config.build import (
    build_dataset,
    build_space,
    build_trainer,
    class_prior,
    header_of,
)
from corolla.config.compose import compose_values
from corolla.config.schema import require_config
from corolla.data.federation import FederationData
from corolla.data.images import Images
from corolla.data.partition.partition import Partition
from corolla.launch import plan_of, plan_run, resume, start
from corolla.records.run_directory import RunDirectory
from corolla.search.equal_cost import draw_of_cost
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.training.scoring import Scoring
from corolla.types import client_seed

_NAME = "oracle"
TRACKS = ("a", "b", "c", "d")
_TIER = 1 / 16  # of the largest network: what is compared on c
_TOLERANCE = 0.05
_TRAININGS = (0, 1)  # seeds; who has which images is the first's
_DRAW, _TUNE = 0x0AC1E, 0xF17E  # keep draws, and batches of fine-tuning, apart from the runs'
_KINDS = {"deployed": "", "fine_tuned": "fine_tuned_"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write what there is after each run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="train/<class>/")
    parser.add_argument("--work", type=Path, default=Path("runs/oracle"))
    parser.add_argument("--tracks", default=",".join(TRACKS))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--trial", action="store_true", help="nothing is written to results/")
    options = parser.parse_args(arguments)
    unknown = set(options.tracks.split(",")) - set(TRACKS)
    if unknown:
        parser.error(f"no track {', '.join(sorted(unknown))}; there are {', '.join(TRACKS)}")
    for track in options.tracks.split(","):
        for scored in measured(track, options):
            raw = read_raw(_NAME)
            if not options.trial:
                raw[track] = scored
                write_result(_NAME, figures(raw), raw)
        print_table(figures({track: scored}), f"track {track}")


def measured(track: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield all that is known of a track after each run: scores, architectures, how they were trained."""
    work = options.work.absolute() / f"{track}-r{options.rounds}"
    work.mkdir(parents=True, exist_ok=True)
    common = [*overrides_of(track, "fedavg"), f"rounds={options.rounds}", *_root(track, options)]
    common += [
        "engine=inline",
        "report=false",
        "tensorboard=false",
        "evaluation.fine_tune_epochs=0",
    ]
    first = plan_run([*common, "run_dir=unused"])
    if first.partition is None:
        raise SystemExit(f"track {track}: no simulated clients")
    first.partition.save(work / "partition.json")
    chosen = equal_cost(first.space, options.architectures, track=track)
    scored: dict[str, Any] = {
        "rounds": options.rounds,
        "clients": options.clients,
        "architectures": [one.to_list() for one in chosen],
        "macs": [first.space.costs(one).macs for one in chosen],
        "scores": {},
    }
    for training in _TRAININGS:
        for number, architecture in enumerate(chosen):
            folder = work / f"{number:02d}-s{training}"
            kept = folder / "oracle.json"
            if not kept.is_file():
                run = _run(folder, common, architecture, training, work / "partition.json")
                partial = kept.with_suffix(".partial")
                partial.write_text(json.dumps(_scores(run, options.clients)))
                partial.rename(kept)
            scored["scores"][f"{number}-s{training}"] = json.loads(kept.read_text())
            yield scored


def _root(track: str, options: argparse.Namespace) -> list[str]:
    root = options.root.absolute()
    if track == "d":
        shifted = options.work.absolute() / "shift-s0"
        if not shifted.is_dir():
            shifted.parent.mkdir(parents=True, exist_ok=True)
            write_shifted(root, shifted, seed=0)
        root = shifted
    return [f"dataset.root={root}"]


def equal_cost(space: Supernet, count: int, *, track: str) -> list[Architecture]:
    """Return so many different architectures of about equal cost."""
    macs = space.costs(space.middle()).macs
    fits = lambda _: True  # noqa: E731
    if track == "c":
        cap = _TIER * space.costs(space.largest()).macs
        macs, fits = (1 - _TOLERANCE) * cap, lambda one: space.known_macs(one) <= cap
    found: dict[Architecture, None] = {}
    for draw in range(100 * count):
        rng = np.random.default_rng([_DRAW, draw])
        drawn = draw_of_cost(space, macs, fits=fits, rng=rng, tolerance=_TOLERANCE)
        found[drawn] = None
        if len(found) == count:
            return list(found)
    raise SystemExit(f"{space.name}: only {len(found)} architectures of {macs:,.0f} MACs")


def _run(
    folder: Path, common: list[str], architecture: Architecture, seed: int, partition: Path
) -> RunDirectory:
    """Return the finished run of FedAvg with this architecture."""
    if (folder / "summary.json").is_file():
        return RunDirectory.open(folder)
    if folder.is_dir():
        return resume(folder)
    chosen = f"method.architecture={architecture.to_list()}"
    values = compose_values([*common, chosen, f"seed={seed}", f"run_dir={folder}"])
    known = ["partition=file", f"partition.path={partition}"]
    values["partition"] = compose_values(known)["partition"]
    return start(plan_of(values))


def _scores(run: RunDirectory, clients: int) -> dict[str, list[list[float]]]:
    """Return shares of right answers: as deployed and after fine-tuning, by client and half."""
    config = require_config(yaml.safe_load(run.config_text()))
    space, trainer = build_space(config), build_trainer(config)
    state = run.final_state(expected=header_of(config, space))
    partition = Partition.load(run.path / "partition.json")
    data = FederationData(build_dataset(config), partition)
    architecture = space.named(config.method.settings["architecture"])
    found: dict[str, list[list[float]]] = {kind: [] for kind in _KINDS}
    for client in data.clients[:clients]:
        own = data.client(client)
        arrays = state.part("strategy/model/")  # a model shares them: each client needs its own
        model = space.load(architecture, {name: array.copy() for name, array in arrays.items()})
        scoring = Scoring(
            trainer=trainer,
            train=own.train,
            batch_size=config.batch_size,
            classes=space.num_classes,
            statistics=config.evaluation.statistics,
            prior=class_prior(config, space),
        )
        halves = _halves(own.test)
        scoring.apply(model, shared=True)
        found["deployed"].append([trainer.evaluate(model, half).accuracy for half in halves])
        trainer.replaced(loss="cross_entropy").train(  # as every fine-tuning: `clients.deploy`
            model,
            own.train,
            epochs=5,
            batch_size=config.batch_size,
            lr=config.evaluation.fine_tune_lr or 0.01,
            seed=(config.seed, client_seed(client), _TUNE),
        )
        found["fine_tuned"].append([trainer.evaluate(model, half).accuracy for half in halves])
    return found


def _halves(images: Images) -> list[Images]:
    """Return every other image, label by label: halves of about the same labels."""
    order = torch.argsort(images.labels, stable=True)
    return [images.select(order[first::2].tolist()) for first in range(2)]


def table_of(scored: Mapping[str, Any], kind: str) -> Table | None:
    """Return scores in points, (clients, architectures, trainings, halves); None where some are missing."""
    count = len(scored["architectures"])
    names = [[f"{number}-s{training}" for training in _TRAININGS] for number in range(count)]
    if any(name not in scored["scores"] for row in names for name in row):
        return None
    rows = [[scored["scores"][name][kind] for name in row] for row in names]  # a, 2, c, 2
    return 100 * np.array(rows, dtype=np.float64).transpose(2, 0, 1, 3)


def figures(raw: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of the tracks that are finished."""
    found: dict[str, float] = {}
    for track, scored in raw.items():
        for kind, word in _KINDS.items():
            table = table_of(scored, kind)
            if table is None:
                continue
            parts = components(table)
            same, anew = gains(table, retrained=False), gains(table, retrained=True)
            useful = max(0.0, parts.architecture + parts.interaction)
            of = {
                "gain": same.own,
                "gain_error": same.error,
                "gain_shared": same.shared,
                "gain_retrained": anew.own,
                "gain_retrained_error": anew.error,
                "gain_shared_retrained": anew.shared,
                "bound": expected_best(table.shape[1]) * useful**0.5,
                "sd_architecture": max(0.0, parts.architecture) ** 0.5,
                "sd_interaction": max(0.0, parts.interaction) ** 0.5,
                "sd_noise": max(0.0, parts.noise) ** 0.5,
            }
            found |= {f"oracle_{name}_{word}{track}": value for name, value in of.items()}
    return found


def lines(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield the page's table, in points."""
    names = ("sd_architecture", "sd_interaction", "sd_noise", "gain_shared", "gain", "gain_error")
    names += ("gain_retrained", "gain_retrained_error", "gain_shared_retrained", "bound")
    known = figures(raw)
    head = (
        "track",
        "networks",
        "architecture",
        "client x architecture",
        "noise",
        "one for all",
        "retrained",
        "each its best",
        "retrained",
        "without noise",
    )
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for track in raw:
        for kind, word in _KINDS.items():
            if f"oracle_gain_{word}{track}" not in known:
                continue
            of = {name: known[f"oracle_{name}_{word}{track}"] for name in names}
            yield (
                f"| {track}, {kind.replace('_', '-')} | {len(raw[track]['architectures'])} "
                f"| {of['sd_architecture']:.1f} "
                f"| {of['sd_interaction']:.1f} | {of['sd_noise']:.1f} | {of['gain_shared']:+.1f} "
                f"| {of['gain_shared_retrained']:+.1f} | {of['gain']:+.1f} ± {of['gain_error']:.1f} "
                f"| {of['gain_retrained']:+.1f} ± {of['gain_retrained_error']:.1f} | {of['bound']:.1f} |"
            )


if __name__ == "__main__":
    main()
