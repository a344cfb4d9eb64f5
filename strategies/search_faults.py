"""What is wrong with a search: with a schedule that prunes step by step, with what it chooses on."""

from __future__ import annotations

import math

from corolla.errors import Fault
from corolla.federation import Federation
from corolla.search.decisions import Search
from corolla.spaces.darts_mixed import MixedDartsSpace


def search_faults(
    federation: Federation, search: Search, *, at_server: bool = False
) -> list[Fault]:
    """Return what keeps the clients, or the server, from pruning a network as ``search`` says."""
    space, faults = federation.space, []
    if not isinstance(space, MixedDartsSpace):
        remedy = "Use space=darts_s2_mixed or another of the mixed DARTS spaces"
        return [Fault("space", space.name, "holds no mixed networks to prune", remedy)]
    if not at_server:
        problem = "operations would be chosen on images that are trained on"
        remedy = "Leave it out: they are trained on after the last decision"
        faults += validation_faults(federation, problem, remedy)
    share = federation.participants / federation.clients
    own = int(federation.rounds * share)  # rounds that a client can expect to take part in
    needed = search.rounds_needed(space.plan)
    if search.clock == "participations" and not at_server:
        wanted = math.ceil(needed / share)
        problem = f"the search takes {needed} rounds of a client's own (warm-up, steps, recovery)"
        enough = own >= needed
    else:
        wanted, problem = needed, f"the search takes {needed} rounds (warm-up, steps, recovery)"
        enough = federation.rounds >= wanted
    if not enough:
        who = f"; with {federation.participants} of {federation.clients} clients a round it gets {own}"
        who = "" if at_server or share == 1 else who
        remedy = f"Use rounds={wanted} or more, or shorten the search (method.search.*)"
        faults.append(Fault("rounds", federation.rounds, problem + who, remedy))
    return faults


def validation_faults(
    federation: Federation, problem: str, remedy: str = "Leave it out"
) -> list[Fault]:
    """Return the fault of a run that trains on validation images with a method that chooses on them."""
    if not federation.train_on_validation:
        return []
    return [Fault("train_on_validation", True, problem, remedy)]
