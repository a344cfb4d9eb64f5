"""What was tried on Corolla's own method, one change at a time, with figures: also what did not help.

    python -m benchmarks.ideas --root PATH [--work FOLDER] [--groups b,search,orders]
    python -m benchmarks.ideas --docs

PATH holds CIFAR-10 as class folders (``train/<class>/``). As the leaderboard's tuning: the seed that is not
reported, half of the rounds, one run an idea (about 100 seconds of a core). What is finished is skipped, what
was interrupted goes on; ``results/ideas.json`` and the table in docs/corolla.md are written after each.
"another seed" is the noise: the same images of the same clients, but other weights, batches and cohorts.

Groups: ``b``, ``a``, ``d``: the method on that track; ``orders``: its families of architectures on track c;
``search``: a search near the cap in place of a family, on track c, with its control by lot.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.leaderboard import Cell, folder_of_images, rounds_of_a_trial, set_aside
from benchmarks.leaderboard_cells import TITLES, TUNING_SEED, overrides_of
from benchmarks.leaderboard_rows import scores
from benchmarks.leaderboard_summary import insert
from benchmarks.leaderboard_table import OWN
from benchmarks.recording import read_raw, write_result
from corolla.config.compose import compose_values
from corolla.launch import plan_of, resume, start
from corolla.records.run_directory import RunDirectory

_NAME = "ideas"
_PAGE = Path(__file__).parent.parent / "docs" / "corolla.md"
_NOTHING = "as it is"
_OTHER_SEED = "another seed"
_KEYS = ("validation", "deployed", "fine_tuned")

IDEAS: dict[str, tuple[str, ...]] = {
    _NOTHING: (),
    _OTHER_SEED: ("seed=8",),
    "head penalised less": ("method.head_l2=0.001",),
    "head penalised more": ("method.head_l2=0.1",),
    "no pressure on absent classes": ("trainer.absent_count=0.001",),
    "less server momentum": ("method.server_momentum=0.4",),
    "more server momentum": ("method.server_momentum=0.8",),
    "larger steps and less server momentum": (
        "trainer.lr=0.05",
        "trainer.lr_min=0.005",
        "method.server_momentum=0.4",
    ),
    "smaller last steps": ("trainer.lr_min=0.0003",),
    "smaller batches": ("batch_size=16",),
    "smaller batches and steps": (
        "batch_size=16",
        "trainer.lr=0.02",
        "trainer.lr_min=0.002",
    ),
    "Nesterov": ("trainer.nesterov=true",),
    "more weight decay": ("trainer.weight_decay=0.002",),
    "label smoothing": ("trainer.label_smoothing=0.1",),
    "two convolutions a stage": ("method.proposals.order=[width,depth]",),
    "kernels of 5": ("method.proposals.order=[width,kernel]",),
    "norms kept by the client": ("private=[norm]",),
    "classifier kept by the client": ("private=[head]",),
    "fine-tuning with a tenth of the step": ("evaluation.fine_tune_lr=0.001",),
}
"""What was tried of the method: name -> overrides in place of, or beside, those of the leaderboard's arm."""
ORDERS: dict[str, tuple[str, ...]] = {_NOTHING: ()} | {
    f"growing {order.replace(',', ', ')}": (f"method.proposals.order=[{order}]",)
    for order in (
        "width,depth",
        "depth,width",
        "width,kernel",
        "kernel,width",
        "depth,kernel,width",
    )
}
SEARCHES: dict[str, tuple[str, ...]] = {
    _NOTHING: (),
    _OTHER_SEED: ("seed=8", f"cap.seed={TUNING_SEED}"),
    "by lot": ("method/proposals=random",),
    "by lot, settled": ("method/proposals=random", "method.settle=0.6"),
    "settled": ("method.settle=0.6",),
    "one policy, residuals": (
        "method.proposals.policy.shared=true",
        "method.proposals.policy.residual=0.25",
    ),
    "one policy, settled": ("method.proposals.policy.shared=true", "method.settle=0.6"),
    "larger policy steps": ("method.proposals.policy.lr=2",),
    "reward by accuracy": ("method/reward=accuracy",),
    "the best of five at the end": ("method.final_draws=4",),
    "forest": (
        "method/proposals=evolution",
        "method.proposals.initial=2",
        "method.proposals.pairs=all",
        "method.settle=0.6",
    ),
}
GROUPS = {track: (track, OWN, IDEAS) for track in "abd"} | {
    "orders": ("c", OWN, ORDERS),
    "search": ("c", "corolla_near_cap", SEARCHES),
}
"""Group -> track, arm of the leaderboard, what was tried."""
_HEADINGS = {"orders": "families of architectures", "search": "a search near the cap, no family"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, one after another, and write results and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/ideas"))
    parser.add_argument("--groups", default="b,orders,search")
    parser.add_argument("--docs", action="store_true", help="write the table alone")
    options = parser.parse_args(arguments)
    raw = read_raw(_NAME)
    if options.docs:
        insert(_PAGE, table(raw), of="benchmarks.ideas")
        return
    if options.root is None:
        parser.error("--root: where is CIFAR-10?")
    groups = options.groups.split(",")
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    for group in groups:
        track, arm, ideas = GROUPS[group]
        for idea, changes in ideas.items():
            overrides = _changed(overrides_of(track, arm), changes)
            if raw.setdefault(group, {}).get(idea, {}).get("overrides") == overrides:
                continue
            row = _row(group, idea, overrides, options)
            raw[group][idea] = {"overrides": overrides} | {key: row[key] for key in _KEYS}
            write_result(_NAME, {}, raw)
            insert(_PAGE, table(raw), of="benchmarks.ideas")


def _changed(overrides: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Return the overrides with these in place of those of the same keys."""
    return list({text.partition("=")[0]: text for text in (*overrides, *changes)}.values())


def _row(
    group: str, idea: str, overrides: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    track, arm, _ = GROUPS[group]
    cell = Cell(track, arm, TUNING_SEED, tuple(overrides))
    folder = _folder(options, group, idea)
    root = folder_of_images(cell, options.root, options.work.absolute())
    ours = [f"seed={TUNING_SEED}", f"dataset.root={root}", f"rounds={rounds_of_a_trial(cell)}"]
    cheap = ["engine=inline", "report=false", "tensorboard=false", f"run_dir={folder}"]
    values = compose_values(_changed([*ours, *cheap], overrides))
    if idea == _OTHER_SEED:  # but the same images of the same clients
        known = f"partition.path={_folder(options, group, _NOTHING) / 'partition.json'}"
        values["partition"] = compose_values(["partition=file", known])["partition"]
    said, given = folder.with_suffix(".json"), json.dumps(overrides)
    if folder.is_dir() and said.is_file() and said.read_text() != given:
        set_aside(folder)
    if not (folder / "summary.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        said.write_text(given)
        run = resume(folder) if folder.is_dir() else start(plan_of(values))
        print(f"{group}, {idea}: {run.path}", flush=True)
    row = scores(RunDirectory.open(folder))
    print(", ".join(f"{key} {row[key]:.1f}" for key in _KEYS), flush=True)
    return row


def _folder(options: argparse.Namespace, group: str, idea: str) -> Path:
    root: Path = options.work.absolute()
    return root / f"{group}-{idea.replace(' ', '-').replace(',', '')}"


def table(raw: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Return a table for each group: accuracies, and points more than as it is; best first."""
    return [line for group in GROUPS if group in raw for line in _table(group, raw[group])]


def _table(group: str, tried: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    base = tried.get(_NOTHING)
    if base is None:
        return
    track, _, ideas = GROUPS[group]
    yield from ("", ", ".join(filter(None, (TITLES[track], _HEADINGS.get(group)))) + ":", "")
    yield "| tried | settings | validation | test | after fine-tuning | more than as it is |"
    yield "|---|---|---|---|---|---|"
    for idea, row in sorted(tried.items(), key=lambda one: -one[1]["validation"]):
        more = " / ".join(f"{row[key] - base[key]:+.1f}" for key in _KEYS)
        values = " | ".join(f"{row[key]:.1f}" for key in _KEYS)
        settings = ", ".join(f"`{text}`" for text in ideas.get(idea, ()))
        yield f"| {idea} | {settings} | {values} | {more} |"


if __name__ == "__main__":
    main()
