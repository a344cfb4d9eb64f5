from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from corolla.errors import RefusedError
from corolla.records import environment, event_mirror
from corolla.records.atomic import sweep
from corolla.records.client_names import client_of, directory_name
from corolla.records.disk import require_free_disk
from corolla.records.environment import collect_environment
from corolla.records.errors import CorruptStateError
from corolla.records.run_directory import RunDirectory
from corolla.records.seals import BY_HAND, RUN_FORMAT
from tests.states import differences

from .conftest import HEADER, state_of


class TestCreateAndOpen:
    def test_a_created_directory_opens_and_says_what_it_was_given(self, tmp_path: Path) -> None:
        made = RunDirectory.create(
            tmp_path / "a" / "run", config_yaml="name: Zürich\n", environment={"seed": np.int64(3)}
        )
        run = RunDirectory.open(str(made.path))
        assert run.config_text() == "name: Zürich\n"
        assert run.environment() == {"seed": 3}
        assert (run.metrics(), run.clients(), run.saved_clients()) == ([], [], [])
        assert not run.finished
        assert not run.has_checkpoint()

    def test_the_format_is_written_and_another_refused_with_the_release_that_wrote_it(
        self, tmp_path: Path
    ) -> None:
        environment = {"versions": {"corolla": "9.1"}}
        run = RunDirectory.create(tmp_path, config_yaml="seed: 1\n", environment=environment)
        path = tmp_path / "config.yaml"
        assert path.read_text().splitlines()[:2] == [f"format: {RUN_FORMAT}", "seed: 1"]
        path.write_text(f"# mine\nseed: 2\nformat: {RUN_FORMAT} # as it was\n{BY_HAND}\n")
        assert run.config_text() == "# mine\nseed: 2\n"
        path.write_text(f"format: {RUN_FORMAT + 1}\nseed: 1\n{BY_HAND}\n")
        with pytest.raises(RefusedError, match=r"format='3'.*by Corolla 9\.1.*the release that"):
            run.config_text()
        (tmp_path / "environment.json").unlink()
        with pytest.raises(RefusedError, match="by Corolla of another release"):
            run.config_text()

    def test_a_directory_without_a_format_is_read_without_the_keys_that_moved(
        self, tmp_path: Path
    ) -> None:
        run = RunDirectory.create(tmp_path, config_yaml="", environment={})
        old = "method:\n  damping: 0.5\ndamping: 0.25\nmax_examples: null\nlambda_time: 0.0\n"
        (tmp_path / "config.yaml").write_text(f"{old}{BY_HAND}\n")
        assert run.config_text() == "method:\n  damping: 0.5\nmax_examples: null\n"

    def test_an_empty_directory_may_be_used(self, tmp_path: Path) -> None:
        RunDirectory.create(tmp_path, config_yaml="", environment={})

    @pytest.mark.parametrize("taken_by", ["run", "file inside", "file"])
    def test_what_exists_is_left_as_it_is(self, tmp_path: Path, taken_by: str) -> None:
        path = tmp_path / "run"
        if taken_by == "run":
            RunDirectory.create(path, config_yaml="seed: 1\n", environment={})
        elif taken_by == "file":
            path.write_text("mine")
        else:
            path.mkdir()
            (path / ".hidden").write_text("mine")
        before = {p: p.is_file() and p.read_bytes() for p in [path, *path.rglob("*")]}
        with pytest.raises(RefusedError) as caught:
            RunDirectory.create(path, config_yaml="seed: 2\n", environment={})
        (fault,) = caught.value.faults
        assert (fault.key, fault.value) == ("run_dir", str(path))
        assert "not empty" in fault.problem
        assert f"corolla resume {path}" in fault.remedy
        assert before == {p: p.is_file() and p.read_bytes() for p in [path, *path.rglob("*")]}

    def test_a_place_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RefusedError, match=r"cannot be made \(Not a directory\)"):
            RunDirectory.create(tmp_path / "file" / "run", config_yaml="", environment={})

    def test_open_refuses_what_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RefusedError, match=r"run_dir='.*/nowhere': no such directory"):
            RunDirectory.open(tmp_path / "nowhere")
        with pytest.raises(RefusedError, match=r"not a run directory: it has no config\.yaml"):
            RunDirectory.open(tmp_path)


class TestLock:
    def test_a_second_taker_is_told_who_has_it(self, run: RunDirectory) -> None:
        with run.lock():
            with pytest.raises(RefusedError) as caught:
                RunDirectory.open(run.path).lock()
            assert f"run_dir={str(run.path)!r}: in use by pid {os.getpid()} on " in str(
                caught.value
            )
            assert "choose another run_dir" in str(caught.value)
        with RunDirectory.open(run.path).lock():
            pass

    def test_a_directory_that_cannot_be_written_to_is_refused(self, run: RunDirectory) -> None:
        (run.path / ".lock").unlink()
        (run.path / ".lock").mkdir()
        with pytest.raises(RefusedError, match=r"cannot be written to \(Is a directory\)"):
            run.lock()

    def test_it_holds_without_a_with_and_can_be_released_twice(self, run: RunDirectory) -> None:
        run.lock()
        with pytest.raises(RefusedError):
            RunDirectory.open(run.path).lock()
        assert run._lock is not None
        run._lock.release()
        run._lock.release()
        RunDirectory.open(run.path).lock().release()

    def test_it_dies_with_its_process(self, run: RunDirectory) -> None:
        code = (
            "import sys, time\n"
            "from corolla.records.run_directory import RunDirectory\n"
            "run = RunDirectory.open(sys.argv[1])\n"
            "run.lock()\n"
            "print('locked', flush=True)\n"
            "time.sleep(60)\n"
        )
        source = str(Path(environment.__file__).parents[2])
        with subprocess.Popen(
            [sys.executable, "-c", code, str(run.path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": source},
        ) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "locked\n"
                with pytest.raises(RefusedError, match=f"in use by pid {holder.pid} on "):
                    run.lock()
            finally:
                holder.kill()
        with run.lock():
            pass


class TestLines:
    def test_truncation_drops_later_rounds_in_both_files(self, run: RunDirectory) -> None:
        for round in (1, 2, 3):
            run.append_round({"round": round, "train_loss": round / 2})
            run.append_clients({"round": round, "client": c} for c in ("0", "1"))
        with (run.path / "clients.jsonl").open("a") as file:
            file.write('{"round": 2, "cli')
        run.truncate_after(2)
        assert [line["round"] for line in run.metrics()] == [1, 2]
        assert [line["round"] for line in run.clients()] == [1, 1, 2, 2]
        run.append_clients([{"round": 3, "client": "0"}])
        assert run.clients()[-1] == {"round": 3, "client": "0"}

    def test_a_line_without_a_round_is_refused(self, run: RunDirectory) -> None:
        with pytest.raises(ValueError, match=r"lacks 'round'; it has \['loss'\]"):
            run.append_round({"loss": 1})
        with pytest.raises(ValueError, match="lacks 'round'"):
            run.append_clients([{"round": 1}, {"client": "0"}])
        assert run.clients() == []


class TestDocuments:
    def test_the_summary_ends_the_run(self, run: RunDirectory) -> None:
        with pytest.raises(RefusedError, match=r"not finished\. Finish it with `corolla resume"):
            run.summary()
        run.write_summary({"test_accuracy": {"mean": np.float32(0.5), "std": float("nan")}})
        assert run.finished
        assert run.summary() == {"test_accuracy": {"mean": 0.5, "std": None}}

    def test_a_damaged_summary_is_named(self, run: RunDirectory) -> None:
        (run.path / "summary.json").write_text("{")
        with pytest.raises(CorruptStateError, match=r"summary\.json is damaged"):
            run.summary()

    def test_a_failed_write_leaves_the_former_summary(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run.write_summary({"a": 1})

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=r"No space left on device: .*/summary\.json"):
                run.write_summary({"a": 2})
        assert run.summary() == {"a": 1}
        assert not list(run.path.glob(".summary*"))

    def test_environment_names_versions_and_source_but_nobody(self) -> None:
        found = collect_environment(7, "cpu")
        assert (found["seed"], found["device"]) == (7, "cpu")
        assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert {"python", "corolla", "flwr", "ray", "hydra-core"} <= found["versions"].keys()
        assert found["cpus"] >= 1
        assert os.uname().nodename not in json.dumps(found)

    def test_the_commit_is_ours_or_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def git(*arguments: str) -> None:
            who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
            subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

        package = tmp_path / "src" / "corolla"
        package.mkdir(parents=True)
        source = package / "__init__.py"
        source.write_text("")
        monkeypatch.setattr(environment.corolla, "__file__", str(source))
        assert environment._source() == (None, None)  # no repository
        git("init", "-q")
        assert environment._source() == (None, None)  # no commit
        git("add", ".")
        git("commit", "-q", "-m", "x")
        commit, changed = environment._source()
        assert len(commit or "") == 40
        assert changed is False
        source.write_text("x = 1\n")
        assert environment._source() == (commit, True)
        # installed somewhere inside another project's repository
        other = tmp_path / "venv" / "corolla"
        other.mkdir(parents=True)
        monkeypatch.setattr(environment.corolla, "__file__", str(other / "__init__.py"))
        assert environment._source() == (None, None)


class TestCheckpointsAndModels:
    def test_checkpoints_go_through(self, run: RunDirectory) -> None:
        run.checkpoints.save(state_of(1), round=1, header=HEADER, best=True)
        run.checkpoints.save(state_of(2), round=2, header=HEADER)
        assert run.has_checkpoint()
        assert run.checkpoints.load("latest", expected=HEADER)[0] == 2
        round, state = run.checkpoints.load("best", expected=HEADER)
        assert round == 1
        assert not differences(state, state_of(1))

    def test_the_final_state_is_that_of_the_last_round(self, run: RunDirectory) -> None:
        for round in (1, 2):
            run.append_round({"round": round})
            run.checkpoints.save(state_of(round), round=round, header=HEADER)
        assert not differences(run.final_state(expected=HEADER), state_of(2))
        shutil.rmtree(run.path / "checkpoints" / "round-000002")
        with pytest.raises(CorruptStateError, match=r"is of round 1, metrics\.jsonl ends with 2"):
            run.final_state(expected=HEADER)

    def test_a_model_comes_back_and_is_read_in_one_call(self, run: RunDirectory) -> None:
        arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(2.5)}
        run.save_client_model("site a/..", {"choices": (0, 2)}, {"w": np.zeros(1)})
        run.save_client_model("10", {"choices": []}, {})
        run.save_client_model("9", {"choices": []}, {})
        run.save_client_model("site a/..", {"choices": (0, 1)}, arrays)
        architecture, back = run.client_model("site a/..")
        assert architecture == {"choices": [0, 1]}
        assert list(back) == ["w", "b"]
        np.testing.assert_array_equal(back["w"], arrays["w"])
        assert run.saved_clients() == ["9", "10", "site a/.."]
        clients = run.path / "clients"
        assert {p.name for p in clients.iterdir()} == {"9", "10", "site%20a%2F.."}
        (clients / ".11.99-ab.tmp").mkdir()  # being written
        assert run.saved_clients() == ["9", "10", "site a/.."]
        directory = clients / "site%20a%2F.."
        loaded = safetensors.torch.load_file(directory / "model.safetensors")
        torch.testing.assert_close(loaded["w"], torch.arange(6.0).reshape(2, 3))

    def test_an_unknown_client_is_refused_with_the_nearest(self, run: RunDirectory) -> None:
        with pytest.raises(RefusedError, match="has saved no client models yet"):
            run.client_model("0")
        run.save_client_model("site-a", {}, {})
        with pytest.raises(RefusedError, match=r"client='site_a'.*Did you mean 'site-a'"):
            run.client_model("site_a")

    def test_a_model_that_cannot_be_replaced_stays(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run.save_client_model("0", {"v": 1}, {})
        rename, calls = Path.rename, 0

        def second_fails(self: Path, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls == 2:  # the former model has been moved aside, the new one takes its place
                raise OSError(5, "Input/output error")
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", second_fails)
            with pytest.raises(OSError, match="Input/output"):
                run.save_client_model("0", {"v": 2}, {})
        assert run.client_model("0")[0] == {"v": 1}
        assert [path.name for path in (run.path / "clients").iterdir()] == ["0"]

    @pytest.mark.parametrize("missing", ["architecture.json", "model.safetensors"])
    def test_half_a_model_is_damage(self, run: RunDirectory, missing: str) -> None:
        run.save_client_model("0", {}, {})
        (run.path / "clients" / "0" / missing).unlink()
        with pytest.raises(
            CorruptStateError, match=rf"0/{missing} is damaged: it is missing\. Delete"
        ):
            run.client_model("0")


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("0", "0"),
        ("site-a", "site-a"),
        ("..", "%2E."),
        (".", "%2E"),
        (".lock", "%2Elock"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("/root", "%2Froot"),
        ("a%2Fb", "a%252Fb"),
        ("Zürich", "Z%C3%BCrich"),
        ("a\0b\n", "a%00b%0A"),
    ],
)
def test_no_client_name_leads_elsewhere_and_each_can_be_told(client: str, name: str) -> None:
    assert directory_name(client) == name
    assert client_of(name) == client


@pytest.mark.parametrize("client", ["", "x" * 201, "ü" * 40])
def test_names_that_no_file_can_have_are_refused(client: str) -> None:
    with pytest.raises(RefusedError, match="must have 1 to 200 characters"):
        directory_name(client)


def test_too_little_disk_is_refused(tmp_path: Path) -> None:
    require_free_disk(tmp_path / "not" / "yet", 1)
    with pytest.raises(
        RefusedError, match=r"run_dir='.*/yet': \d+ MiB are free, about 1073741824 "
    ):
        require_free_disk(tmp_path / "not" / "yet", 2**50)


def test_sweep_takes_leftovers_only(tmp_path: Path) -> None:
    (tmp_path / ".round-1.99-ab.tmp").mkdir()
    (tmp_path / ".latest.99-ab.tmp").touch()
    (tmp_path / ".tmpVo9D1v").touch()
    (tmp_path / ".lock").touch()
    (tmp_path / "latest").touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "latest"]


class TestLog:
    def test_it_holds_ours_from_info_and_warnings_of_others(self, run: RunDirectory) -> None:
        ours, other = logging.getLogger("corolla.x"), logging.getLogger("some.library")
        level = logging.getLogger("corolla").level
        with run.logging():
            ours.info("round %d", 1)
            ours.debug("too much")
            other.info("chatter")
            other.warning("mind this")
        with run.logging():
            logging.getLogger("strategies.run").info("again")
        ours.error("outside")
        lines = (run.path / "run.log").read_text().splitlines()
        assert [line.split(" ", 2)[2] for line in lines] == [
            "INFO corolla.x: round 1",
            "WARNING some.library: mind this",
            "INFO strategies.run: again",
        ]
        assert logging.getLogger("corolla").level == level

    def test_a_failure_in_the_block_still_takes_the_handler_away(self, run: RunDirectory) -> None:
        before = list(logging.getLogger().handlers)

        def fail() -> None:
            with run.logging():
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert logging.getLogger().handlers == before


class TestTensorBoard:
    def test_numbers_are_mirrored_under_flat_keys(self, run: RunDirectory) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        line: dict[str, Any] = {
            "train_loss": np.float32(0.5),
            "failures": 0,
            "participants": ["0"],
            "broken": float("nan"),
            "evaluation": {"personalised": {"test_accuracy": {"mean": 0.25}}, "global": None},
        }
        threads = threading.active_count()
        with run.tensorboard():
            run.append_round({"round": 1, **line})
            run.append_round({"round": 2, **line})
            early = EventAccumulator(str(run.path / "tensorboard"))
            early.Reload()
            assert len(early.Scalars("train_loss")) == 2  # can be watched while the run goes on
        assert threading.active_count() == threads
        run.truncate_after(1)
        with run.tensorboard(resumed_after=1):
            run.append_round({"round": 2, **line, "train_loss": 0.75})
        run.append_round({"round": 3, **line})  # not mirrored any more
        events = EventAccumulator(str(run.path / "tensorboard"))
        events.Reload()
        key = "evaluation/personalised/test_accuracy/mean"
        tags = events.Tags()["scalars"]
        assert sorted(tags) == [key, "failures", "train_loss"]
        scalars = events.Scalars("train_loss")
        assert [(e.step, e.value) for e in scalars] == [(1, 0.5), (2, 0.75)]

    def test_without_tensorboard_it_is_refused(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(RefusedError, match="Install the package tensorboard, or"):
            event_mirror.EventMirror(run.path / "tensorboard")
