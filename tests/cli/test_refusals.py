"""Bad input: exit code 2 and a line with key, value and remedy, before anything is created."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from corolla.cli import main
from corolla.errors import Fault, RefusedError
from corolla.launch import plan_run
from corolla.records.run_directory import RunDirectory
from corolla.records.seals import BY_HAND, read_sealed, write_sealed
from engines.superlink import SuperLinkEngine
from tests.strategies.conftest import SMALL


def _refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return " ".join(capsys.readouterr().err.split())


def _folder(root: Path, classes: int = 2, images: int = 12) -> Path:
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(images):
            Image.new("RGB", (8, 8), (20 * label, number, 0)).save(folder / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("method=fedavgg", "method='fedavgg': no such method. Did you mean 'fedavg'?"),
        ("space=mobilenet", "space='mobilenet': no such space. Did you mean 'mobilenetv3'?"),
        ("experiment=cifar_small", "no such experiment. Did you mean 'cifar10_small'?"),
        ("rouns=3", "rouns=3: unknown key. Did you mean 'rounds'?"),
        ("method.hed_l2=1", "Did you mean 'method.head_l2'?"),
        (
            "method.head_l2=-1",
            "Refused: 1 fault. • method.head_l2=-1: is out of range",
        ),  # of both sides
        ("method.strategy.weights=uniform", "is now method.weights. Write method.weights=uniform"),
        (
            "search=random",
            "search='random': belongs to another method (is now method/search). Leave it out",
        ),
        (
            "proposals.initial=3",
            "proposals.initial=3: belongs to another method (is now method.proposals",
        ),
        ("method/search=random", "method/search='random': the method has no such choice"),
        (
            "clients_per_round=20",
            "clients_per_round=20: asks more clients a round than there are (clients=10)",
        ),
        ("clients_per_round=1.5", "a fraction must lie in (0, 1]"),
        ("clients_per_round=0.0", "a fraction must lie in (0, 1]"),
        ("rounds=0", "rounds=0: is out of range. Use a whole number, 1 or more"),
        ("seed=1.5", "seed=1.5: is not a whole number. Use a whole number, 0 or more"),
        ("evaluation.every=-1", "evaluation.every=-1: is out of range. Use a whole number, 0"),
        ("report=1", "report=1: is not true or false. Use one of them"),
        ("device=1", "device=1: is not auto or cpu or cuda. Use one of them"),
        ("from=3", "from=3: is not text or null. Use one of them"),
        ("evaluation=3", "evaluation=3: is a group of settings. Set its keys: evaluation.KEY"),
        ("memory_budget_mib=100", "or space, or null. Use one of them"),
        ("clients_per_round=0", "must be at least 1. Write a count, as in 5"),
        ("rounds=many", "rounds='many'"),
        ("partition.alpha=-1", "partition.alpha=-1"),
        ("trainer.lr=0", "trainer.lr=0"),
        ("trainer.optimizer=sdg", "trainer.optimizer='sdg'"),
        ("method.policy.lr=-1", "method.policy.lr=-1"),
        ("memory_budget_mib=[0.1,0.2]", "the smallest architecture needs"),
        ("memory_budget_mib=[5,1]", "is not a range of MiB above 0"),
        ("cap=sped", "cap='sped': no such cap. Did you mean 'speed'?"),
        (
            "cap=data_size_paper",
            "cap.low_margin=10000000.0: the client with the fewest images would get",
        ),
        ("cap=data_size cap.unit=mac", "cap.unit='mac': is not known. Did you mean 'macs'?"),
        ("cap=data_size cap.step=0", "cap.step=0: is out of range. Use a number, above 0, or null"),
        ("cap=data_size cap.low_margin=low", "cap.low_margin='low': is not a number"),
        ("cap=range cap.low=2", "cap.low=2.0: with high=1.0 is not an ascending range from 0 on"),
        (
            "cap=range cap.unit=macs cap.low=10 cap.high=20 clients=2 clients_per_round=1",
            "the smallest architecture needs 56,544 multiply-accumulates for an image. "
            "Raise cap.low, or take a space with smaller architectures",
        ),
        ("cap=speed cap.latency_ms=0", "latency_ms=0: is out of range. Use a number, above 0"),
        ("cap=speed cap.latency_ms=1e-6", "Raise cap.latency_ms, or take a space with smaller"),
        ("cap=speed cap.batch_size=0", "cap.batch_size=0: is out of range"),
        ("cap=speed cap.latency=5", "cap.latency=5: unknown key. Did you mean 'cap.latency_ms'?"),
        ("clients=1800", "more clients than images (1797)"),
        (
            "partition.balanced=true partition.alpha=100 partition.images_per_client=3",
            "clients=10: leaves one image to train on at each client",
        ),
        ("engine.actors=0", "engine.actors=0"),
        ("engine.address=nowhere", "engine.address='nowhere'"),
        ("cap=range cap.seed=-1", "cap.seed=-1: is out of range. Use a whole number, 0 or more"),
        ("+partition.name=foo", "partition.name='foo': is not a setting here"),
        ("cap=range +cap.name=[1]", "cap.name=[1]: is not a setting here. Known: high, low, seed"),
        ("server_set=held_out +server_set.name=x", "server_set.name='x': is not a setting here"),
        ("+trainer.name=foo", "trainer.name='foo': is not a setting here"),
        ("robust=median +robust.kind=3", "robust.kind=3: is not a setting here"),
        ("+dataset.name=foo", "dataset.name='foo': is not a setting here. Leave it out"),
        (
            "cap=range +cap.remedy=foo",
            "is not a setting here. Did you mean 'seed'? Known: high, low, seed, unit",
        ),
        (
            "method.proposals=uniform",
            "method.proposals='uniform': is a group of settings. Write method/proposals=uniform",
        ),
        (
            "++method.reward=los",
            "Write method/reward=NAME, or set its keys: method.reward.KEY=VALUE. Did you mean 'loss'",
        ),
        (
            "method=spider method.share=ture",
            "method.share='ture': is not known. Did you mean 'true'? Known: auto, false, true",
        ),
        ("private=[1]", "private=[1]: is not a list of texts. Use a list of texts"),
        ("private=[head,head]", "private=['head', 'head']: names head twice"),
        (
            "rounds=1000000001",
            "is out of range. Use a whole number, 1 or more, 1,000,000,000 or less",
        ),
        (
            "seed=9223372036854775808",
            "seed=9223372036854775808: does not fit into 64 bits. Use a whole number, 0 or more, below 9,2",
        ),
        ("robust=median robust.min_holders=0", "is out of range. Use a whole number, 3 or more"),
        (
            "dataset=cinic10 dataset.cache_gib=-1",
            "dataset.cache_gib=-1: is out of range. Use a number, 0 or more",
        ),
        (
            "dataset=imagefolder dataset.memory_mib=1e308",
            "dataset.memory_mib=1e+308: is out of range. Use a number, 0 or more, 1,000,000,000 or",
        ),
        (
            "method=fedmd server_set=unlabelled server_set.cache_gib=-1",
            "server_set.cache_gib=-1: is out of range",
        ),
    ],
)
def test_bad_override(
    override: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = _refused(["run", *override.split(), f"run_dir={tmp_path / 'run'}"], capsys)
    assert expected in message
    assert not (tmp_path / "run").exists()


def test_all_faults_are_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    message = _refused(["run", "rounds=0", "batch_size=0", "clients_per_round=99"], capsys)
    assert "rounds=0" in message
    assert "batch_size=0" in message
    message = _refused(["run", "trainer.lr=0", "partition.alpha=0"], capsys)
    assert "trainer.lr=0" in message
    assert "partition.alpha=0" in message


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ("cap=tiers cap.shares=[2]", ["cap.shares"]),
        ("engine=superlink engine.insecure=yes engine.address=no:1", ["engine.insecure", "engine.address"]),
        ("dataset=imagefolder dataset.channels=a", ["dataset.channels", "dataset.root"]),
        (
            "method/proposals=like_sizes method.proposals.tolerance=2",
            ["method.proposals.tolerance", "method.proposals.run"],
        ),
    ],
)  # fmt: skip
def test_no_fault_comes_of_what_stands_in_for_a_wrong_value(
    overrides: str, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable = Fault("engine.address", "no:1", "nothing answers there", "Start it first.")
    monkeypatch.setattr(SuperLinkEngine, "_reach_faults", lambda self: [unreachable])
    with pytest.raises(RefusedError) as refused:
        plan_run([*overrides.split(), "run_dir=unused"])
    assert [fault.key for fault in refused.value.faults] == keys


def test_limits_under_the_smallest_architecture_are_shown_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    limits = ["cap=range", "cap.unit=macs", "cap.high=9", "memory_budget_mib=[0.1,0.2]"]
    message = _refused(["run", "clients=2", "clients_per_round=1", *limits], capsys)
    assert "memory_budget_mib='client 0: 0." in message
    assert "cap='client 0: " in message
    assert ", client 1: " in message


def test_image_folder_that_is_missing_empty_or_has_one_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(root: Path) -> str:
        return _refused(["run", "dataset=imagefolder", f"dataset.root={root}"], capsys)

    assert "dataset.root" in message(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "dataset.root" in message(tmp_path / "empty")
    assert "class" in message(_folder(tmp_path / "one", classes=1))


def test_unreadable_images_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _folder(tmp_path / "images", images=30)
    (root / "class0" / "3.png").write_bytes(b"no picture")
    (root / "class1" / "7.png").write_bytes(b"")
    overrides = ["dataset=imagefolder", f"dataset.root={root}", "space=mobilenetv3_32"]
    message = _refused(
        ["run", *overrides, "dataset.resolution=32", "clients=2", "clients_per_round=1",
         "partition.alpha=100", "dataset.cache_dir=none"],
        capsys,
    )  # fmt: skip
    assert "class0/3.png" in message
    assert "class1/7.png" in message


def test_existing_run_directory_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    message = _refused(["run", *SMALL, f"run_dir={tmp_path / 'run'}"], capsys)
    assert "run_dir" in message
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.fixture
def unfinished(copied: RunDirectory) -> RunDirectory:
    (copied.path / "summary.json").unlink()
    return copied


def test_resume_of_nothing_and_of_a_directory_in_use(
    unfinished: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = unfinished
    assert "run_dir" in _refused(["resume", str(tmp_path / "nowhere")], capsys)
    import subprocess
    import sys

    code = (
        "import sys, time; from pathlib import Path\n"
        "from corolla.records.run_directory import RunDirectory\n"
        f"with RunDirectory.open(Path({str(directory.path)!r})).lock():\n"
        "    print('locked', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        assert f"{other.pid}" in _refused(["resume", str(directory.path)], capsys)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: corolla", "name: fedavg", "method"),
        ("stem: 8", "stem: 8\n    last_: 3", "space"),
        ("- 128", "- 129", "space"),
    ],
)
def test_resume_with_a_checkpoint_of_something_else(
    old: str, new: str, expected: str, unfinished: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = unfinished
    text = (directory.path / "config.yaml").read_text()
    changed = text.replace("last: 128", "last: 129") if old == "- 128" else text.replace(old, new)
    assert changed != text
    (directory.path / "config.yaml").write_text(f"{changed}\n{BY_HAND}\n")
    assert expected in _refused(["resume", str(directory.path)], capsys)


def test_checkpoint_of_a_newer_format(
    unfinished: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (state,) = unfinished.path.glob("checkpoints/round-*/state.json")
    write_sealed(state, read_sealed(state) | {"format_version": 99})
    assert "99" in _refused(["resume", str(unfinished.path)], capsys)


def test_no_free_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    message = _refused(["run", *SMALL, f"run_dir={tmp_path / 'run'}"], capsys)
    assert "free" in message
    assert not (tmp_path / "run").exists()


def test_finished_run_is_not_resumed(
    copied: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = copied
    before = (directory.path / "summary.json").read_bytes()
    assert main(["resume", str(directory.path)]) == 0
    assert "complete" in capsys.readouterr().out
    assert (directory.path / "summary.json").read_bytes() == before
    assert isinstance(RunDirectory.open(directory.path).finished, bool)


def test_a_wrong_folder_or_table_hides_nothing_and_adds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["dataset=imagefolder", f"dataset.root={tmp_path}/no", "partition.alpha=-1", "rounds=0"]
    err = _refused(["run", *wrong], capsys)
    for expected in ("3 faults", "rounds=0", "partition.alpha=-1", "folder does not exist"):
        assert expected in err
    root = _folder(tmp_path / "site" / "north").parent  # of sites: no class folders of its own
    err = _refused(
        ["run", "dataset=imagefolder", f"dataset.root={root}", f"dataset.table={root}/no.csv"],
        capsys,
    )
    assert "1 fault" in err
