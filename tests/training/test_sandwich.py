"""Training a supernet by the sandwich rule, against plain modules trained one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.live_tensors import peak_of_tensors
from corolla.data.images import Images
from corolla.errors import RefusedError
from corolla.spaces.architecture import Architecture
from corolla.spaces.mobilenetv2 import MobileNetV2Space
from corolla.spaces.supernet import ElasticSupernet, Supernet, to_arrays
from corolla.training.batches import shuffled_batches
from corolla.training.losses import soft_cross_entropy
from corolla.training.results import DivergedError
from corolla.training.sandwich import SandwichSettings, SupernetResult, SupernetTrainer
from corolla.training.sandwich_run import SandwichRun
from corolla.training.settings import LoopSettings
from corolla.training.subnet_draws import SubnetDraws
from corolla.types import Arrays
from tests.conftest import make_space
from tests.spaces import from_values
from tests.training.conftest import PLAIN, sgd

STAGES = [
    {"width": [4, 8], "depth": [1, 2], "kernel": [3, 5], "expand": [2, 3], "stride": 2, "se": True},
    {"width": [8], "depth": [1, 2], "kernel": [3], "expand": [2], "stride": 1, "se": False},
]
FEW: dict[str, Any] = {"stem": [4, 8], "last": [16], "dropout": 0.0, "drop_connect": 0.0}
SPACE: Supernet = make_space("mobilenetv2_8", stages=STAGES, **FEW)
ONE: Supernet = make_space(
    "mobilenetv2_8",
    stages=[{key: value[-1:] if isinstance(value, list) else value for key, value in stage.items()}
            for stage in STAGES],
    **(FEW | {"stem": [8]}),
)  # fmt: skip
DARTS: Supernet = make_space("darts_small", channels=2, cells=3, resolution=8)
SEED = (3, 1)
FAST = LoopSettings()


def state_of(space: Supernet) -> Arrays:
    """Return weights with every branch alive: fresh ones have BN scales of 0 at the blocks' ends."""
    rng = np.random.default_rng(1)
    state = space.initial_state(0)
    for name, array in state.items():
        if name.endswith("bn.weight"):
            state[name] = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
    return state


def grey(count: int, *, labels: Tensor | None = None) -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=rng)
    labels = torch.arange(count) % 10 if labels is None else labels
    return Images(pixels, labels, (0.5,), (0.25,))


def teacher_of(count: int) -> Tensor:
    return torch.randn((count, 10), generator=torch.Generator().manual_seed(5))


def supernet_trainer(
    space: Supernet = SPACE,
    *,
    loop: LoopSettings = PLAIN,
    sandwich: SandwichSettings | None = None,
    **settings: Any,
) -> SupernetTrainer:
    return SupernetTrainer(space, sgd(loop, **settings), sandwich or SandwichSettings())


def distilled(
    trainer: SupernetTrainer, state: Arrays, count: int = 12, **changes: Any
) -> SupernetResult:
    arguments: dict[str, Any] = {"epochs": 1, "batch_size": 12, "lr": 1.0, "seed": SEED}
    return trainer.distil(state, grey(count), teacher_of(count), **(arguments | changes))


def close(found: Arrays, expected: Arrays, tolerance: float = 2e-5) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


def step_by_hand(state: Arrays, count: int, sandwich: SandwichSettings) -> Arrays:
    """Return the supernet after a step of size 1 on one batch, from plain modules of its subnets."""
    (order,) = shuffled_batches(count, count, seed=SEED, epoch=0, drop_single=True)
    images = (grey(count).pixels[order] / 255 - 0.5) / 0.25
    answers = teacher = teacher_of(count)[order]
    after = {name: array.copy() for name, array in state.items()}
    draws = SubnetDraws(SPACE, random_subnets=sandwich.random_subnets, seed=SEED)
    subnets = draws.batch(0, 0)
    assert len(subnets) > 2
    for position, (_, architecture) in enumerate(subnets):
        part = SPACE.cut(state, architecture)
        part |= {n: a for n, a in SPACE.cut(after, architecture).items() if "running" in n}
        module = SPACE.load(architecture, part).train()
        logits = module(images)
        soft_cross_entropy(logits, answers, sandwich.temperature).backward()
        if position == 0 and sandwich.teach == "largest":
            answers = logits.detach()
        regions = SPACE.regions(architecture)
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None
            after[name][regions[name]] -= parameter.grad.numpy()
        for name, buffer in module.named_buffers():
            after[name][regions[name]] = buffer.numpy()
    assert teacher is answers or sandwich.teach == "largest"
    return after


@pytest.mark.parametrize("loop", [PLAIN, FAST])
@pytest.mark.parametrize(
    "sandwich",
    [
        SandwichSettings(),
        SandwichSettings(random_subnets=3, temperature=2.0),
        SandwichSettings(teach="all"),
    ],
)
def test_a_step_is_the_sum_of_the_subnets_own_gradients(
    sandwich: SandwichSettings, loop: LoopSettings
) -> None:
    state = state_of(SPACE)
    before = {name: array.copy() for name, array in state.items()}
    found = distilled(supernet_trainer(sandwich=sandwich, loop=loop), state)
    close(found.arrays, step_by_hand(state, 12, sandwich))
    assert all(np.array_equal(state[name], before[name]) for name in before)
    assert all(array.flags.c_contiguous for array in found.arrays.values())


def test_on_one_architecture_a_certain_teacher_is_training_on_labels() -> None:
    state, count = state_of(ONE), 30
    images = grey(count)
    settings: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    common: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 0.05, "seed": SEED}
    module = ONE.load(ONE.largest(), ONE.cut(state, ONE.largest()))
    plain = sgd(FAST, **settings).train(module, images, **common)
    trainer = supernet_trainer(ONE, loop=FAST, **settings)
    certain = 100.0 * functional.one_hot(images.labels, 10)
    found = trainer.distil(state, images, certain, **common)
    close(found.arrays, to_arrays(module), 1e-4)
    assert found.train_loss == pytest.approx(plain.train_loss, rel=1e-4)
    assert found.losses == {"largest": pytest.approx(found.train_loss)}
    assert found.samples_processed == plain.samples_processed == 90
    assert found.peak_memory_mib == pytest.approx(plain.peak_memory_mib, rel=0.05)


@pytest.mark.parametrize("loss", ["cross_entropy", "balanced_softmax", "balanced_softmax_client"])
def test_on_one_architecture_training_is_the_local_trainers(loss: str) -> None:
    """The same batches, pictures, loss, clipping and steps, whatever the sandwich."""
    state = state_of(ONE)
    images = grey(21, labels=torch.tensor([0] * 12 + [1] * 6 + [2] * 3))
    settings: dict[str, Any] = {"momentum": 0.9, "loss": loss, "label_smoothing": 0.1}
    settings |= {"augment": "crop_flip", "clip_norm": 1.0}
    common: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.05, "seed": SEED}
    module = ONE.load(ONE.largest(), ONE.cut(state, ONE.largest()))
    plain = sgd(FAST, **settings).train(module, images, **common)
    found = supernet_trainer(ONE, loop=FAST, **settings).train(state, images, **common)
    close(found.arrays, to_arrays(module))
    assert found.train_loss == pytest.approx(plain.train_loss)


def test_labels_are_not_read_and_images_not_augmented() -> None:
    state = state_of(SPACE)
    found = []
    for labels, augment in ((None, "none"), (torch.full((12,), -1), "crop_flip")):
        trainer = supernet_trainer(augment=augment)
        common: dict[str, Any] = {"epochs": 2, "batch_size": 6, "lr": 0.1, "seed": SEED}
        found.append(trainer.distil(state, grey(12, labels=labels), teacher_of(12), **common))
    assert all(np.array_equal(found[0].arrays[n], found[1].arrays[n]) for n in state)
    other = distilled(supernet_trainer(), state, epochs=2, batch_size=6, lr=0.1, seed=(3, 2))
    assert not np.array_equal(other.arrays["stem.conv.weight"], found[0].arrays["stem.conv.weight"])


@pytest.mark.parametrize("loop", [PLAIN, FAST])
def test_the_optimisers_state_goes_on_by_name(loop: LoopSettings) -> None:
    state = state_of(SPACE)
    trainer = supernet_trainer(momentum=0.5, loop=loop)
    still = distilled(trainer, state, lr=0.0)
    names = {name for name in state if "running" not in name}
    assert still.optimizer_state.keys() == names
    moved = distilled(trainer, state)
    further = distilled(trainer, state, optimizer_state=still.optimizer_state)
    for name in names:
        # v = g, then v = g / 2 + g at the same weights: one and a half times as far.
        step = moved.arrays[name] - state[name]
        np.testing.assert_allclose(
            further.arrays[name] - state[name], 1.5 * step, rtol=1e-3, atol=1e-5, err_msg=name
        )
    with pytest.raises(ValueError, match="optimizer_state has entries for 1 parameters"):
        distilled(trainer, state, optimizer_state={"nobody": {}})


def test_each_epoch_has_its_step_and_decay_can_be_told() -> None:
    state = state_of(SPACE)
    one = distilled(supernet_trainer(), state, lr=0.3).arrays
    two = distilled(supernet_trainer(), state, lr=[0.3, 0.0], epochs=2).arrays
    weights = [name for name in state if "running" not in name]
    assert all(np.array_equal(one[name], two[name]) for name in weights)
    own = distilled(supernet_trainer(weight_decay=0.1), state, weight_decay=0.0).arrays
    assert all(
        np.array_equal(own[n], a) for n, a in distilled(supernet_trainer(), state).arrays.items()
    )
    told = distilled(supernet_trainer(), state, weight_decay=0.1).arrays
    kernel, scale = "stem.conv.weight", "stem.bn.weight"
    np.testing.assert_allclose(told[kernel], own[kernel] - 0.1 * state[kernel], atol=1e-6)
    assert np.array_equal(told[scale], own[scale])  # BN's and biases do not decay


def test_the_gradient_of_all_subnets_together_is_clipped() -> None:
    state = state_of(SPACE)
    found = distilled(supernet_trainer(clip_norm=0.1), state).arrays
    moves = [found[name] - state[name] for name in state if "running" not in name]
    assert math.sqrt(sum(float((move**2).sum()) for move in moves)) == pytest.approx(0.1, rel=1e-3)


def test_dropout_acts_in_the_largest_alone_and_moves_no_statistic_twice() -> None:
    state = state_of(SPACE)
    found = []
    for dropout in (0.0, 0.6):
        space = make_space("mobilenetv2_8", stages=STAGES, **(FEW | {"dropout": dropout}))
        found.append(distilled(supernet_trainer(space), state, lr=0.0))
    without, dropped = found
    assert dropped.losses["largest"] != pytest.approx(without.losses["largest"], rel=1e-3)
    assert dropped.losses["smallest"] == pytest.approx(without.losses["smallest"], rel=1e-5)
    assert dropped.losses["random"] == pytest.approx(without.losses["random"], rel=1e-5)
    close(dropped.arrays, without.arrays)


class _Forgetful(MobileNetV2Space):
    """A space whose architectures all have dropout."""

    def subnet(self, architecture: Architecture) -> Any:
        network = super().subnet(architecture)
        network.head.dropout = nn.Dropout(0.6)
        return network


def test_smaller_subnets_learn_without_dropout_even_if_they_have_it() -> None:
    state = state_of(SPACE)
    settings = {"name": SPACE.name, "num_classes": 10, "in_channels": 1, "resolution": [8]}
    space = _Forgetful(**settings, stem_stride=1, stages=STAGES, **FEW)
    without = distilled(supernet_trainer(), state, lr=0.0)
    found = distilled(supernet_trainer(space), state, lr=0.0)
    assert found.losses["largest"] != pytest.approx(without.losses["largest"], rel=1e-3)
    assert found.losses["smallest"] == pytest.approx(without.losses["smallest"], rel=1e-5)
    assert found.losses["random"] == pytest.approx(without.losses["random"], rel=1e-5)


def test_losses_are_means_over_images_and_subnets() -> None:
    found = distilled(supernet_trainer(), state_of(SPACE), batch_size=8, lr=0.0)
    draws = SubnetDraws(SPACE, random_subnets=2, seed=SEED)
    subnets = [len(draws.batch(0, batch)) for batch in range(2)]
    assert found.samples_processed == 8 * subnets[0] + 4 * subnets[1]
    assert subnets == [4, 4]  # else the next line is another
    expected = (found.losses["largest"] + found.losses["smallest"] + 2 * found.losses["random"]) / 4
    assert found.train_loss == pytest.approx(expected)


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(DivergedError, match=r"in epoch 0, batch \d+ \(both from 0\) at lr=1e\+30"):
        distilled(supernet_trainer(), state_of(SPACE), batch_size=2, lr=1e30)


def test_bfloat16_trains_float32_weights_to_nearly_the_same_loss() -> None:
    state = state_of(SPACE)
    plain = distilled(supernet_trainer(), state, epochs=2, lr=0.1)
    half = distilled(
        supernet_trainer(loop=LoopSettings(autocast="bfloat16")), state, epochs=2, lr=0.1
    )
    assert half.train_loss == pytest.approx(plain.train_loss, rel=0.05)
    assert half.train_loss != plain.train_loss
    assert {array.dtype for array in half.arrays.values()} == {np.dtype(np.float32)}


def few_macs(architecture: Architecture) -> bool:
    cap = (SPACE.costs(SPACE.smallest()).macs + SPACE.costs(SPACE.largest()).macs) / 2
    return SPACE.costs(architecture).macs < cap


@pytest.mark.parametrize("loop", [PLAIN, FAST])
def test_a_client_trains_what_fits_alone(loop: LoopSettings) -> None:
    def shallow(architecture: Architecture) -> bool:
        return SPACE.values(architecture)["mb2.depth"] == 1

    state = state_of(SPACE)
    trainer = supernet_trainer(loop=loop, momentum=0.9, weight_decay=0.1)
    common: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.1, "seed": SEED}
    found = trainer.train(state, grey(16), **common, fits=shallow).arrays
    for name, array in state.items():
        assert np.array_equal(found[name], array) == name.startswith("stages.1.1."), name


def test_fused_sgd_takes_parameters_that_come_late() -> None:
    def fits(architecture: Architecture) -> bool:
        return architecture in (deep, SPACE.smallest())

    values = SPACE.values(SPACE.smallest()) | {"mb1.depth": 2}
    deep = from_values(SPACE, values)
    trainer = supernet_trainer(loop=FAST, momentum=0.9, sandwich=SandwichSettings(random_subnets=0))
    seed = next(
        seed
        for seed in range(100)
        if [
            any(architecture == deep for _, architecture in draws.batch(0, batch))
            for draws in [SubnetDraws(SPACE, random_subnets=0, seed=(seed,), fits=fits)]
            for batch in range(2)
        ]
        == [False, True]
    )
    common: dict[str, Any] = {"epochs": 1, "batch_size": 8, "lr": 0.05, "seed": (seed,)}
    state = state_of(SPACE)
    found = trainer.train(state, grey(16), **common, fits=fits)
    name = "stages.0.1.project.conv.weight"
    assert not np.array_equal(found.arrays[name], state[name])


def test_draws_follow_from_seed_epoch_and_batch() -> None:
    draws = SubnetDraws(SPACE, random_subnets=2, seed=SEED)
    again = SubnetDraws(SPACE, random_subnets=2, seed=SEED)
    turns = [(epoch, batch) for epoch in range(3) for batch in range(3)]
    found = [draws.batch(*turn) for turn in turns]
    assert found == [again.batch(*turn) for turn in reversed(turns)][::-1]
    assert len({tuple(subnets) for subnets in found}) == len(turns)
    for subnets in found:
        assert subnets[:2] == [("largest", SPACE.largest()), ("smallest", SPACE.smallest())]
        assert len(subnets) == len({architecture for _, architecture in subnets}) <= 4
    assert SubnetDraws(SPACE, random_subnets=0, seed=SEED).batch(0, 0) == found[0][:2]


def test_where_the_largest_does_not_fit_the_costliest_draw_teaches() -> None:
    draws = SubnetDraws(SPACE, random_subnets=2, seed=SEED, fits=few_macs)
    for batch in range(10):
        subnets = draws.batch(0, batch)
        assert [role for role, _ in subnets[:2]] == ["largest", "smallest"]
        macs = [SPACE.costs(architecture).macs for _, architecture in subnets]
        assert max(macs) == macs[0]
        assert all(few_macs(architecture) for _, architecture in subnets)
    assert len({draws.batch(0, batch)[0] for batch in range(10)}) > 3


def test_a_draw_that_never_fits_is_made_smaller() -> None:
    near = SPACE.smallest()
    changed = next(i for i, d in enumerate(SPACE.dimensions) if len(d) > 1)
    wider = Architecture(tuple(int(i == changed) for i in range(len(SPACE.dimensions))))
    for allowed in ({near}, {near, wider}):
        draws = SubnetDraws(SPACE, random_subnets=2, seed=SEED, fits=allowed.__contains__)
        seen = {arch for batch in range(8) for _, arch in draws.batch(0, batch)}
        assert seen <= allowed


def test_a_client_that_cannot_hold_the_smallest_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        SubnetDraws(SPACE, random_subnets=2, seed=SEED, fits=lambda _: False)
    assert str(caught.value) == (
        f"smallest={list(SPACE.smallest().choices)!r}: even the smallest architecture "
        "is beyond the client's limits. Raise the client's limit, or use a space with smaller architectures"
    )


def test_memory_is_that_of_one_subnet_at_a_time() -> None:
    count, trainer = 64, sgd(PLAIN, momentum=0.9)
    images, teacher = grey(count), teacher_of(count)

    def peak(subnets: int) -> int:
        elastic = ElasticSupernet(SPACE, state_of(SPACE))
        run = SandwichRun(
            elastic,
            images,
            trainer=trainer,
            draws=SubnetDraws(SPACE, random_subnets=subnets, seed=SEED),
            supervise=lambda logits, where: soft_cross_entropy(logits, teacher[where], 1.0),
            temperature=1.0,
            batch_size=count,
            seed=SEED,
            optimizer_state=None,
        )
        run.epoch(0, lr=0.1)
        return peak_of_tensors(lambda: run.epoch(1, lr=0.1), list(elastic.parameters()))

    module = SPACE.load(SPACE.largest(), SPACE.cut(state_of(SPACE), SPACE.largest()))
    alone = peak_of_tensors(
        lambda: trainer.train(module, images, epochs=1, batch_size=count, lr=0.1, seed=SEED),
        list(module.parameters()),
    )
    assert peak(6) <= 1.05 * peak(0) <= 1.15 * alone


@pytest.mark.parametrize("space", [SPACE, make_space("mobilenetv3_8"), DARTS], ids=lambda s: s.name)
def test_a_lent_subnet_gives_the_gradients_of_slices(space: Supernet) -> None:
    state, rng = space.initial_state(0), np.random.default_rng(0)
    sliced, lent = ElasticSupernet(space, state), ElasticSupernet(space, state)
    images = torch.randn((4, space.in_channels, 8, 8))
    for architecture in (space.largest(), space.smallest(), space.sample(rng), space.sample(rng)):
        sliced(images, architecture).square().sum().backward()
        with lent.lend(architecture) as module:
            module.train()(images).square().sum().backward()
        assert {p.device.type for p in module.parameters()} == {"meta"}  # handed back empty
    others = dict(lent.named_parameters())
    for key, parameter in sliced.named_parameters():
        if parameter.grad is None:
            assert others[key].grad is None, key
        else:
            torch.testing.assert_close(others[key].grad, parameter.grad, rtol=1e-4, atol=1e-4)
    ours, theirs = lent.state(), sliced.state()
    assert all(np.array_equal(ours[key], theirs[key]) for key in state)


def test_a_loan_that_fails_leaves_nothing_behind() -> None:
    elastic = ElasticSupernet(SPACE, state_of(SPACE))
    with pytest.raises(RuntimeError, match="no"), elastic.lend(SPACE.smallest()) as module:
        raise RuntimeError("no")
    assert {p.device.type for p in module.parameters()} == {"meta"}
    assert all(parameter.grad is None for parameter in elastic.parameters())


def test_arguments_that_do_not_fit_are_named() -> None:
    state, trainer = state_of(SPACE), supernet_trainer()
    for lr, message in (
        ([0.1, 0.1], r"epochs=1, lr=\[0.1, 0.1\]: need 1 epoch or more, and a step for each"),
        (-0.1, "lr=-0.1: need finite numbers, 0 or more"),
        (math.nan, "lr=nan: need finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            distilled(trainer, state, lr=lr)
    images = grey(4)
    common: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.1, "seed": SEED}
    with pytest.raises(ValueError, match=r"shape \(3, 10\): need finite logits of shape \(4, 10\)"):
        trainer.distil(state, images, teacher_of(3), **common)
    with pytest.raises(ValueError, match="need finite logits"):
        trainer.distil(state, images, torch.full((4, 10), math.nan), **common)
    short = {name: array for name, array in state.items() if name != "stem.bn.bias"}
    with pytest.raises(ValueError, match="state is not that of the supernet of 'mobilenetv2_8'"):
        trainer.distil(short, images, teacher_of(4), **common)
