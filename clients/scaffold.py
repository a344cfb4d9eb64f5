"""The client of SCAFFOLD: a control variate of its own corrects every step.

Karimireddy et al., ICML 2020, https://arxiv.org/abs/1910.06378: from y = w, J times
y <- y - lr (g(y) - c_i + c). Then c_i becomes, by option I, the gradient at w, by option II,
c_i - c + (w - y) / (J lr).

Departure: option II is computed as what it is, the mean of the J gradients g(y). For the paper's plain SGD
that is the same number, and it is right where the formula is not: with momentum mu (there too large by
1 / (1 - mu)), clipping, weight decay, AdamW.

``form=niid_bench`` is what Flower's baseline of that name does (fdef7af), for comparisons with its table: c
and c_i start at the weights of the model and not at 0, which cancels out where everybody takes part in the
first round and nowhere else; lr (c - c_i) is taken off the weights beside the optimiser's step, not through
its momentum; option II is the formula, whatever the momentum. Here weight decay sees weights from which that
was taken already.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clients.own_model import kept_arrays
from clients.site import Site, require_store
from clients.subnet import SubnetClient
from corolla.errors import Fault, RefusedError
from corolla.settings import settings
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.training.results import TrainResult
from corolla.types import Arrays

CONTROL = "control/"
"""Before the name of a parameter: what travels is c on its way down, the change of c_i on its way up."""


Form = Literal["paper", "niid_bench"]


@settings
class VariateSettings:
    """How clients renew their control variates."""

    option: Literal["I", "II"]  # I: the gradient at the received model; II: the mean on the way
    form: Form = "paper"

    def __post_init__(self) -> None:
        """Refuse what no public code does."""
        if self.form == "niid_bench" and self.option == "I":
            remedy = "Use method.option=II, or method.form=paper"
            raise RefusedError(Fault("option", "I", "does not exist in form=niid_bench", remedy))


class Correction:
    """An ``after_backward`` hook that adds c - c_i to each gradient, and keeps the mean without it.

    Args:
        shifts: c - c_i by parameter. Those that are 0 throughout change no bit of a gradient.

    Raises:
        ValueError: at the first call, where a name is not a parameter of the model.

    """

    def __init__(self, shifts: Arrays) -> None:
        self.shifts = shifts
        self._steps = 0
        self._parameters: list[tuple[nn.Parameter, Tensor, Tensor | None]] = []  # sum, shift

    def __call__(self, model: nn.Module) -> None:
        """Correct the gradients of ``model``; it is the same one in every call."""
        if not self._steps:
            self._bind(model)
        self._steps += 1
        with torch.no_grad():
            for parameter, total, shift in self._parameters:
                if parameter.grad is not None:
                    total.add_(parameter.grad)
                if shift is None:
                    continue
                if parameter.grad is None:  # not part of this pass: the correction is all it gets
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(shift)

    def mean(self) -> Arrays:
        """Return the mean of the gradients before their correction, by parameter."""
        sums = zip(self.shifts, self._parameters, strict=True)
        return {n: (total / self._steps).cpu().contiguous().numpy() for n, (_, total, _) in sums}

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self._steps

    def _bind(self, model: nn.Module) -> None:
        """Find the parameters; sums and shifts are laid out in memory as they are."""
        named = dict(model.named_parameters())
        for name, array in self.shifts.items():
            if name not in named:
                raise ValueError(f"{name} is not a parameter, so it has no control variate")
            parameter, shift = named[name], None
            if array.any():
                shift = torch.empty_like(parameter).detach().copy_(torch.from_numpy(array))
            self._parameters.append((parameter, torch.zeros_like(parameter).detach(), shift))


class Beside(Correction):
    """Takes lr (c - c_i) off the weights before every step, and leaves gradients alone (niid_bench)."""

    def __init__(self, shifts: Arrays, lr: float) -> None:
        super().__init__(shifts)
        self._lr = lr

    def __call__(self, model: nn.Module) -> None:
        """Correct the weights of ``model``; it is the same one in every call."""
        if not self._steps:
            self._bind(model)
        self._steps += 1
        with torch.no_grad():
            for parameter, _, shift in self._parameters:
                if shift is not None:
                    parameter.sub_(shift, alpha=self._lr)


class ScaffoldClient(SubnetClient):
    """FedAvg's client with corrected gradients. It keeps c_i by round; before its first one c_i is 0."""

    settings: VariateSettings
    _correction: Correction
    _renewed: Arrays  # the next c_i

    def __init__(self, *, site: Site, settings: Any = None) -> None:
        super().__init__(site=site, settings=settings)
        self._store = require_store(site)

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train the received model, corrected; return it with the change of c_i."""
        common = State(arrays).part(CONTROL)
        model = {name: a for name, a in arrays.items() if not name.startswith(CONTROL)}
        beside = self.settings.form == "niid_bench"
        received = {name: model[name].copy() for name in common} if beside else None
        own = kept_arrays(
            self._store,
            self._site.client,
            task.round,
            common,
            what="its control variate",
            start=received,
        )
        shifts = {n: c - own.arrays[n] for n, c in common.items()}
        self._correction = Beside(shifts, task.lr) if beside else Correction(shifts)
        answer = super().fit(task, model)
        if received is not None:  # the formula: c_i - c + (w - y) / (J lr)
            length = self._correction.steps * task.lr
            moved = {n: (received[n] - answer.arrays[n]) / length for n in common}
            self._renewed = {
                n: (moved[n] - shift).astype(shift.dtype) for n, shift in shifts.items()
            }
        change = {CONTROL + n: c - own.arrays[n] for n, c in self._renewed.items()}
        self._store.save(self._site.client, task.round, State(self._renewed, own.meta))
        answer = replace(answer, arrays={**answer.arrays, **change})
        return answer.saying({"state_restarted": float(own.meta["restarted"])})

    def _train(self, model: nn.Module, task: Task) -> TrainResult:
        loss, samples, seen = task.extra.get("loss"), 0, self._correction
        if (
            self.settings.option == "I"
        ):  # steps of length 0: all gradients are those at the received model
            seen, at_rest = Correction(self._correction.shifts), replace(task, lr=0.0)
            samples = self._site.train(
                deepcopy(model), at_rest, epochs=1, loss=loss, hook=seen
            ).samples_processed
        result = self._site.train(model, task, loss=loss, hook=self._correction)
        if self.settings.form == "paper":
            self._renewed = seen.mean()
        return replace(result, samples_processed=result.samples_processed + samples)
