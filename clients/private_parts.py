"""Any client, with parts of its model that stay with it: the run's ``private`` (FedPer, FedBN ...).

The server leaves them out of its messages and says of which architecture (`Task.withheld`). They lie on the
client's own disk in the size of the supernet: cut for the architecture that came, pasted back after training,
entries outside of the cut as they were. One that never trained starts from the common initial ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clients.client import Client
from clients.own_model import newest_usable
from clients.site import Site, require_store
from corolla.aggregation.regions import Region, cut, paste
from corolla.records.client_store import PRIVATE
from corolla.spaces.architecture import Architecture
from corolla.state import State
from corolla.tasks import Answer, Task
from corolla.types import Arrays


class PrivatePartsClient(Client):
    """Adds the private arrays to what came, and takes them out of what leaves.

    A repeated round starts from what it first started from. Damaged parts, and those that diverged, go back a
    round, or start anew, loudly.
    """

    def __init__(self, *, site: Site, client: Client) -> None:
        super().__init__(site=site)
        self._client = client
        self._names = site.space.names_in(site.config.private)
        evaluation = site.config.evaluation
        # Only then are clients asked to deploy a round of long ago.
        keep = site.config.rounds if evaluation.deploy == "fine_tuned" else None
        self._store = require_store(site).apart(PRIVATE, keep=keep)

    def fit(self, task: Task, arrays: Arrays) -> Answer:
        """Train as the method does, and keep the private parts of what comes out."""
        if task.withheld is None:
            return self._public(self._client.fit(task, arrays))
        kept = self._kept(task, after=False)
        regions = self._regions(task.withheld)
        answer = self._client.fit(task, self._whole(task.withheld, arrays, kept))
        if regions.keys() <= answer.arrays.keys():
            trained = {name: answer.arrays[name] for name in regions}
            state = State(paste(kept.arrays, trained, regions), kept.meta)
            self._store.save(self._site.client, task.round, state)
        return _told(self._public(answer), kept)

    def evaluate(self, task: Task, arrays: Arrays) -> Answer:
        """Score with the private parts as they are after the task's round."""
        if task.withheld is None:
            return self._client.evaluate(task, arrays)
        kept = self._kept(task, after=True)
        return _told(self._client.evaluate(task, self._whole(task.withheld, arrays, kept)), kept)

    def deploy(self, task: Task, arrays: Arrays) -> Answer:
        """Deploy with the private parts as they are after the task's round."""
        if task.withheld is None:
            return self._public(self._client.deploy(task, arrays))
        kept = self._kept(task, after=True)
        answer = self._client.deploy(task, self._whole(task.withheld, arrays, kept))
        return _told(self._public(answer), kept)

    def facts(self) -> dict[str, Any]:
        """Return what the client says about itself."""
        return self._client.facts()

    def _public(self, answer: Answer) -> Answer:
        arrays = {name: a for name, a in answer.arrays.items() if name not in self._names}
        return replace(answer, arrays=arrays)

    def _whole(self, architecture: Architecture, arrays: Arrays, kept: State) -> Arrays:
        """Return the architecture's arrays, in its order: those that came, and cuts of those kept here."""
        own = cut(kept.arrays, self._regions(architecture))
        return {
            name: own[name] if name in own else arrays[name]
            for name in self._site.space.shapes(architecture)
        }

    def _regions(self, architecture: Architecture) -> Mapping[str, Region]:
        regions = self._site.space.regions(architecture)
        return {name: region for name, region in regions.items() if name in self._names}

    def _kept(self, task: Task, *, after: bool) -> State:
        """Return the private arrays as they were before the task's round, or after it."""
        site, space = self._site, self._site.space
        before = task.round + 1 if after else task.round
        what = "the private part of its model"
        kept, lost = newest_usable(self._store, site.client, before, self._checked, what=what)
        if kept is not None:
            return kept
        initial = space.initial_state(site.config.seed)
        arrays = {name: array for name, array in initial.items() if name in self._names}
        return State(arrays, {"restarted": lost})

    def _checked(self, state: State) -> State:
        """Return what was saved. KeyError or ValueError where it is not such a state."""
        shapes = {name: array.shape for name, array in state.arrays.items()}
        wanted = {n: s for n, s in self._site.space.supernet_shapes.items() if n in self._names}
        if shapes != wanted:
            raise ValueError(f"it holds {sorted(shapes)}, expected {sorted(wanted)}")
        return State(state.arrays, {"restarted": bool(state.meta["restarted"])})


def _told(answer: Answer, kept: State) -> Answer:
    """Return the answer with word of what was lost: of these arrays, or of what the method keeps itself."""
    lost = answer.metrics.get("state_restarted", 0.0)
    return answer.saying({"state_restarted": max(float(kept.meta["restarted"]), lost)})
