"""The leaderboard's tracks and arms: what stands between ``corolla run`` and the folder of a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

TRACKS = {
    "a": "board_dirichlet",
    "b": "board_labels",
    "c": "board_tiers",
    "d": "board_shift",
    "e": "board_new_clients",
    "f": "board_cells",
}
TITLES = {
    "a": "Label skew: 100 clients, Dirichlet 0.3",
    "b": "Two labels per client",
    "c": "Device tiers: at most 1, 1/4, 1/16, 1/64 of the largest network",
    "d": "Feature shift: rotated, blurred, gray, half resolution",
    "e": "New clients: 20 of the 100 of track a join when the other 80 have trained",
    "f": "Cells: 6 clients, Dirichlet 0.3, DARTS networks for images of 16 pixels",
}
STEP_SIZES = (0.01, 0.03, 0.1)
DEFAULT_STEP = 0.03  # of conf/experiment/board.yaml
BETWEEN = (0.6, 1.7)  # of arms without a parameter of their own: the best step, times these
TUNING_SEED = 9  # reported nowhere
SERVER_IMAGES = ("server_set=held_out", "server_set.images=1000")  # of methods that need some
_MIXED = "darts_s2_mixed_small"
Stage = Literal["own", "global", "alone"]
"""How an arm serves new clients: its method's stage, FedAvg's on its global model, or training alone."""


@dataclass(frozen=True)
class Arm:
    """A method with its settings.

    Args:
        overrides: of the track's experiment.
        tracks: where it takes part. On "c" only what keeps to the tiers does, on "e" what can serve clients
            that it did not train with, on "f" what searches in cells, by gradients or one path at a time.
        stage: how.
        grid: key and values of the parameter that is tuned; the default, which is not in it, is tried with
            the step sizes.
        sizes_of: the search whose finished run gives a control by lot its sizes.
        tuned_as: the arm whose step size and parameter it takes.
        space: whose larger version the GPU's is, one of `LARGE`.

    """

    overrides: tuple[str, ...]
    tracks: str = "abd"
    stage: Stage = "own"
    grid: tuple[str, tuple[float | str, ...]] | None = None
    sizes_of: str | None = None
    tuned_as: str | None = None
    space: str = "elastic_cnn_64"


def _fixed(method: str, *more: str, **settings: object) -> Arm:
    """Return an arm on one network: the middle one of the space, on c the smallest."""
    return replace(Arm((f"method={method}", *more)), **settings)  # type: ignore[arg-type]


_MOMENTUM = ("method.server_momentum", (0.5, 0.9))
_DAMPING = ("method.damping", (0.0, 1.0))
_THIN = (  # the largest copies below 1/64, 1/16, 1/4 of the whole's multiply-accumulates
    "space=elastic_cnn_width",
    "space.supernet.rates=[0.0625,0.1875,0.4375,1.0]",
    "method.mask_absent=false",  # the balanced softmax is these clients' mask, as everybody's
)
_MASKS = ("method.assignment=limits", "method.threshold=layer")  # of FIARSE
_SETTLED = "method.settle=0.6"
_TIERED = (  # track c's tiers, searched in a cell's time
    "method.tiers.shares=[0.015625,0.0625,0.25,1.0]",
    "method.tiers.evolution={population:16,generations:4,mutants:8,crossovers:8}",
)
_LARGEST = ("method.training.start", (0.5, 0.7))
_STEP = ("method.policy.lr", (0.1, 1.0))

_CELLS = ("space=darts_s2", "space.supernet.channels=8", "space.supernet.cells=4")  # of one path
_GENOTYPE = ("method.search_rounds", (8, 20))  # of 30

_ORDER = "method.proposals.order=[width]"  # found on the tuning's seed, see docs/corolla.md
_ABSENT = "trainer.absent_count=0.1"  # as our method has it
_SHAPE = "[3,0,0,3,0,0,3,0,0,3]"  # what it makes of the space where there is no cap


def _ours(*more: str, tracks: str = "abcd") -> Arm:
    """Return our method, or it without one of its parts."""
    order = () if more and more[0].startswith("method/proposals=") else (_ORDER,)
    return _fixed("corolla", *order, *more, tracks=tracks)


ARMS: dict[str, Arm] = {
    "fedavg": _fixed("fedavg", tracks="abde", grid=_MOMENTUM),
    "fedavg_plain": _fixed("fedavg", "trainer.loss=cross_entropy", grid=_MOMENTUM),
    "fedavg_smallest": _fixed("fedavg", "method.architecture=smallest", tracks="c", grid=_MOMENTUM),
    "fedavg_largest": _fixed(
        "fedavg", "method.architecture=largest", tracks="abde", grid=_MOMENTUM
    ),
    "fedavg_largest_momentum": _fixed(  # as much of it as our method has
        "fedavg", "method.architecture=largest", "method.server_momentum=0.6", tracks="abde"
    ),
    "local": _fixed("local", tracks="abde", stage="alone"),
    "local_fitting": _fixed("local", "method.architecture=fitting", tracks="c"),
    "fedprox": _fixed("fedprox", tracks="abde", grid=("method.mu", (0.001, 0.1))),
    "scaffold": _fixed(
        "scaffold", "trainer.momentum=0", tracks="abde", grid=("method.server_lr", (0.5, 1.5))
    ),
    "ditto": _fixed(
        "ditto", tracks="abde", stage="global", grid=("method.lambda_local", (0.1, 10.0))
    ),
    "knn_per": _fixed("knn_per", tracks="abde", grid=("method.k", (5, 20))),
    "per_fedavg": _fixed("per_fedavg", tracks="abde", grid=("method.alpha", (0.003, 0.03))),
    "fedper": _fixed("fedper", tracks="abde", grid=_MOMENTUM),
    "fedbn": _fixed("fedbn", grid=_MOMENTUM),
    "lg_fedavg": _fixed("lg_fedavg", grid=_MOMENTUM),
    "fedrep": _fixed("fedrep", tracks="abde", grid=("method.head_epochs", (2, 5))),
    "fedbabu": _fixed("fedbabu", tracks="abde", grid=("method.adapt_epochs", (1, 10))),
    "fedrod": _fixed("fedrod", grid=_MOMENTUM),
    "feddyn": _fixed("feddyn", tracks="abde", grid=("method.alpha", (0.001, 0.1))),
    "pfedme": _fixed(
        "pfedme", tracks="abde", stage="global", grid=("method.lambda_prox", (1.0, 5.0))
    ),
    "apfl": _fixed("apfl", tracks="abde", stage="global", grid=("method.alpha", (0.25, 0.75))),
    "l2gd": _fixed("l2gd", tracks="abde", stage="global", grid=("method.beta", (0.2, 0.8))),
    "fml": _fixed("fml", grid=("method.labels_own", (0.25, 0.75))),
    "pfedhn": _fixed(
        "pfedhn",
        "method.hypernetwork.chunk=10000",
        grid=("method.hypernetwork.lr", (0.03, 0.1)),
    ),
    "fedmn": _fixed(
        "fedmn",
        "space=lenet_modules",
        grid=("method.temperature", (0.5, 2.0)),
        space="lenet_modules",
    ),
    "sfl": _fixed("sfl", grid=("method.alpha", (0.3, 0.7))),
    "fedkemf": _fixed("fedkemf", *SERVER_IMAGES, grid=("method.alpha", (0.25, 0.75))),
    "fedmd": _fixed("fedmd", *SERVER_IMAGES, tracks="abcd", grid=("method.digest_epochs", (2, 4))),
    "perfed_ckt": _fixed(
        "perfed_ckt", *SERVER_IMAGES, tracks="abcd", grid=("method.lambda_public", (0.3, 3.0))
    ),
    "heterofl": _fixed(
        "heterofl",
        *_THIN,
        tracks="c",
        grid=("method.damping", (0.25, 1.0)),
        space="elastic_cnn_width",
    ),
    "fedrolex": _fixed(
        "fedrolex",
        *_THIN,
        tracks="c",
        grid=("method.damping", (0.25, 1.0)),
        space="elastic_cnn_width",
    ),
    "fiarse": _fixed(
        "fiarse",
        "method.architecture=largest",
        *_MASKS,
        tracks="c",
        grid=("method.weights", ("examples",)),
    ),
    "fiarse_of_corolla": _fixed(  # with our network and the rest that it can take of ours
        "fiarse",
        f"method.architecture={_SHAPE}",
        *_MASKS,
        _ABSENT,
        tracks="c",
    ),
    "fedavg_smallest_of_corolla": _fixed(  # our family's smallest member that fits everybody
        "fedavg",
        "method.architecture=[0,0,0,0,0,0,1,0,0,1]",
        "method.server_momentum=0.6",
        _ABSENT,
        tracks="c",
    ),
    "corolla": _ours(tracks="abcde"),
    "corolla_without_head": _ours("method.head_l2=null"),
    "corolla_without_momentum": _ours("method.server_momentum=0"),
    "corolla_without_inner": _ours("method.inner_share=0", tracks="c"),
    "corolla_without_damping": _ours("method.damping=0", tracks="c"),
    "corolla_all_inner": _ours("method.inner_share=1", tracks="c"),
    "corolla_without_absent": _ours("trainer.absent_count=1"),
    "corolla_costliest": _ours("method/proposals=costliest"),
    "corolla_random_family": _ours("method.proposals.shuffle=true", tracks="c"),
    "corolla_near_cap": _fixed(  # a search among all shapes instead of the family
        "corolla",
        "method/proposals=policy_gradient",
        "method/reward=loss",
        "method.near_cap=0.9",
        tracks="abcd",
    ),
    "fedavg_of_corolla": _fixed("fedavg", f"method.architecture={_SHAPE}", tracks="abde"),
    "perfedrlnas": _fixed("perfedrlnas", _SETTLED, tracks="abcde", grid=_STEP),
    "fedrlnas": _fixed("fedrlnas", _SETTLED, tracks="abcd", grid=_STEP),
    "fedpnas": _fixed("fedpnas", _SETTLED, tracks="abcd", grid=_STEP),
    "superfednas": _fixed("superfednas", *SERVER_IMAGES, *_TIERED, tracks="abcd", grid=_LARGEST),
    "deepfednas": _fixed("deepfednas", *_TIERED, tracks="abcd", grid=_LARGEST),
    "fedoras": _fixed(
        "fedoras", *SERVER_IMAGES, *_TIERED, tracks="abcd", grid=("method.paths", (2, 8))
    ),
    "fedavg_cells": _fixed("fedavg", *_CELLS, tracks="f", grid=_MOMENTUM, space=_MIXED),
    "fednas": _fixed("fednas", "method.search_rounds=12", tracks="f", grid=_GENOTYPE, space=_MIXED),
    "direct_fednas": _fixed(
        "direct_fednas", tracks="f", grid=("method.architect.lr", (1e-3, 1e-2)), space=_MIXED
    ),
    "spider": _fixed(
        "spider_small", tracks="f", grid=("method.lambda_local", (0.001, 0.1)), space=_MIXED
    ),
    "spider_by_accuracy": _fixed(  # as published; ours decides by loss
        "spider_small",
        "method.search.rank=accuracy",
        "method.search.near_ties=0",
        tracks="f",
        space=_MIXED,
    ),
    "spider_within_two_errors": _fixed(  # the cheaper operation stays up to there; ours: one error
        "spider_small", "method.search.near_ties=2", tracks="f", space=_MIXED
    ),
    "global_nas": _fixed(
        "global_nas",
        *SERVER_IMAGES,
        "method.search.warmup_rounds=8",
        "method.search.recovery_rounds=1",
        tracks="f",
        space=_MIXED,
    ),
    "perfedrlnas_cells": _fixed(
        "perfedrlnas", _SETTLED, *_CELLS, tracks="f", grid=_STEP, space=_MIXED
    ),
    "perfednas_cells_by_lot": _fixed(
        "perfednas",
        "method/proposals=random",
        _SETTLED,
        *_CELLS,
        tracks="f",
        grid=_DAMPING,
        space=_MIXED,
    ),
    "fedrlnas_cells": _fixed("fedrlnas", _SETTLED, *_CELLS, tracks="f", grid=_STEP, space=_MIXED),
    "hapfnas": _fixed(
        "hapfnas_small",
        "space=mobilenetv2_small",
        "space.supernet.resolution=[16]",
        *SERVER_IMAGES,
        tracks="f",
        space="mobilenetv2_small",
    ),
    "perfednas_forest": _fixed(
        "perfednas",
        "method/proposals=evolution",
        "method/reward=loss",
        "method.proposals.initial=2",
        "method.proposals.pairs=all",
        _SETTLED,
        tracks="abcde",
        grid=_DAMPING,
    ),
    "perfednas_by_lot": _fixed(
        "perfednas", "method/proposals=random", _SETTLED, tracks="abcde", grid=_DAMPING
    ),
    "perfednas_costliest": _fixed(
        "perfednas", "method/proposals=costliest", tracks="abcde", grid=_DAMPING
    ),
}


def by_lot(search: str) -> str:
    """Return the name of a search's control by lot, of the same sizes."""
    return f"{search}_by_lot"


def control(search: str, *more: str) -> Arm:
    """Return the control: what `perfednas` makes of random architectures of the search's sizes."""
    overrides = ("method=perfednas", "method/proposals=like_sizes", *more)
    arm = ARMS[search]
    return Arm(overrides, arm.tracks, sizes_of=search, tuned_as=search, space=arm.space)


def _with(arm: str, *more: str) -> Arm:
    """Return the arm with its search left out: the same training, an architecture by another rule."""
    return replace(ARMS[arm], overrides=(*ARMS[arm].overrides, *more), grid=None, tuned_as=arm)


_BY_LOT = _ours("method/proposals=like_sizes")
ARMS |= {
    by_lot(search): control(search, _SETTLED) for search in ("perfedrlnas", "perfednas_forest")
}
_SAME = "method.proposals.same_for_all=true"
ARMS |= {
    by_lot("perfedrlnas_cells"): control("perfedrlnas_cells", _SETTLED, *_CELLS),
    by_lot("fedrlnas"): control("fedrlnas", _SETTLED, _SAME),
    by_lot("fedrlnas_cells"): control("fedrlnas_cells", _SETTLED, _SAME, *_CELLS),
}
ARMS |= {
    by_lot(search): replace(_BY_LOT, sizes_of=search, tuned_as=search)
    for search in ("corolla", "corolla_near_cap")
}
for _arm, _key in {
    "superfednas": "method.tiers.by",
    "deepfednas": "method.tiers.by",
    "fedoras": "method.tiers.by",
    "hapfnas": "method/personal_search",
    "spider": "method/search",
}.items():  # of these the lot is drawn among all that fit the client or its tier
    ARMS |= {
        f"{_arm}_by_lot": _with(_arm, f"{_key}=random"),
        f"{_arm}_costliest": _with(_arm, f"{_key}=costliest"),
    }
SEARCHES = [arm for arm in ARMS if by_lot(arm) in ARMS]

_WIDER: dict[str, Sequence[Mapping[str, object]]] = {
    "stages": (
        {"width": [8, 16, 32, 64], "depth": [1, 2], "kernel": [3, 5]},
        {"width": [16, 32, 64, 96], "depth": [1, 2], "kernel": [3, 5]},
        {"width": [32, 64, 128, 192], "depth": [1, 2], "kernel": [3, 5]},
    ),
    "whole": tuple({"width": [w], "depth": [2], "kernel": [5]} for w in (64, 96, 192)),
}


def _yaml(stages: Sequence[Mapping[str, object]]) -> str:
    entries = (",".join(f"{key}:{value}" for key, value in stage.items()) for stage in stages)
    return f"[{','.join('{' + entry + '}' for entry in entries)}]".replace(" ", "")


LARGE = {  # the GPU's: four times as wide, so 16 times as costly
    "elastic_cnn_64": (
        f"space.supernet.stages={_yaml(_WIDER['stages'])}",
        "space.supernet.hidden=[128,256,512,1024]",
    ),
    "elastic_cnn_width": (
        f"space.supernet.base.stages={_yaml(_WIDER['whole'])}",
        "space.supernet.base.hidden=[1024]",
    ),
    _MIXED: ("space.supernet.channels=16", "space.supernet.cells=8"),
    "mobilenetv2_small": ("space.supernet.resolution=[32]",),
    "lenet_modules": (
        "space.supernet.base.channels=[24,64]",
        "space.supernet.base.hidden=[480,336]",
    ),
}
LARGE_ROUNDS = ("rounds=400", "local_epochs=5")


def overrides_of(
    track: str, arm: str, *, lr: float | None = None, more: Sequence[str] = (), large: bool = False
) -> tuple[str, ...]:
    """Return what follows ``corolla run`` for this cell, but seed and folders.

    Args:
        track: one of `TRACKS`.
        arm: one of `ARMS`.
        lr: step size of the first full round; None: the track's.
        more: the arm's tuned parameter.
        large: the GPU's version.

    """
    step = (
        () if lr in (None, DEFAULT_STEP) else (f"trainer.lr={lr:g}", f"trainer.lr_min={lr / 10:g}")
    )
    size = (*LARGE[ARMS[arm].space], *LARGE_ROUNDS) if large else ()
    return (f"experiment={TRACKS[track]}", *ARMS[arm].overrides, *size, *step, *more)


class Tuned:
    """What the trials of the raw results have found best on validation images.

    ``raw["tuning"]``: track -> arm -> trial ("0.1", or "0.1 method.mu=0.1") -> validation accuracy.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._tried: Mapping[str, Mapping[str, Mapping[str, float]]] = raw.get("tuning", {})

    def of(self, track: str, arm: str) -> tuple[float | None, tuple[str, ...]]:
        """Return step size and parameter; those of track a where nothing was tried, else none."""
        by_lot = ARMS[arm].sizes_of  # its method has not the parameters of the search's
        arm = ARMS[arm].tuned_as or arm
        for where in (track, "a"):
            tried = self._tried.get(where, {}).get(arm, {})
            if all(f"{step:g}" in tried for step in STEP_SIZES):  # not in the middle of them
                lr, *more = self._best(tried).split(" ")
                return float(lr), () if by_lot else tuple(more)
        return None, ()

    def best_step(self, track: str, arm: str) -> float | None:
        """Return the best of `STEP_SIZES`."""
        tried = self._tried.get(track, {}).get(arm, {})
        steps = {trial: tried[trial] for trial in tried if trial in {f"{s:g}" for s in STEP_SIZES}}
        return float(self._best(steps)) if steps else None

    @staticmethod
    def _best(tried: Mapping[str, float]) -> str:
        """Return the best trial; of equal ones that with the smallest step, and the default before others."""
        return min(tried, key=lambda trial: (-tried[trial], float(trial.split()[0]), trial))


def trained_by(arm: str) -> tuple[str, ...]:
    """Return what is added on track e to the run that trains."""
    alone = ARMS[arm].stage == "alone"
    return ("clients=100", "new_clients=0") if alone else ()


def stage_of(arm: str, overrides: Sequence[str]) -> tuple[str, ...] | None:
    """Return what of ``overrides`` the run on track e's new clients has; None: there is none.

    Arms that serve them by their global model do it as FedAvg, whose clients keep no model of their own.
    """
    if ARMS[arm].stage == "alone":
        return None
    if ARMS[arm].stage == "own":
        return tuple(overrides)
    shared = [one for one in overrides if not one.startswith("method")]
    (name,) = (one.partition("=")[2] for one in overrides if one.startswith("method="))
    return (*shared, "method=fedavg", f"method.name={name}")
