"""FedorAS: what is sent, which samples went where, and what the server makes of it. FedRLNAS and FedPNAS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from clients.paths import VISITS
from clients.site import site_of
from corolla.config.build import build_client
from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.spaces.architecture import Architecture
from corolla.spaces.paths import box, box_size, holds, paths_of
from corolla.training.path_draws import PathDraws
from tests.conftest import make_space
from tests.strategies.conftest import run, small
from tests.strategies.test_contract import _config, _replies, _strategy

SPACE = make_space("fedoras_small", resolution=8)
PATHS = [Architecture((0, 1, 2, 3, 4, 5)), Architecture((8, 1, 0, 0, 4, 6))]


def _operations(name: str) -> str | None:
    """Return block and operation of an array; None of what all paths share."""
    words = name.split(".")
    return ".".join(words[:3]) if words[0].startswith("stage") else None


def test_what_is_sent_is_the_union_of_the_paths() -> None:
    held = box(SPACE, PATHS)
    names = set(SPACE.shapes(PATHS[0])) | set(SPACE.shapes(PATHS[1]))
    assert set(held) == names
    mixed = Architecture((8, 1, 2, 0, 4, 5))
    assert holds(held, SPACE, mixed)
    assert not holds(held, SPACE, Architecture((7, 1, 2, 0, 4, 5)))
    # In a space of leading channels: the widest of both.
    elastic = make_space("elastic_cnn", resolution=8)
    thin, thick = elastic.smallest(), elastic.largest()
    both = box(elastic, [thin, thick])
    assert box_size(both, elastic) == sum(a.size for a in elastic.initial_state(0).values())
    assert holds(both, elastic, elastic.middle())


def test_shares_of_samples_are_counted_by_batch() -> None:
    """Five images in batches of two, so 2, 2 and 1; of two paths that differ, what each batch drew."""
    draws = PathDraws(
        SPACE, PATHS, held=box(SPACE, PATHS), fits=lambda _: True, images=5, batch_size=2, seed=(3,)
    )
    drawn = [draws.batch(0, number)[0][1] for number in range(3)]
    names = list(box(SPACE, PATHS))
    shares = dict(zip(names, draws.shares(names), strict=True))
    for name, share in shares.items():
        held = [name in SPACE.shapes(path) for path in drawn]
        assert share == pytest.approx(np.dot(held, [2, 2, 1]) / 5)
    assert shares["classifier.weight"] == 1
    # A client's limits hold for mixtures too.
    alone = PathDraws(
        SPACE,
        PATHS,
        held=box(SPACE, PATHS),
        fits=lambda path: path in PATHS,
        images=5,
        batch_size=2,
        seed=(3,),
    )
    assert {alone.batch(epoch, 0)[0][1] for epoch in range(20)} == set(PATHS)


def test_a_client_trains_what_it_visits_and_says_so(tmp_path: Path) -> None:
    config = plan_run(
        [*small("method=fedoras", f"run_dir={tmp_path}"), "batch_size=18", "method.paths=3"]
    ).config
    strategy = _strategy(config)
    (order,) = strategy.orders(1, ["0"])
    assert len(paths_of(strategy.space, order.task)) == 3
    context = SimpleNamespace(run_config={"config": config.to_yaml()}, node_config={})
    site = site_of(cast(Any, context), {"client": "0"})
    answer = build_client(config, site=site).fit(order.task, dict(order.arrays))
    assert {n: a.shape for n, a in answer.arrays.items()} == dict(order.returns)
    # Any reward can judge it: what came is scored where a reward asks for that, before it is trained.
    assert "received_val_loss" not in answer.metrics
    told = replace(order.task, extra={**order.task.extra, "received": True})
    metrics = build_client(config, site=site).fit(told, dict(order.arrays)).metrics
    assert metrics["received_val_loss"] != metrics["val_loss"]
    assert {key: metrics[key] for key in ("val_loss", VISITS)} == {
        key: answer.metrics[key] for key in ("val_loss", VISITS)
    }
    shares = dict(zip(answer.arrays, answer.metrics[VISITS], strict=True))
    assert set(shares.values()) == {0.0, 1.0}  # one batch: one path
    for name, array in answer.arrays.items():
        if name.endswith("weight"):
            assert np.array_equal(array, order.arrays[name]) == (shares[name] == 0)


def test_the_server_averages_by_the_samples_and_keeps_what_nobody_visited() -> None:
    strategy = _strategy(_config("fedoras", "clients=2", "method.paths=2"))
    before = strategy.state().part("supernet/")
    replies = []
    for reply in _replies(strategy, 1, ["0", "1"]):
        told = [
            (0.25 if reply.client == "0" else 0.0) if _operations(name) else 1.0
            for name in reply.arrays
        ]
        replies.append(replace(reply, notes={VISITS: told}))
    strategy.absorb(1, replies)
    after = strategy.state().part("supernet/")
    one, other = replies
    for name, array in after.items():
        if _operations(name) is None:  # 10 and 11 images: plain FedAvg
            wanted = (10 * one.arrays[name] + 11 * other.arrays[name]) / 21
        else:
            wanted = one.arrays.get(name, before[name])
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)
    short = replace(one, notes={VISITS: [1.0]})
    with pytest.raises(ValueError, match="1 shares of samples are told for"):
        strategy.absorb(2, [short])


def test_no_client_is_sent_more_than_its_uplink_carries() -> None:
    settings = [*small("method=fedoras", "run_dir=unused"), "method.paths=8"]
    own = _strategy(plan_run(settings).config).space
    least = box_size(box(own, [own.smallest()]), own)
    strategy = _strategy(plan_run([*settings, f"method.sent_params={2 * least}"]).config)
    for order in strategy.orders(1, ["0", "1", "2"]):
        assert sum(array.size for array in order.arrays.values()) <= 2 * least
    words = rf"sent_params={least - 1}: is below the {least:,} of the smallest architecture"
    with pytest.raises(RefusedError, match=words):
        plan_run([*settings, f"method.sent_params={least - 1}"])


def test_one_policy_for_all_has_one_model(tmp_path: Path) -> None:
    settings = [
        "method=fedrlnas",
        "rounds=2",
        "evaluation.every=0",
        "evaluation.fine_tune_epochs=0",
    ]
    summary = run(tmp_path / "run", *settings).summary()
    (model,) = {tuple(entry["choices"]) for entry in summary["per_client"].values()}
    assert summary["pooled"]["global"]["choices"] == list(model)
    own = _strategy(_config("fedrlnas", "method.policy.residual=0.5"))
    assert not own.global_models()


def test_personal_cells_stay_with_their_clients() -> None:
    """FedPNAS: weights of the last stage are private, and so are the choices of its dimensions."""
    config = _config("fedpnas")
    strategy = _strategy(config)
    assert list(config.private) == ["head", "fc.", "stages.2."]
    private = strategy.space.names_in(config.private)
    assert {name.split(".")[0] for name in private} == {"classifier", "fc", "stages"}
    assert all(name.startswith("stages.2.") for name in private if name.startswith("stages"))
    for _ in range(2):
        strategy.absorb(1, _replies(strategy, 1, ["0", "1"]))
    rows = {c: strategy.describe(c)["policy"] for c in ("0", "1")}
    names = [d.name for d in strategy.space.dimensions if len(d) > 1]
    for name, one, other in zip(names, rows["0"], rows["1"], strict=True):
        assert (one == other) or name.startswith(("stage3", "fc")), name
