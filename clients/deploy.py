"""What every client does at the end, and how models are scored: once for all ways of training."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from clients.site import Site
from corolla.records.client_models import save_model
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Answer, Task
from corolla.training.latency import latency
from corolla.training.results import TrainResult
from corolla.training.sandwich import SupernetResult
from corolla.training.settings import BALANCED
from corolla.types import Arrays

_FINE_TUNING = 0xF17E  # keeps the fine-tuning's batch order apart from the rounds'


class Score(Protocol):
    """Scores a client's model, or what its method makes of it, on validation and test images."""

    def __call__(self, site: Site, model: nn.Module) -> dict[str, Any]:
        """Return ``val_accuracy``, ``val_loss``, ``test_accuracy``, ``test_loss``, and perhaps more."""


def scores(
    site: Site,
    model: nn.Module,
    *,
    shared: bool,
    loss: str | None = None,
    prefix: str = "",
    score: Score | None = None,
) -> dict[str, Any]:
    """Return the scores of what ``model`` would be, were it deployed; it is left as it is.

    Args:
        site: the client.
        model: received, trained or private.
        shared: it was received, not trained here since: see `corolla.training.scoring.takes_prior`.
        loss: what it was last trained by; None: the trainer's.
        prefix: of the names.
        score: what the method makes of the model; None: its own prediction.

    """
    with site.scoring.applied(model, shared=shared, loss=loss):
        scores = (score or plain_scores)(site, model)
    return {prefix + key: value for key, value in scores.items()}


def plain_scores(site: Site, model: nn.Module) -> dict[str, Any]:
    """Return accuracy and loss of ``model`` as it is, on the client's validation and test images."""
    scores: dict[str, Any] = {}
    for split, images in (("val", site.data.validation), ("test", site.data.test)):
        result = site.trainer.evaluate(model, images)
        scores[f"{split}_accuracy"] = result.accuracy
        scores[f"{split}_loss"] = result.loss
    return scores


def training_metrics(
    result: TrainResult | SupernetResult, beside: TrainResult | None = None
) -> dict[str, Any]:
    """Return a training's entries for the records; ``beside``: the global model's, on the same batches."""
    metrics = {
        "train_loss": result.train_loss,
        "train_s": result.train_s,
        "samples_processed": result.samples_processed,
        "peak_memory_mib": result.peak_memory_mib,
    }
    if beside is not None:
        metrics["global_train_loss"] = beside.train_loss
        metrics["samples_processed"] += beside.samples_processed
    return metrics


def deploy(
    site: Site, task: Task, model: nn.Module, *, shared: bool, score: Score = plain_scores
) -> Answer:
    """Make ``model`` what the client runs and score it, fine-tune that, score it again, keep one of the two.

    `corolla.config.schema.EvaluationConfig.deploy` says which. ``shared`` and ``score`` as in `scores`.
    """
    data, config = site.data, site.config
    site.scoring.apply(model, shared=shared, loss=task.extra.get("loss"))
    metrics = score(site, model)
    kept = to_arrays(model)
    if config.evaluation.latency:
        metrics["latency_ms"] = latency(
            model, data.train.pixels.shape[1], data.train.pixels.shape[2], 1
        )
    if task.epochs:
        loss = site.trainer.settings.loss
        if loss in BALANCED:
            # It would unlearn what is personal: how frequent each class is here. The model has it already.
            loss = "cross_entropy"
        result = site.train(model, task, _FINE_TUNING, loss=loss)
        site.scoring.apply(model, shared=False, loss=loss)
        metrics |= {f"fine_tuned_{key}": value for key, value in score(site, model).items()}
        metrics["samples_processed"] = result.samples_processed
        if config.evaluation.deploy == "fine_tuned":
            kept = to_arrays(model)
    if task.keeps_model:
        _keep(site, task, kept)
    arrays = kept if task.return_arrays else {}
    return Answer(num_examples=len(data.train), arrays=arrays, metrics=metrics)


def _keep(site: Site, task: Task, arrays: Arrays) -> None:
    """Write the client's model to its own disk, where it has one; the weights need not leave it."""
    if site.model_dir is None:
        return
    description = {
        "space": site.config.space.name,
        "choices": task.architecture.to_list(),
        "architecture": site.space.values(task.architecture),
        "classes": list(site.data.class_names),
    }
    save_model(site.model_dir, description, arrays)
    if site.config.on_nodes and site.store is not None:
        site.store.note_finished()
