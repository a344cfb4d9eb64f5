"""Every experiment file starts: one round with two clients, on files laid out as the data sets are."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from corolla.config.compose import compose_values
from corolla.config.schema import RunConfig, parse_config
from corolla.launch import plan_run, start
from corolla.records.run_directory import RunDirectory
from tests.conftest import CONF, quick

OWN_TESTS = (
    "spider",
    "hapfnas",
    "family",
    "niid",
    "fedrep",
    "board",
)  # the last three: test_external, test_leaderboard
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
PERFEDRLNAS = [name for name in EXPERIMENTS if not name.startswith(OWN_TESTS)]
HAPFNAS = [name for name in EXPERIMENTS if name.startswith("hapfnas")]
FAMILY = [name for name in EXPERIMENTS if name.startswith("family")]
SPIDER = [name for name in EXPERIMENTS if name.startswith("spider")]
IMAGES = 60
CINIC = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RNG = np.random.default_rng(0)
# As short as a run can be; what an experiment is about stays as its file says.
SHORT = [
    "engine=inline",
    "rounds=1",
    "clients=2",
    "clients_per_round=2",
    "local_epochs=1",
    "batch_size=8",
    "evaluation.fine_tune_epochs=0",
    "partition.alpha=100",
    "partition.validation=0.2",
    "report=false",
    "tensorboard=false",
]


FEW = ["partition.images_per_client=15", "partition.test=0.2"]


def _pixels(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3072), dtype=np.uint8)


def _pickled(path: Path, content: dict[str, Any]) -> list[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in the layout of CIFAR-10, CIFAR-100 and class folders, with random pixels."""
    root = tmp_path_factory.mktemp("images")
    cifar10, cifar100 = torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100
    folders = {"imagefolder": ("cat", "dog"), "cinic10/train": CINIC}
    for folder, names in folders.items():
        for number, name in enumerate(names):
            for i in range(IMAGES // len(names)):
                path = root / folder / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (20 * number, i, 50)).save(path)
    return {
        "tinyimagenet": _tiny_imagenet(root / "tiny"),
        "imagefolder": root / "imagefolder",
        "cinic10": root / "cinic10",
        "cifar10": _cifar(
            root / "10", cifar10, ("data_batch_1", "test_batch", "batches.meta"), "", 10
        ),
        "cifar100": _cifar(root / "100", cifar100, ("train", "test", "meta"), "fine_", 100),
    }


def _cifar(root: Path, loader: Any, files: tuple[str, str, str], kind: str, classes: int) -> Path:
    """Write training, test and meta file of ``loader``; ``kind`` is what its keys begin with."""
    base, labels = root / loader.base_folder, [i % 10 for i in range(IMAGES)]
    train, test, meta = files
    content = {"data": _pixels(IMAGES), f"{kind}labels": labels}
    loader.train_list = [_pickled(base / train, content)]
    content = {"data": _pixels(10), f"{kind}labels": labels[:10]}
    loader.test_list = [_pickled(base / test, content)]
    key = f"{kind}label_names"
    name, md5 = _pickled(base / meta, {key: [f"c{i}" for i in range(classes)]})
    loader.meta = {"filename": name, "key": key, "md5": md5}
    return root


def _tiny_imagenet(root: Path) -> Path:
    """Write two classes in the layout of the published archive."""
    ids, rows = ["n00000001", "n00000002"], []
    for number, wnid in enumerate(ids):
        for part, count in (("train", IMAGES // 2), ("val", 5)):
            below = f"{wnid}/images" if part == "train" else "images"
            for i in range(count):
                path = root / part / below / f"{wnid}_{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), (20 * number, i, 50)).save(path)
                if part == "val":
                    rows.append(f"{path.name}\t{wnid}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(ids))
    (root / "words.txt").write_text("".join(f"{wnid}\tword {wnid}\n" for wnid in ids))
    return root


@pytest.fixture(autouse=True, scope="module")
def _lists_as_they_were() -> Any:
    kept = [
        (loader, key, getattr(loader, key))
        for loader in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100)
        for key in ("train_list", "test_list", "meta")
    ]
    yield
    for loader, key, value in kept:
        setattr(loader, key, value)


def _config(name: str) -> RunConfig:
    config, faults = parse_config(compose_values([f"experiment={name}"]))
    assert config is not None, faults
    return config


def _short(name: str, roots: dict[str, Path], *more: str) -> tuple[dict[str, Any], list[str]]:
    """Return an experiment's values, and overrides that make it as short as a run can be."""
    values = compose_values([f"experiment={name}"])
    root = roots[str(values["dataset"]["_target_"]).rpartition(".")[2].lower()]
    return values, [f"experiment={name}", f"dataset.root={root}", *SHORT, *more]


def _started(settings: list[str], run_dir: Path) -> RunDirectory:
    """Run it, and check that it was both clients' and that nobody failed."""
    directory = start(plan_run([*settings, f"run_dir={run_dir}"]))
    assert set(directory.summary()["test_accuracy"]["per_client"]) == {"0", "1"}
    assert all(line["failures"] == 0 for line in directory.metrics())
    return directory


# By hand from the paper: clients, participants, rounds, epochs, alpha, lambda_time, Mbit/s.
PAPER = (100, 5, 1500, 5, 0.3, 0.001, 100)
ROWS = {
    "perfedrlnas_cifar10_mobilenetv3": PAPER,
    "perfedrlnas_cifar10_nasvit": PAPER,
    "perfedrlnas_cifar10_darts": PAPER,
    "perfedrlnas_cifar100_mobilenetv3": (100, 5, 1500, 5, 0.1, 0.001, 100),
    "perfedrlnas_cifar100_nasvit": (100, 5, 1500, 5, 0.1, 0.001, 100),
    "perfedrlnas_cifar100_darts": (100, 5, 1500, 5, 0.1, 0.001, 100),
    "perfedrlnas_cifar10_memory": PAPER,
    "perfedrlnas_cifar100_memory": (100, 5, 1500, 5, 0.1, 0.001, 100),
    "perfedrlnas_half": (100, 50, 1500, 5, 0.3, 0.001, 100),
    "perfedrlnas_200_clients": (200, 20, 1500, 5, 0.3, 0.001, 100),
    "perfedrlnas_lambda0": (100, 5, 1500, 5, 0.3, 0.0, 100),
    "perfedrlnas_new_clients": PAPER,
    "cifar10_small": (20, 5, 40, 1, 0.3, 0.0, None),
    "perfedrlnas_nasvit_small": (20, 5, 40, 1, 0.3, 0.0, None),
    "perfedrlnas_darts_small": (20, 5, 40, 1, 0.3, 0.0, None),
    "perfedrlnas_memory_small": (20, 5, 40, 1, 0.3, 0.0, None),
    "perfedrlnas_half_small": (20, 10, 20, 1, 0.3, 0.0, None),
    "perfedrlnas_40_clients_small": (40, 4, 100, 1, 0.3, 0.0, None),
    "perfedrlnas_lambda_small": (20, 5, 40, 1, 0.3, 0.05, 100),
    "perfedrlnas_new_clients_small": (20, 5, 40, 1, 0.3, 0.0, None),
}


# By hand from the paper: data set, space, method, lambda (None: the method has none).
SPIDER_ROWS = {
    "spider_cifar10": ("cifar10", "darts_s2_mixed", "spider", 0.01),
    "spider_cifar100": ("cifar100", "darts_s2_mixed", "spider", 0.01),
    "spider_cinic10": ("cinic10", "darts_s2_mixed", "spider", 0.01),
    "spider_milenas": ("cifar100", "darts_s2_mixed", "spider", 0.01),
    "spider_lambda0": ("cifar100", "darts_s2_mixed", "spider", 0.0),
    "spider_global_nas": ("cifar100", "darts_s2_mixed", "global_nas", None),
    "spider_local_adaptation": ("cifar10", "resnet18", "fedavg", None),
    "spider_ditto_resnet18": ("cifar10", "resnet18", "ditto", 1.0),
    "spider_ditto_supernet": ("cifar10", "darts_s2_mixed", "ditto", 0.01),
    "spider_ditto_darts": ("cifar10", "darts", "ditto", 1.0),
    "spider_per_fedavg": ("cifar10", "resnet18", "per_fedavg", None),
    "spider_knn_per": ("cifar10", "resnet18", "knn_per", None),
    "spider_small": ("imagefolder", "darts_s2_mixed_small", "spider", 0.01),
}
# The shortest search: cells of one node have two edges, decided before rounds 1 and 2.
SHORT_SEARCH = [
    "rounds=2",
    "space.supernet.nodes=1",
    "space.supernet.channels=4",
    "space.supernet.cells=3",
]


@pytest.mark.parametrize("name", SPIDER)
def test_a_row_of_spider_is_what_the_paper_says(name: str) -> None:
    config = _config(name)
    kind = str(config.dataset["_target_"]).rpartition(".")[2].lower()
    pull = config.method.settings.get("lambda_local")
    assert (kind, config.space.name, config.method.name, pull) == SPIDER_ROWS[name]
    assert (config.local_epochs, config.batch_size, config.partition["alpha"]) == (1, 32, 0.2)
    assert config.participants == config.clients
    if name == "spider_small":
        return
    assert (config.clients, config.rounds) == (8, 1000)
    assert config.partition["data_seed"] == 9
    assert (config.partition["validation"], config.partition["test"]) == (0.2, 0.2)
    assert config.dataset["parts"] == ["train"]
    trainer = config.trainer
    assert (trainer["momentum"], trainer["weight_decay"], trainer["clip_norm"]) == (0.9, 1e-3, 5.0)
    search = config.method.settings.get("search", {})
    if "milenas" in name:
        assert search["search_rounds"] == 400
    elif config.method.name in ("spider", "global_nas"):
        assert (search["warmup_rounds"], search["recovery_rounds"]) == (30, 20)
        assert (search["rank"], search["near_ties"]) == ("accuracy", 0.0)
        assert (search["first_step"], search["node_recovery"]) == ("multiple", False)


@pytest.mark.parametrize("name", quick(SPIDER, "spider_small"))
def test_a_row_of_spider_runs(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    values, settings = _short(name, roots, "partition.test=0.2")
    if "small" in name:
        settings += ["partition.images_per_client=15"]
    if values["space"]["name"] == "resnet18":
        settings += ["space.supernet.width=8"]
    elif values["method"]["name"] in ("spider", "global_nas"):
        settings += SHORT_SEARCH
        milenas = "milenas" in name
        settings += (
            ["method.search.search_rounds=1"] if milenas else ["method.search.warmup_rounds=0"]
        )
        settings += [] if milenas else ["method.search.recovery_rounds=1"]
    else:
        settings += ["space.supernet.channels=4", "space.supernet.cells=3"]
    directory = _started(settings, tmp_path / "run")
    assert directory.summary()["method"] == values["method"]["name"]


@pytest.mark.parametrize("name", PERFEDRLNAS)
def test_an_experiment_is_what_its_row_says(name: str) -> None:
    config = _config(name)
    assert (
        config.clients,
        config.participants,
        config.rounds,
        config.local_epochs,
        config.partition["alpha"],
        config.method.settings["reward"]["lambda_time"],
        config.link_mbit_s,
    ) == ROWS[name]
    assert config.method.settings["damping"] == 0  # as published
    assert (config.new_clients > 0) == ("new_clients" in name)
    assert (config.memory_budget_mib is not None) == ("memory" in name)


# On CIFAR-100, or with another number of clients, they run what another one runs: they are planned below.
TWINS = ("cifar100", "perfedrlnas_half", "perfedrlnas_200", "perfedrlnas_lambda0")
RUN = [name for name in PERFEDRLNAS if not any(twin in name for twin in TWINS)]


@pytest.mark.parametrize(
    "name", quick([*RUN, "perfedrlnas_cifar100_mobilenetv3"], "perfedrlnas_new_clients_small")
)
def test_an_experiment_runs_a_round(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    values, settings = _short(name, roots, *FEW)
    if values["new_clients"]:
        settings.append("new_clients=1")
    directory = _started(settings, tmp_path / "run")
    if values["new_clients"]:
        stage = [o for o in settings if not o.startswith("clients_per_round=")]
        stage += ["clients_per_round=1", "stage=new_clients", f"from={directory.path}"]
        new = start(plan_run([*stage, f"run_dir={tmp_path / 'new'}"]))
        assert set(new.summary()["test_accuracy"]["per_client"]) == {"2"}
    summary = directory.summary()
    assert summary["space"] == values["space"]["name"]
    assert len(directory.metrics()) == 1
    budgets = ["memory_budget_mib" in entry for entry in summary["per_client"].values()]
    assert all(budgets) if values["memory_budget_mib"] else not any(budgets)


@pytest.mark.parametrize("name", quick(PERFEDRLNAS, "perfedrlnas_memory_small"))
@pytest.mark.parametrize("method", ["fedavg", "local"])
def test_the_baselines_take_an_experiments_settings(
    name: str, method: str, roots: dict[str, Path]
) -> None:
    own = (f"method={method}", "new_clients=0", "run_dir=unused")
    _, settings = _short(name, roots, *FEW, *own)
    assert plan_run(settings).config.method.name == method


# By hand from the specification: the data set, clients, the server's images.
HAPFNAS_ROWS = {
    **{f"hapfnas_cifar10_{n}": ("cifar10", n, 5000) for n in (8, 12, 16, 20)},
    **{f"hapfnas_cifar100_{n}": ("cifar100", n, 5000) for n in (8, 12, 16, 20)},
    **{f"hapfnas_tiny_imagenet_{n}": ("tinyimagenet", n, 10000) for n in (8, 12, 16, 20)},
    "hapfnas_published_code": ("cifar10", 8, 5000),
    "hapfnas_small": ("imagefolder", 8, 1000),
}
# The paper's space at a quarter of its blocks; the search at its smallest.
SHORT_HAPFNAS = [
    "rounds=3",
    "server_set.images=20",
    "method.supernet_training.rounds=1",
    "method.supernet_training.epochs=1",
    "method.supernet_training.batch_size=10",
    "space.supernet.last=[32]",
    "method.personal_search.recalibration_images=8",
    "method.personal_search.predictor.initial=2",
    "method.personal_search.predictor.forest={trees:2,max_depth:3,min_pairs:2}",
    "method.personal_search.predictor.evolution.generations=1",
]


@pytest.mark.parametrize("name", HAPFNAS)
def test_a_row_of_hapfnas_is_what_the_specification_says(name: str) -> None:
    config = _config(name)
    kind = str(config.dataset["_target_"]).rpartition(".")[2].lower()
    assert (kind, config.clients, config.server_set["images"]) == HAPFNAS_ROWS[name]
    assert (config.method.name, config.partition["alpha"], config.local_epochs) == (
        "hapfnas",
        0.5,
        1,
    )
    assert config.participants == config.clients
    strategy, trainer = config.method.settings, config.trainer
    published = name == "hapfnas_published_code"
    assert strategy["personal_search"]["fitness"] == ("test" if published else "validation")
    assert (strategy["personal_search"]["predictor"]["front"] == 0) == published
    assert strategy["retraining"]["uncovered"] == ("zero" if published else "keep")
    assert trainer["loss"] == "balanced_softmax"
    if name == "hapfnas_small":
        return
    stage_1, search = strategy["supernet_training"], strategy["personal_search"]["predictor"]
    assert config.rounds == 120 + 1 + 60
    assert (stage_1["rounds"], stage_1["epochs"], stage_1["batch_size"]) == (120, 5, 256)
    assert (stage_1["lr"], stage_1["weight_decay"], stage_1["knowledge"]) == (0.1, 1e-5, "smallest")
    assert (trainer["lr"], strategy["retraining"]["lr"], trainer["clip_norm"]) == (0.1, 0.08, 1.0)
    assert search["initial"] == 256
    assert search["evolution"] == {
        "population": 256,
        "generations": 20,
        "mutants": 64,
        "crossovers": 64,
        "mutation_probability": 0.2,
    }


STARTED = [n for n in HAPFNAS if not n.endswith(("12", "16", "20")) and "cifar100" not in n]


@pytest.mark.parametrize("name", quick(STARTED, "hapfnas_small"))
def test_a_row_of_hapfnas_runs(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    values, settings = _short(name, roots, *SHORT_HAPFNAS)
    if values["cap"]["_target_"].endswith("DataSizeCap"):  # the space is not the paper's any more
        settings += ["cap=data_size"]
    if name == "hapfnas_small":
        settings += ["partition.images_per_client=20", "partition.test=0.2"]
    directory = _started(settings, tmp_path / "run")
    assert all(entry["searched"] for entry in directory.summary()["per_client"].values())
    assert [line["stage"] for line in directory.metrics()] == [1, 2, 3]


# By hand from the specification: clients, participants, rounds, local epochs, batch size, alpha.
FAMILY_ROWS = {
    "family_fednas_cifar10": (16, 16, 550, 5, 64, 0.5),
    "family_superfednas_cifar10": (20, 8, 1500, 5, 64, 100),
    "family_deepfednas_cifar10": (20, 8, 1500, 5, 64, 100),
    "family_fedoras_cifar10": (100, 10, 600, 50, 128, 1.0),
    "family_fedrlnas_cifar10": (100, 5, 1500, 5, 32, 0.3),
    "family_direct_fednas_cifar10": (16, 16, 50, 5, 64, 0.5),
    "family_fedpnas_cifar10": (20, 8, 1500, 5, 64, 100),
}
THIN = {  # the full networks take minutes
    "family_superfednas_cifar10": "[{width:[64],blocks:1},{width:[128],blocks:1}]",
    "family_deepfednas_cifar10": "[{width:[32,64],blocks:1},{width:[64,128],blocks:1}]",
    "family_fedoras_cifar10": "[{width:32,blocks:3},{width:48,blocks:3}]",
}
_FEDNAS = {"lr": 0.025, "lr_schedule": "cosine", "lr_min": 0.001, "momentum": 0.9}
_BUDGETS = [0.28, 0.427, 0.72, 1.0]
_QUARTERS = [0.123, 0.22, 0.317, 0.414]  # evenly from the cheapest network to 95 % of random ones
_FITNESS = {"effectiveness": 1000.0, "most_effectiveness": 0.51}
# Likewise: what else of it is published. FedorAS's tiers are shared out among the clients by the bounds.
FAMILY_SETTINGS: dict[str, dict[str, Any]] = {
    "family_fednas_cifar10": {
        "trainer": {**_FEDNAS, "weight_decay": 3e-4},
        "method": {
            **{"search_rounds": 50, "train_epochs": 15, "runs": "all", "fresh": True},
            "architect": {"lr": 3e-4, "betas": [0.5, 0.999], "train_weight": 1.0},
        },
    },
    "family_direct_fednas_cifar10": {"trainer": _FEDNAS, "method": {"runs": "sampled"}},
    "family_superfednas_cifar10": {
        "trainer": {"lr": 0.1},
        "cap": {},  # whoever's turn it is gets the largest
        "space": {"name": "ofa_resnet"},
        "method": {
            "proposals": {"cache": None},
            "training": {"start": 0.9, "final": None, "falling": 0.8},
            "tiers": {"shares": _BUDGETS, "by": "validation"},
        },
    },
    "family_deepfednas_cifar10": {
        "trainer": {"lr": 0.1},
        "cap": {},
        "space": {"name": "ofa_resnet_width"},
        "method": {
            "proposals": {"cache": {"entries": 60, "fitness": _FITNESS}},
            "training": {"start": 0.9, "final": None, "falling": 0.8},
            "tiers": {"by": "fitness", "fitness": _FITNESS},
        },
    },
    "family_fedoras_cifar10": {
        "trainer": {"lr": 0.1},
        "cap": {"shares": _QUARTERS},
        "space": {"name": "fedoras"},
        "server_set": {"part": "train"},
        "method": {
            "tiers": {
                "shares": _QUARTERS,
                # 64 + 15 x 64 evaluations, about the published thousand
                "evolution": {"population": 128, "generations": 15, "mutation_probability": 0.1},
            },
            "sent_params": 11_400_000,
            "fine_tuning": {"rounds": 100, "lr": 0.01},
        },
    },
    "family_fedrlnas_cifar10": {
        # PerFedRLNAS's price on time is not FedRLNAS's.
        "method": {"policy": {"shared": True, "residual": 0.0}, "reward": {"lambda_time": 0.0}},
    },
    "family_fedpnas_cifar10": {"private": ["head", "1.2."]},
}
# A search as short as can be, and networks to match.
_EVOLUTION = "{population:2,generations:1,mutants:1,crossovers:1}"
_DARTS = ["channels=4", "cells=3", "nodes=1", "resolution=8"]
_TIERED = ["rounds=2", f"method.tiers.evolution={_EVOLUTION}", "space.supernet.resolution=8"]
SHORT_FAMILY = {
    "fednas": ["rounds=2", "method.search_rounds=1", *(f"space.supernet.{o}" for o in _DARTS)],
    "direct_fednas": [f"space.supernet.{option}" for option in _DARTS],
    "superfednas": [*_TIERED, "server_set.images=8"],
    "deepfednas": [
        *_TIERED,
        "method.proposals.cache.entries=4",
        f"method.proposals.cache.evolution={_EVOLUTION}",
    ],
    "fedoras": [*_TIERED, "server_set.images=8", "method.fine_tuning.rounds=1"],
}


@pytest.mark.parametrize("name", sorted(FAMILY_ROWS))
def test_a_row_of_the_family_is_what_the_papers_say(name: str) -> None:
    _assert_holds(compose_values([f"experiment={name}"]), FAMILY_SETTINGS[name])
    config = _config(name)
    assert (
        config.clients,
        config.participants,
        config.rounds,
        config.local_epochs,
        config.batch_size,
        config.partition["alpha"],
    ) == FAMILY_ROWS[name]


def _assert_holds(values: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if value and isinstance(value, dict):
            _assert_holds(values[key], value)
        else:
            assert values[key] == value, key


@pytest.mark.parametrize("name", quick(FAMILY, "family_fednas_small", "family_deepfednas_small"))
def test_a_row_of_the_family_runs(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    values, settings = _short(name, roots)
    settings += SHORT_FAMILY.get(values["method"]["name"], [])
    if name in THIN:
        settings += [f"space.supernet.stages={THIN[name]}"]
    if "small" in name:
        settings += FEW
    directory = _started(settings, tmp_path / "run")
    assert directory.summary()["method"] == values["method"]["name"]
