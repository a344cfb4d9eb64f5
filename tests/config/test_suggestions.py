"""What a method suggests, who wins, and how slips are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corolla.config.compose import compose_values, suggested
from corolla.config.effects import without_effect
from corolla.config.groups import methods
from corolla.config.origins import origins
from corolla.errors import RefusedError
from corolla.launch import plan_run, start

EVOLUTION = "method.tiers.evolution={population:4,generations:1,mutants:2,crossovers:2}"
# What one round of each takes where its own stages are longer.
SHORT = {
    "fednas": ["rounds=2", "method.search_rounds=1"],
    "fedoras": ["rounds=2", "method.fine_tuning.rounds=1", EVOLUTION],
    "superfednas": [EVOLUTION],
    "deepfednas": [EVOLUTION, "method.proposals.cache.entries=3"],
    "hapfnas": ["rounds=3", "method.supernet_training.rounds=1", "method.personal_search.rounds=1"],
}
TINY = [
    *("engine=inline", "clients=3", "clients_per_round=3", "rounds=1", "local_epochs=1"),
    *("partition.balanced=true", "partition.images_per_client=60"),
    *("evaluation.every=0", "evaluation.fine_tune_epochs=0", "report=false", "tensorboard=false"),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", methods())
def test_every_method_runs_on_the_digits_by_its_name(method: str, tmp_path: Path) -> None:
    plan_run([f"method={method}", "engine=inline"])
    if method in ("spider", "global_nas"):  # they refuse fewer rounds than their search takes
        return
    own = [f"method={method}", f"run_dir={tmp_path / 'run'}", *TINY, *SHORT.get(method, [])]
    assert start(plan_run(own)).finished


def test_what_is_given_wins_and_so_does_its_group() -> None:
    assert suggested(["method=hapfnas"])[0] == "space=mobilenetv2_8"
    assert suggested(["method=hapfnas", "dataset=cifar10"])[0] == "space=mobilenetv2_small"
    assert suggested(["method=hapfnas", "space=elastic_cnn", "server_set=dataset"]) == []
    assert suggested(["method=fedmd", "server_set.images=9"]) == ["server_set=held_out"]
    assert suggested(["method=spider", "experiment=board"]) == []
    values = compose_values(["method=fedmd", "server_set.images=9"])
    assert (values["server_set"]["images"], values["space"]["name"]) == (9, "mobilenetv3_8")


@pytest.mark.slow
def test_every_value_names_where_it_was_set() -> None:
    found = origins(["method=spider", "rounds=99", "experiment=null"])
    assert found["rounds"] == (99, "command line")
    assert found["method.search.warmup_rounds"] == (10, "suggested by conf/method/spider.yaml")
    assert found["method.search.rank"] == ("loss", "conf/method/search/perturbation.yaml")
    assert found["space.supernet.nodes"] == (2, "conf/space/darts_s2_mixed_8.yaml")
    assert found["space.supernet.operations"] == ("s2", "conf/space/darts_s2.yaml")
    assert found["batch_size"] == (32, "conf/config.yaml")
    found = origins(["experiment=hapfnas_small", "method=hapfnas"])
    assert found["trainer.lr"] == (0.05, "conf/experiment/hapfnas_small.yaml")
    assert found["trainer.momentum"] == (0.9, "conf/trainer/sgd.yaml")
    assert origins(["method=fedrod"])["trainer.loss"][1] == "conf/method_trainer/fedrod.yaml"


def test_keys_without_effect_are_named() -> None:
    given = ["method=fedavg", "trainer.betas=[0.1,0.2]", "server_set=held_out"]
    betas, unread, changed = without_effect(given)
    assert "trainer.optimizer=adamw, and that is sgd" in betas
    assert "server_set=held_out has no effect on training" in unread
    assert "takes 1000 images from the pool before it is divided" in changed
    assert without_effect(["trainer.momentum=0.5"]) == []


def _faults(*overrides: str) -> dict[str, str]:
    with pytest.raises(RefusedError) as refused:
        plan_run(["engine=inline", *overrides])
    return {fault.key: str(fault) for fault in refused.value.faults}


def test_faults_of_other_methods_and_of_lists_of_values() -> None:
    found = _faults("method=fedavg", "search.warmup_rounds=99", "seed=0,1", "rounds=x")
    assert "belongs to another method" in found["search.warmup_rounds"]
    assert "Add -m for a run of each: corolla run -m seed=0,1" in found["seed"]
    assert "is not a whole number" in found["rounds"]


def test_a_wrong_root_hides_nothing() -> None:
    wrong = ["dataset=imagefolder", "dataset.root=/nowhere", "rounds=0", "trainer.lr=0"]
    found = _faults("method=spider", "space=lenet", *wrong)
    assert set(found) == {"dataset.root", "rounds", "trainer.lr", "space"}


def test_a_slip_is_refused_before_torch_is_imported() -> None:
    code = "import sys; from corolla.cli import main; assert main(['run', 'nonsense=1']) == 2; "
    code += "import resource; used = resource.getrusage(resource.RUSAGE_SELF); "
    code += "assert 'torch' not in sys.modules; print(used.ru_utime + used.ru_stime)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0  # 0.6 s; 3.6 s with torch
    assert "unknown key" in done.stderr


def test_keys_that_moved_below_the_method_are_refused_with_the_new_one() -> None:
    found = _faults("method=perfedrlnas", "damping=0", "lambda_time=0.5")
    assert found["damping"].endswith("is now method.damping. Write method.damping=0")
    assert found["lambda_time"].endswith("Write method.reward.lambda_time=0.5")
    assert "belongs to another method" in _faults("method=fedavg", "damping=0")["damping"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method_defaults: {damping: 0.5}", None),
        ("damping: 0.5", "in an experiment that other methods take too: method_defaults.damping"),
        ("method_defaults: {dampign: 0.5}", "no method takes this default. Did you mean 'damping'"),
    ],
)
def test_an_experiment_sets_what_some_methods_have(
    text: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    monkeypatch.setenv("COROLLA_CONFIG_DIR", str(tmp_path))
    if said is not None:
        assert any(said in fault for fault in _faults("experiment=mine").values())
        return
    plain = compose_values(["experiment=mine", "method=fedavg"])
    assert "damping" not in plain["method"]
    assert compose_values(["experiment=mine", "method=perfednas"])["method"]["damping"] == 0.5
    given = compose_values(["experiment=mine", "method=perfednas", "method.damping=1"])
    assert given["method"]["damping"] == 1
