"""Measures every cell of P, one after another, and writes ``gain.json``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from corolla.data.client_data import ClientData
from corolla.errors import Fault, RunFailedError, refuse
from corolla.gain.cells import STARTS, Cell, CellFile, Key, Start, setting_faults
from corolla.gain.finished_run import FinishedRun, SharedWeights
from corolla.gain.matrix import described
from corolla.records.json_files import write_json
from corolla.training.results import DivergedError, OptimizerState
from corolla.training.settings import BALANCED
from corolla.types import ClientId, client_seed

_GAIN = (
    0x6A1B  # keeps the batch order apart from the run's; no architecture in it: all see the same
)


@dataclass(frozen=True, kw_only=True)
class GainSettings:
    """How every cell is trained. ``lr`` None: the step of the run's own fine-tuning."""

    epochs: int
    lr: float | None = None
    starts: Sequence[Start] = STARTS

    def __post_init__(self) -> None:
        faults = []
        if self.epochs < 1:
            faults.append(Fault("epochs", self.epochs, "must be 1 or more", "The paper has 30"))
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            remedy = "Leave it out for the run's own"
            faults.append(Fault("lr", self.lr, "must be a number above 0", remedy))
        refuse(faults)


Progress = Callable[[Cell, int, int], None]
"""Told each new cell, its number from 1, and how many there are."""


def measure_gain(
    run_dir: Path, settings: GainSettings, *, fresh: bool, progress: Progress
) -> dict[str, Any]:
    """Fine-tune every client's architecture on every client's images; return what `gain.json` says.

    Cells that an earlier call finished with the same settings are not measured again, unless
    ``fresh``. ``gain.json`` holds every start whose cells are complete.

    Raises:
        RefusedError: settings out of range or not those of the finished cells; see also
            `FinishedRun.open` for runs.
        RunFailedError: a fine-tuning diverged.

    """
    run = FinishedRun.open(run_dir, starts=settings.starts)
    epochs, lr = settings.epochs, settings.lr or run.federation.last_lr
    with run.directory.lock():
        file, output = CellFile(run.directory.path), run.directory.path / "gain.json"
        shared = run.supernet() if "supernet" in settings.starts else None
        if fresh:
            file.remove()
            output.unlink(missing_ok=True)
        cells = file.read()
        faults = setting_faults(cells.values(), file.path, epochs=epochs, lr=lr)
        refuse(faults)
        keys = list(product(settings.starts, run.clients, run.clients))
        missing = [(number, key) for number, key in enumerate(keys, 1) if key not in cells]
        for number, cell in _measured(run, shared, missing, epochs=epochs, lr=lr):
            file.append(cell)
            cells[cell.key] = cell
            progress(cell, number, len(keys))
        result = {
            "clients": run.clients,
            "epochs": epochs,
            "lr": lr,
            "starts": _described(run.clients, cells),
        }
        write_json(output, result)
    return result


def fine_tune(
    run: FinishedRun,
    data: ClientData,
    model: nn.Module,
    *,
    shared: bool,
    epochs: int,
    lr: float,
) -> list[float]:
    """Train ``model`` in place on the client's images; return its accuracy after each epoch.

    The accuracies are of the client's test images; nothing is chosen by them. ``shared``: the weights are
    the server's, not those that a client deploys.
    """
    trainer, scoring = run.trainer, run.scoring(data)
    model.to(trainer.device)
    if shared:
        scoring.apply(model, shared=True)
    if trainer.settings.loss in BALANCED:  # as every fine-tuning: `clients.deploy`
        trainer = trainer.replaced(loss="cross_entropy")
    state: OptimizerState | None = None
    accuracies = []
    for epoch in range(epochs):
        result = trainer.train(
            model,
            data.train,
            epochs=1,
            first_epoch=epoch,
            batch_size=run.config.batch_size,
            lr=lr,
            seed=(run.config.seed, client_seed(data.client), _GAIN),
            optimizer_state=state,
            keep_optimizer_state=True,
        )
        state = result.optimizer_state
        with scoring.applied(model, shared=False, loss=trainer.settings.loss):
            score = trainer.evaluate(model, data.test)
        accuracies.append(score.accuracy)
    return accuracies


def _measured(
    run: FinishedRun,
    shared: SharedWeights | None,
    keys: Sequence[tuple[int, Key]],
    *,
    epochs: int,
    lr: float,
) -> Iterator[tuple[int, Cell]]:
    data: ClientData | None = None
    for number, (start, client, other) in keys:
        began = time.perf_counter()
        if start == "own" and client == other:
            accuracies, best_epoch = [run.accuracies[client]], 0
        else:
            if data is None or data.client != client:
                data = run.training_data(client)
            of_server = start == "supernet" and shared is not None
            if start == "supernet" and shared is not None:
                arrays = shared.slice_of(other)
            else:
                arrays = run.own_weights(other)
            model = run.space.load(run.architectures[other], arrays)
            try:
                accuracies = fine_tune(run, data, model, shared=of_server, epochs=epochs, lr=lr)
            except DivergedError as error:
                raise RunFailedError(
                    f"start={start}: the architecture of client {other} diverges on the images of "
                    f"client {client}, in epoch {error.epoch + 1} at lr={lr:g}. "
                    "Give a lower --lr, with --fresh"
                ) from error
            best_epoch = accuracies.index(max(accuracies)) + 1
        yield (
            number,
            Cell(
                start=start,
                client=client,
                architecture_of=other,
                epochs=epochs,
                lr=lr,
                accuracy=accuracies[-1],
                best_accuracy=max(accuracies),
                best_epoch=best_epoch,
                cell_s=time.perf_counter() - began,
            ),
        )


def _described(clients: Sequence[ClientId], cells: dict[Key, Cell]) -> dict[str, Any]:
    """Return the matrices of every start that is complete."""
    results: dict[str, Any] = {}
    for start in STARTS:
        keys = [[(start, i, j) for j in clients] for i in clients]
        if all(key in cells for row in keys for key in row):
            last = [[cells[key].accuracy for key in row] for row in keys]
            best = [[cells[key].best_accuracy for key in row] for row in keys]
            results[start] = {**described(last), "best_epoch": described(best)}
    return results
