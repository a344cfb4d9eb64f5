"""A site's installation: a node trains without Ray, report, events and predictors."""

from __future__ import annotations

import importlib.metadata
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from engines import warm_client

ROOT = Path(__file__).parents[2]
ABSENT = ("ray", "matplotlib", "altair", "vl_convert", "tensorboard", "sklearn", "scipy", "jinja2")

# A node's ClientApp answers who it is, trains and scores, in a process in which ABSENT cannot be imported.
TRAINS = """
import json, sys, sysconfig

class Without:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):  # as if it were not installed
        absent = name.partition(".")[0] in sys.argv[1].split(",")
        return None if absent else self._finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import engines.warm_client
ahead = sys.argv[3] == "ahead"
if ahead:
    engines.warm_client.import_ahead()
    engines.warm_client.flower_program()
before = set(sys.modules)
from flwr.supercore.task_identity import TaskIdentity
from flwr.app import ConfigRecord, Context, Message, RecordDict
from clients.client_app import app
from clients.wire import to_record
import yaml
from corolla.config.compose import compose_values
from corolla.config.schema import require_config
from corolla.config.build import build_space
from corolla.spaces.supernet import to_arrays
from corolla.tasks import Task
from PIL import Image
from pathlib import Path

folder = Path(sys.argv[2])
for label in "01":
    (folder / label).mkdir()
    for number in range(10):
        Image.new("L", (8, 8), 100 * int(label) + number).save(folder / label / f"{number}.png")
settings = ["engine=superlink", "method=ditto", "space=elastic_cnn", "partition=iid", "batch_size=4"]
values = compose_values([*settings, "dataset=imagefolder", "run_dir=/runs/first"])
values["dataset"] |= {"classes": ["0", "1"], "resolution": 8, "channels": 1}
values["images"] = {"name": "imagefolder", "classes": ["0", "1"], "channels": 1}
text = require_config(values).to_yaml()
space = build_space(require_config(values))
node = {"client": "a", "data-dir": str(folder), "state-dir": str(folder.parent / "state")}
context = Context(1, 2, node, RecordDict(), {"config": text})

TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 2

def sent(kind, content):
    message = Message(RecordDict(content), 2, kind)
    message.metadata.__dict__["_message_id"] = "1"
    return app(message, context).content

told = dict(sent("query", {"task": ConfigRecord({"question": "identity"})})["info"])
largest = space.largest()
arrays = to_record(to_arrays(space.subnet(largest)))
task = Task(client="a", round=1, architecture=largest, epochs=1, lr=0.1)
reply = sent("train", {"arrays": arrays, "task": ConfigRecord(task.to_config())})
site = sysconfig.get_path("purelib")
print(json.dumps({
    "client": told["client"],
    "trained": len(reply["arrays"]),
    "packages": sorted({
        name.partition(".")[0] for name, module in sys.modules.items()
        if str(getattr(module, "__file__", None) or "").startswith(site)
    }),
    "own": sorted(m for m in before if m.partition(".")[0] in ("corolla", "clients", "strategies")),
    "later": sorted({m for m in set(sys.modules) - before
        if m.partition(".")[0] not in ("corolla", "clients", "conf")}),
}))
"""


def trained(folder: Path, *, ahead: bool) -> dict[str, list[str]]:
    data = folder / "data"
    data.mkdir()
    arguments = [",".join(ABSENT), str(data), "ahead" if ahead else ""]
    done = subprocess.run(
        [sys.executable, "-c", TRAINS, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_a_node_trains_without_what_it_does_not_need_and_the_stem_has_the_rest(
    tmp_path: Path,
) -> None:
    found = trained(tmp_path, ahead=True)
    assert found["client"] == "a"
    assert found["trained"]
    assert not set(found["packages"]) & set(ABSENT)
    # Each message takes the application from the bundle that it names: the stem must not have any of it.
    assert found["own"] == []
    # A message imports next to nothing of others by itself.
    assert len(found["later"]) < 60, found["later"]


def test_what_a_node_imports_is_installed_by_its_requirements() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = runpy.run_path(str(ROOT / "scripts/node_requirements.py"))["requirements"](
        dependencies
    )
    names = [re.split(r"[<>=!~ ;[]", text)[0].lower() for text in wanted]
    assert not set(names) & {"ray", "scikit-learn", "scipy", "altair", "jinja2", "tensorboard"}
    assert all("[" not in text for text in wanted)
    assert {"flwr", "torch", "torchvision", "numpy", "hydra-core", "safetensors"} <= set(names)
    of = importlib.metadata.packages_distributions()
    for module in warm_client.PRELOADED:
        top = module.partition(".")[0]
        owner = of[top][0].lower()
        known = {"pillow": "torchvision"}.get(
            owner, "hydra-core" if owner == "omegaconf" else owner
        )
        assert known in names, (module, owner)
