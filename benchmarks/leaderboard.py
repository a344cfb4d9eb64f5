"""The leaderboard: every method on every track, cell by cell, with page and picture of what there is.

    python -m benchmarks.leaderboard --root PATH [--work FOLDER] [--processes 2] [--seeds 0,1,2]
                                     [--tracks a,b] [--arms fedavg,local] [--rounds N] [--large] [--tune]
    python -m benchmarks.leaderboard --docs [--large]

PATH holds CIFAR-10 as class folders (``train/<class>/``). A cell is one run of an arm on a track with a
seed, in a folder of its own below FOLDER; on track e two, the second on the new clients. What is finished is
skipped, what was interrupted goes on, what failed is said and left. ``results/leaderboard.json`` is written
after each cell; a cell whose settings have changed since is run anew, one whose folder alone is gone is not.
A control by lot waits for the search whose sizes it takes, and has it run again where its folder is gone.

--tune: on a seed that is not reported, in half the rounds, all arms by the same budget: three step sizes,
then at the best of them up to two more values of one parameter of the method (of arms without one: two more
step sizes). The best on validation images is taken from then on; a track that was not tuned takes what track
a has. --large: the version for a GPU, of larger spaces and more rounds, with files of its own
(``leaderboard_large``). --rounds: a trial, nothing is written. The tables in README.md,
docs/results.md, docs/corolla.md and docs/fednas_family.md are written with the page.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.feature_shift import write as write_shifted
from benchmarks.leaderboard_cells import (
    ARMS,
    BETWEEN,
    DEFAULT_STEP,
    STEP_SIZES,
    TITLES,
    TRACKS,
    TUNING_SEED,
    Tuned,
    overrides_of,
    stage_of,
    trained_by,
)
from benchmarks.leaderboard_chart import chart
from benchmarks.leaderboard_family import family
from benchmarks.leaderboard_rows import scores
from benchmarks.leaderboard_summary import insert, table
from benchmarks.leaderboard_table import OWN, figures, page
from benchmarks.recording import read_raw, write_result
from corolla.config.compose import compose_values
from corolla.records.run_directory import RunDirectory

_DOCS = Path(__file__).parents[1] / "docs"
_FAMILY = _DOCS / "fednas_family.md"
_SUMMARIES = (_DOCS.parent / "README.md", _DOCS / "results.md", _DOCS / "corolla.md")
_STAGE_ROUNDS = 20  # of evaluations on track e, where a method's stage for new clients has rounds


@dataclass(frozen=True)
class Cell:
    """One row of the table, or one trial of a tuning."""

    track: str
    arm: str
    seed: int
    overrides: tuple[str, ...]  # of the track and the arm; seed and folders come beside them
    searched: tuple[str, ...] = ()  # overrides of the search whose sizes it takes
    trial: str = ""  # of a tuning: what is tried, as in "0.1" or "0.1 method.mu=0.1"
    tuned: str = ""  # of a row: what it takes of a tuning, written likewise

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        trial = self.trial and f"-lr{self.trial.replace(' ', '-').replace('=', '')}"
        return f"{self.track}-{self.arm}{trial}-s{self.seed}"

    @property
    def source(self) -> str | None:
        """Name of the cell whose sizes this one takes."""
        search = ARMS[self.arm].sizes_of
        return search and f"{self.track}-{search}-s{self.seed}"

    @property
    def settings(self) -> str:
        """What the results keep of all that the row comes from, to see whether it has changed since."""
        every = (*self.overrides, *self.searched)
        stage = stage_of(self.arm, self.overrides) if self.track == "e" else None
        if stage is not None and stage != self.overrides:
            every += stage
        return hashlib.sha256(" ".join(every).encode()).hexdigest()[:8]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/leaderboard"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tracks", default=",".join(TRACKS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument(
        "--rounds", type=int, help="a trial with so many rounds; nothing is written"
    )
    parser.add_argument("--large", action="store_true", help="larger spaces, more rounds: a GPU's")
    parser.add_argument("--tune", action="store_true", help="try settings instead")
    parser.add_argument("--docs", action="store_true", help="write the page alone")
    options = parser.parse_args(arguments)
    if options.docs:
        _write(options, {})
        return
    if options.root is None:
        parser.error("--root: where is CIFAR-10?")
    if options.rounds is not None:
        options.work /= f"trial-{options.rounds}"  # finished cells stay where they are
    _refuse_unknown(parser, "track", options.tracks, TRACKS)
    _refuse_unknown(parser, "arm", options.arms, ARMS)
    for trials in (_steps, _parameters) if options.tune else (_reported,):
        run_all(list(trials(options)), options)


def _refuse_unknown(
    parser: argparse.ArgumentParser, what: str, given: str, known: Iterable[str]
) -> None:
    unknown = set(given.split(",")) - set(known)
    if unknown:
        parser.error(f"no {what} {', '.join(sorted(unknown))}; there are {', '.join(known)}")


# --- which cells ------------------------------------------------------------------------------------------


def _name(options: argparse.Namespace) -> str:
    return "leaderboard_large" if options.large else "leaderboard"


def _asked(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    for track in options.tracks.split(","):
        for arm in options.arms.split(","):
            if track in ARMS[arm].tracks:
                yield track, arm


def _reported(options: argparse.Namespace) -> Iterator[Cell]:
    """Return the cells that are asked for: one seed of everything before the next."""
    found = Tuned(read_raw(_name(options)))
    for seed in (int(seed) for seed in options.seeds.split(",")):
        for track, arm in _asked(options):
            yield _row(options, found, track, arm, seed)


def _row(options: argparse.Namespace, found: Tuned, track: str, arm: str, seed: int) -> Cell:
    lr, more = found.of(track, arm)
    settings = overrides_of(track, arm, lr=lr, more=more, large=options.large)
    tuned = " ".join((f"{lr or DEFAULT_STEP:g}", *more))
    search = ARMS[arm].sizes_of
    searched = _row(options, found, track, search, seed).overrides if search else ()
    return Cell(track, arm, seed, settings, searched, tuned=tuned)


def _trial(options: argparse.Namespace, track: str, arm: str, lr: float, *more: str) -> Cell:
    settings = overrides_of(track, arm, lr=lr, more=more, large=options.large)
    return Cell(track, arm, TUNING_SEED, settings, trial=" ".join((f"{lr:g}", *more)))


def _steps(options: argparse.Namespace) -> Iterator[Cell]:
    """Return the trials of step sizes; a control takes what its search has."""
    for track, arm in _asked(options):
        if not ARMS[arm].tuned_as:
            yield from (_trial(options, track, arm, lr) for lr in STEP_SIZES)


def _parameters(options: argparse.Namespace) -> Iterator[Cell]:
    """Return the trials at the best of the step sizes, which are over."""
    tuned = Tuned(read_raw(_name(options)))
    for track, arm in _asked(options):
        best = tuned.best_step(track, arm)
        if ARMS[arm].tuned_as or best is None:
            continue
        key, values = ARMS[arm].grid or ("", ())
        yield from (_trial(options, track, arm, best, f"{key}={value}") for value in values)
        if not values:
            yield from (_trial(options, track, arm, round(best * f, 6)) for f in BETWEEN)


# --- running them -----------------------------------------------------------------------------------------


def run_all(cells: list[Cell], options: argparse.Namespace) -> None:
    """Run cells side by side, each in a process of its own with one thread."""
    waiting = _missing(cells, options)
    running: dict[subprocess.Popen[bytes], tuple[Cell, list[str]]] = {}
    try:
        while waiting or running:
            names = {cell.name for cell in waiting} | {cell.name for cell, _ in running.values()}
            free = (cell for cell in waiting if cell.source not in names)
            if len(running) < options.processes and (cell := next(free, None)):
                waiting.remove(cell)
                command = _command(cell, options)
                if command is None:
                    _record(cell, options)
                else:
                    running[_started(cell, command, options)] = cell, command
                continue
            for process in [one for one in running if one.poll() is not None]:
                cell, command = running.pop(process)
                log_file = options.work / f"{cell.name}.log"
                if process.returncode or _command(cell, options) == command:
                    print(f"{cell.name}: failed ({process.returncode}), see {log_file}", flush=True)
                else:
                    waiting.insert(0, cell)  # its second run is next, or its row
            time.sleep(0.2 if running else 0)
    finally:
        for process in running:  # they say how to resume, which the next call does
            process.terminate()


def _missing(cells: list[Cell], options: argparse.Namespace) -> list[Cell]:
    """Return the cells that the results lack, and the searches whose folders these need."""
    if options.rounds is not None:  # of a trial nothing is written
        return list(cells)
    raw = read_raw(_name(options))
    missing = [cell for cell in cells if not _is_recorded(cell, raw)]
    found, searches = Tuned(raw), {}
    for cell in missing:
        if search := ARMS[cell.arm].sizes_of:
            needed = _row(options, found, cell.track, search, cell.seed)
            searches[needed.name] = needed
    named = {cell.name for cell in missing}
    return [*(searches[name] for name in searches if name not in named), *missing]


def _is_recorded(cell: Cell, raw: dict[str, Any]) -> bool:
    kept = raw.get("tuning" if cell.trial else "runs", {}).get(cell.track, {}).get(cell.arm, {})
    if cell.trial:
        return cell.trial in kept
    return bool(kept.get(str(cell.seed), {}).get("settings") == cell.settings)


def _started(
    cell: Cell, command: list[str], options: argparse.Namespace
) -> subprocess.Popen[bytes]:
    print(f"{cell.name}: {' '.join(command[2:])}", flush=True)
    with (options.work / f"{cell.name}.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def _command(cell: Cell, options: argparse.Namespace) -> list[str] | None:
    """Return what runs the cell's next run or goes on with it; None where it is finished."""
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    for name, own in _runs(cell, options, work):
        folder, said = work / name, work / f"{name}.json"  # what the folder's run was started with
        program = [sys.executable, "-m", "corolla.cli.main"]
        if not (folder.is_dir() and said.is_file() and json.loads(said.read_text()) == own):
            if folder.is_dir():
                set_aside(folder)
            said.write_text(json.dumps(own))
            return [*program, "run", *own]
        if not (folder / "summary.json").is_file():
            return [*program, "resume", str(folder)]
    return None


def set_aside(folder: Path) -> None:
    """Rename the folder of a run of other settings."""
    folder.rename(folder.with_name(f"{folder.name}.before-{time.strftime('%Y%m%d-%H%M%S')}"))


def _runs(cell: Cell, options: argparse.Namespace, work: Path) -> Iterator[tuple[str, list[str]]]:
    """Return the runs of a cell, folder and overrides, in their order."""
    root = folder_of_images(cell, options.root, work)
    rounds = options.rounds or (rounds_of_a_trial(cell) if cell.trial else None)
    stage = stage_of(cell.arm, cell.overrides) if cell.track == "e" else None
    common = [*cell.overrides, *([] if rounds is None else [f"rounds={rounds}"])]

    def sizes(name: str) -> list[str]:
        return [f"method.proposals.run={work / name}"] if cell.source else []

    ours = [f"seed={cell.seed}", f"dataset.root={root}"]
    cheap = ["engine=inline", "report=false", "tensorboard=false"]
    if cell.track == "e":
        common += trained_by(cell.arm)
    name = cell.name if stage is None else f"{cell.name}-train"
    first = f"{cell.source}-train" if cell.track == "e" else str(cell.source)
    yield name, [*common, *sizes(first), *ours, f"run_dir={work / name}", *cheap]
    if stage is not None:
        search = [f"rounds={min(_STAGE_ROUNDS, rounds or _STAGE_ROUNDS)}", "stage=new_clients"]
        begin = [*search, f"from={work / name}", f"run_dir={work / cell.name}"]
        yield cell.name, [*stage, *sizes(str(cell.source)), *ours, *begin, *cheap]


def folder_of_images(cell: Cell, root: Path, work: Path) -> Path:
    """Return the folder of a cell's images: ``root``, or one in ``work`` whose images are shifted."""
    if cell.track != "d":
        return root.absolute()
    shifted = work / f"shift-s{cell.seed}"
    if not shifted.is_dir():
        write_shifted(root, shifted, seed=cell.seed)
    return shifted


def rounds_of_a_trial(cell: Cell) -> int:
    """Return half of the cell's rounds."""
    return int(compose_values([*cell.overrides, "dataset.root=unused"])["rounds"]) // 2


def _record(cell: Cell, options: argparse.Namespace) -> None:
    """Put a finished cell into the results."""
    trained = options.work / f"{cell.name}-train"
    row = scores(
        RunDirectory.open(options.work / cell.name),
        trained=RunDirectory.open(trained) if trained.is_dir() else None,
        new_only=cell.track == "e",
    )
    print(
        f"{cell.name}: deployed {row['deployed']:.1f}, fine-tuned {row['fine_tuned']:.1f}",
        flush=True,
    )
    if options.rounds is not None:
        return
    raw = read_raw(_name(options))
    if cell.trial:
        tried = raw.setdefault("tuning", {}).setdefault(cell.track, {}).setdefault(cell.arm, {})
        tried[cell.trial] = row["validation"]
    else:
        runs = raw.setdefault("runs", {}).setdefault(cell.track, {}).setdefault(cell.arm, {})
        runs[str(cell.seed)] = {"settings": cell.settings, "tuned": cell.tuned} | row
    _write(options, raw)


def _write(options: argparse.Namespace, raw: dict[str, Any]) -> None:
    """Write results and page; the page alone where there is nothing new."""
    name = _name(options)
    if raw:
        write_result(name, figures(raw), raw)
    raw = raw or read_raw(name)
    (_DOCS / f"{name}.md").write_text(page(raw, large=options.large))
    (_DOCS / f"{name}.svg").write_text(chart(raw.get("runs", {}), TITLES, own=OWN))
    if not options.large:
        for path in _SUMMARIES:
            insert(path, table(raw))
        insert(_FAMILY, family(raw))


if __name__ == "__main__":
    main()
