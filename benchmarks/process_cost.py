"""CPU time of a command and of everything it starts, read at the end of each of its rounds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_LOOK_S = 0.02


@dataclass(frozen=True)
class RoundMark:
    """Totals since the start of the command, when a round's line appeared in metrics.jsonl."""

    round: int
    cpu_s: float
    wall_s: float
    largest_server_mib: float  # largest process that is no Ray worker


class ProcessTree:
    """All processes that descend from one, also those that outlive their parents."""

    def __init__(self, root: int) -> None:
        self._known = {root: psutil.Process(root)}
        self._cpu: dict[int, float] = {}

    def look(self) -> tuple[float, float]:
        """Return CPU seconds used so far, and MiB of the largest process that is no Ray worker."""
        for process in list(self._known.values()):
            try:
                for child in process.children(recursive=True):
                    self._known.setdefault(child.pid, child)
            except psutil.NoSuchProcess:
                continue
        largest = 0.0
        for pid, process in list(self._known.items()):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    self._cpu[pid] = times.user + times.system
                    if "ray::" not in " ".join(process.cmdline()):
                        largest = max(largest, process.memory_info().rss / 2**20)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue
        return sum(self._cpu.values()), largest


def measure_run(overrides: Sequence[str], run_dir: Path, rounds: int) -> list[RoundMark]:
    """Run ``corolla run`` and return one mark per round; the run is interrupted after the last."""
    command = [sys.executable, "-m", "corolla.cli.main", "run", f"run_dir={run_dir}", *overrides]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        tree, marks = ProcessTree(process.pid), []
        while len(marks) < rounds and process.poll() is None:
            done = _rounds(run_dir / "metrics.jsonl")
            now = time.perf_counter() - start
            # Looking at all processes costs as much as a round's overhead: once a round, after the
            # processes have all been started.
            if not marks or done > len(marks):
                cpu_s, largest = tree.look()
            for number in range(len(marks) + 1, done + 1):
                marks.append(RoundMark(number, cpu_s, now, largest))
            time.sleep(_LOOK_S)
        if process.poll() is None:
            process.terminate()  # as Ctrl-C, which a shell's background is deaf to
        _, errors = process.communicate(timeout=120)
    if len(marks) < rounds:
        raise RuntimeError(
            f"{' '.join(command)} ended after {len(marks)} rounds:\n{errors.decode()}"
        )
    return marks


def per_round(marks: Sequence[RoundMark], warmup: int) -> tuple[float, float]:
    """Return mean CPU and wall seconds of a round, without the first ``warmup``."""
    first, last = marks[warmup - 1], marks[-1]
    count = last.round - first.round
    return (last.cpu_s - first.cpu_s) / count, (last.wall_s - first.wall_s) / count


def _rounds(path: Path) -> int:
    if not path.is_file():
        return 0
    lines = path.read_text().splitlines()
    return max((int(json.loads(line)["round"]) for line in lines if line.endswith("}")), default=0)
