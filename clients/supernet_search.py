"""The client of HAPFNAS: trains what it receives, searches in a supernet, or scores subnets it is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from clients.deploy import scores, training_metrics
from clients.search_memory import SearchMemory, measured_on
from clients.site import Site
from clients.subnet import SubnetClient
from corolla.search.measured import Measured, from_choices, to_lists
from corolla.search.predictor_search import (
    PersonalSearchSettings,
    PredictorSearch,
    search_seed,
)
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.state import State
from corolla.tasks import Answer, Task, TaskError
from corolla.training.sandwich import SandwichSettings, SupernetTrainer
from corolla.training.subnet_scorer import SubnetScorer
from corolla.types import Arrays

_PIECE = 16  # architectures between two saves


@settings
class SearchClientSettings:
    """Settings of HAPFNAS's clients."""

    personal_search: PersonalSearchSettings


class SupernetClient(SubnetClient):
    """What a task asks for is its ``work``: ``search``, ``score``, ``sandwich``; without one, to train."""

    settings: SearchClientSettings

    def __init__(self, *, site: Site, settings: SearchClientSettings) -> None:
        super().__init__(site=site, settings=settings)
        search = settings.personal_search
        self._fitness = search.fitness
        self._recalibration_images = search.recalibration_images
        self._search = PredictorSearch(site.space, search.predictor)

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Do the task's work."""
        known: dict[Any, Callable[[Task, Arrays], Answer]] = {
            None: super().fit,
            "search": self._do_search,
            "score": self._do_score,
            "sandwich": self._do_sandwich,
        }
        work = task.extra.get("work")
        if work not in known:
            raise TaskError(
                f"work={work!r} is not known; do server and client run the same release?"
            )
        return known[work](task, arrays)

    # --- search -----------------------------------------------------------------------------------------

    def _do_search(self, task: Task, supernet: Arrays) -> Answer:
        """Search in the received supernet; return the architecture found and all that was measured."""
        site, started = self._site, time.perf_counter()
        scorer = self._scorer(supernet)
        seed = search_seed(site.config.seed, site.client)
        course = self._search.course(fits=site.fits(task), seed=seed)
        memory = self._memory(supernet)
        measured = memory.load(task.round)
        scored_s = 0.0

        while wanted := course.wanted(measured):
            for start in range(0, len(wanted), _PIECE):
                before = time.perf_counter()
                measured += _measure(scorer, wanted[start : start + _PIECE])
                scored_s += time.perf_counter() - before
                memory.save(task.round, measured)
        # What was measured under other limits is kept, but neither chosen nor told.
        result = course.result(measured)
        arrays = site.space.cut(supernet, result.architecture)
        model = site.space.load(result.architecture, arrays).to(site.trainer.device)
        metrics = scores(site, model, shared=True) | to_lists(result.measured)
        metrics |= {
            **result.correlations,
            "own_architecture": result.architecture.to_list(),
            "measured": len(result.measured),
            "scoring_s": scored_s,
            "search_s": time.perf_counter() - started - scored_s,
        }
        return self._answer(metrics)

    def _memory(self, supernet: Arrays) -> SearchMemory:
        """Return where the pairs measured in exactly this supernet, on these images, are kept."""
        site, count = self._site, self._recalibration_images
        scored = site.data.test if self._fitness == "test" else site.data.validation
        splits = [scored, site.data.train] if count else [scored]
        on = measured_on(supernet, splits, count, site.config.batch_size)
        return SearchMemory(site, of=on)

    # --- the other kinds of work ------------------------------------------------------------------------

    def _do_score(self, task: Task, parts: Arrays) -> Answer:
        """Score the subnets that were sent, each under its number: ``0/<name>``, ``1/<name>`` ..."""
        site, scorer = self._site, self._scorer({})
        results = []
        for number, architecture in enumerate(from_choices(site.space, task.extra["choices"])):
            arrays = State(parts).part(f"{number}/")
            results.append(scorer.score(site.space.load(architecture, arrays)))
        losses, accuracies = ([one.loss for one in results], [one.accuracy for one in results])
        return self._answer({"losses": losses, "accuracies": accuracies})

    def _do_sandwich(self, task: Task, supernet: Arrays) -> Answer:
        """Train the whole supernet on the client's labels."""
        site, data = self._site, self._site.data
        settings = SandwichSettings(random_subnets=int(task.extra["random_subnets"]))
        result = SupernetTrainer(site.space, site.trainer, settings).train(
            supernet,
            data.train,
            lr=task.lr,
            **site.passes(task),
            fits=site.fits(task),
        )
        return Answer(
            num_examples=len(data.train), arrays=result.arrays, metrics=training_metrics(result)
        )

    def _scorer(self, supernet: Arrays) -> SubnetScorer:
        data, recalibrated = self._site.data, self._recalibration_images > 0
        return SubnetScorer(
            self._site.space,
            supernet,
            self._site.trainer,
            validation=data.test if self._fitness == "test" else data.validation,
            recalibration=data.train if recalibrated else None,
            batch_size=self._site.config.batch_size,
            recalibration_images=self._recalibration_images or None,
            prior=self._site.scoring.offset(shared=True),
        )


def _measure(scorer: SubnetScorer, architectures: Sequence[Architecture]) -> list[Measured]:
    results = [scorer(architecture) for architecture in architectures]
    return [
        Measured(architecture, one.loss, one.accuracy)
        for architecture, one in zip(architectures, results, strict=True)
    ]
