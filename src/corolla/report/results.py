"""The accuracies a run is judged by."""

from __future__ import annotations

from dataclasses import dataclass

from corolla.report.load import Run, Spread, mapping, number
from corolla.report.wording import DASH


@dataclass(frozen=True)
class Result:
    """One way of ending the run: which model, and its accuracy over all clients."""

    key: str  # last, chosen, as_trained, fine_tuned, global
    model: str
    test: Spread
    validation: Spread | None = None
    repeated: bool = False  # the same model as an entry before


def results(run: Run) -> list[Result]:
    """Return the run's results; without a summary, those of the evaluations so far."""
    summary = run.summary
    if summary is None:
        return _results_so_far(run)
    best, tuned = mapping(summary.get("best")), mapping(summary.get("fine_tuned"))
    shared, as_trained = mapping(summary.get("global")), mapping(summary.get("as_trained"))
    epochs, chosen = number(tuned.get("epochs")), number(best.get("round"))
    last = int(number(summary.get("rounds")) or run.rounds_done)
    own = run.declares_fine_tuned
    after = f", fine-tuned ({_whole(epochs)} epochs)"
    drafts = [
        ("last", f"last round ({last})" + (after if own else ""), summary),
        ("chosen", f"round chosen on validation ({_whole(chosen)})" + (after if own else ""), best),
        ("as_trained", f"last round ({last}), as trained", as_trained if own else {}),
        ("fine_tuned", f"last round ({last}){after}", tuned),
        ("global", f"global model, last round ({last})", shared),
    ]
    results = []
    for key, model, record in drafts:
        test = Spread.of(record.get("test_accuracy"))
        if test is not None:
            validation = Spread.of(record.get("val_accuracy"))
            results.append(Result(key, model, test, validation, own and key == "fine_tuned"))
    return results


@dataclass(frozen=True)
class SharedModel:
    """A model that serves more than one client, scored on all clients' images together."""

    name: str  # global, tier 1 ...
    macs: float | None
    images: float | None  # test images of the clients that it fits
    test: float | None
    validation: float | None


def shared_models(run: Run) -> list[SharedModel]:
    """Return the run's shared models; none before it is over, or where the method has none."""
    pooled = mapping(mapping(run.summary).get("pooled"))
    return [
        SharedModel(
            str(name),
            number(mapping(entry).get("macs")),
            number(mapping(entry).get("test_images")),
            number(mapping(entry).get("test_accuracy")),
            number(mapping(entry).get("val_accuracy")),
        )
        for name, entry in pooled.items()
    ]


def result(run: Run, key: str) -> Result | None:
    """Return the result called ``key``, if the run has it."""
    return next((entry for entry in results(run) if entry.key == key), None)


def _results_so_far(run: Run) -> list[Result]:
    results: list[Result] = []
    tests = run.deployed_curve("test_accuracy")
    validations = dict(run.deployed_curve("val_accuracy"))
    if tests:
        last, spread = tests[-1]
        model = f"last evaluation so far (round {last})"
        results.append(Result("last", model, spread, validations.get(last)))
    judged = [(validations[r].mean, r, spread) for r, spread in tests if r in validations]
    if judged:
        _, best, spread = max(judged, key=lambda entry: (entry[0], -entry[1]))
        model = f"chosen on validation so far (round {best})"
        results.append(Result("chosen", model, spread, validations[best]))
    shared = run.evaluation_curve("global", "test_accuracy")
    if shared:
        last, spread = shared[-1]
        results.append(Result("global", f"global model so far (round {last})", spread))
    return results


def _whole(value: float | None) -> str:
    return DASH if value is None else f"{value:.0f}"
