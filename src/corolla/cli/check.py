"""``corolla check``: what a run with these overrides would be, before it is started."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from corolla.cli.commands import tell_choices, tell_images
from corolla.cli.progress import JsonLines
from corolla.config.compose import compose_values
from corolla.config.origins import origins
from corolla.report.wording import count, duration, percent, plural, size

_OUT = Console(soft_wrap=True)
_SAMPLE = 100  # files whose sizes are looked at
_SUITED = (  # from so many pixels on
    (224, "mobilenetv3"),
    (64, "elastic_resnet"),
    (32, "elastic_cnn, mobilenetv2_small or mobilenetv3_32"),
    (8, "mobilenetv3_8"),
)
_MOST_ROWS, _TRIED = 40, 4  # clients shown; participants of the trial
_MAIN = "import sys; from corolla.cli import main; sys.exit(main(sys.argv[1:]))"
_LOOK_S, _MERCY_S = 0.2, 20.0


def check_command(options: argparse.Namespace, console: Console) -> int:
    """Print the configuration with its origins, images and chance level, costs, and a measured trial."""
    values = compose_values(options.overrides)
    for setting in _settings(options.overrides, values):
        _OUT.out(setting, highlight=False)
    tell_choices(options.overrides, _OUT)
    from corolla.launch import plan_run

    plan = plan_run(options.overrides)
    if plan.partition is not None:
        for line in (_clients(plan), _chance(plan)):
            _OUT.print(line, highlight=False)
    tell_images(plan, _OUT)
    for line in suited(plan.config):
        _OUT.print(line, highlight=False)
    _OUT.print(_costs(plan))
    if plan.config.on_nodes:
        _OUT.print("No trial: the clients are real nodes.")
    elif not options.no_trial:
        for line in trial(options.overrides, plan.config, options.seconds):
            _OUT.print(line, highlight=False)
    return 0


def _settings(overrides: list[str], values: dict[str, Any]) -> Iterator[str]:
    """Yield the settings by where they come from: what was given comes last, nearest to the eye."""
    resolved = OmegaConf.create(values)
    by_origin: dict[str, list[str]] = {}
    for key, (written, origin) in origins(overrides).items():
        if not key.startswith("method.suggests"):
            found = OmegaConf.select(resolved, key)
            found = written if found is None else found
            plain = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
            text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=math.inf)
            said = text.removesuffix("...\n").strip()
            by_origin.setdefault(origin, []).append(f"  {key}={said}")
    for origin in sorted(by_origin, key=lambda one: not one.startswith("conf/")):
        yield f"{origin}:"
        yield from by_origin[origin]


def _clients(plan: Any) -> Table:
    names = plan.config.images.classes
    table = Table(
        title=f"{plural(len(names), 'class')[:-1]}es, images per client", title_justify="left"
    )
    for heading in ("client", "train", "validation", "test", "classes", "most frequent"):
        table.add_column(heading, justify="left" if heading == "client" else "right")
    for client in plan.config.population[:_MOST_ROWS]:
        counts = plan.partition.counts[client]
        train = counts["train"]
        first = max(range(len(train)), key=train.__getitem__)
        sizes = [str(sum(counts[split])) for split in ("train", "validation", "test")]
        held = str(sum(number > 0 for number in train))
        table.add_row(
            (plan.partition.sites or {}).get(client, client),
            *sizes,
            held,
            f"{names[first]} ({percent(train[first] / sum(train))} %)",
        )
    left = len(plan.config.population) - _MOST_ROWS
    table.caption = f"{left} more clients" if left > 0 else None
    return table


def _chance(plan: Any) -> str:
    """Say what is reached without looking at images."""
    own = []
    for client in plan.config.population:
        counts = plan.partition.counts[client]
        train, test = counts["train"], counts["test"]
        first = max(range(len(train)), key=train.__getitem__)
        own.append(test[first] / sum(test))
    number = len(plan.config.images.classes)
    return (
        f"Chance level: {percent(1 / number)} % by lot among {number} classes; "
        f"{percent(statistics.mean(own))} % (mean over clients) who always say their most frequent class."
    )


def _costs(plan: Any) -> Table:
    table = Table(title=f"Networks of {plan.space.name}", title_justify="left")
    for heading in ("", "parameters", "MACs an image", "bytes one way", "memory to train"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in ("smallest", "middle", "largest"):
        costs = plan.space.costs(plan.space.named(name), batch_size=plan.config.batch_size)
        memory = size(costs.training_memory_mib * 2**20)
        cells = (count(costs.params), count(costs.macs), size(costs.payload_bytes), memory)
        table.add_row(name, *cells)
    return table


def suited(config: Any) -> list[str]:
    """Return which resolution and spaces suit the files of an image folder, by a sample of their sizes."""
    from PIL import Image

    from corolla.config.build import build_dataset
    from corolla.data.image_folder import ImageFolder

    dataset = build_dataset(config)
    if type(dataset) is not ImageFolder or dataset.root is None:
        return []
    files = dataset.files()
    sides = []
    for file in files[:: max(1, len(files) // _SAMPLE)]:
        with suppress(OSError), Image.open(file) as image:
            sides.append(min(image.size))
    if not sides:
        return []
    side = statistics.median(sides)
    pixels, spaces = next((one for one in _SUITED if side >= one[0]), _SUITED[-1])
    return [
        f"Images are {side:.0f} pixels high or wide (median of {len(sides)} files): "
        f"dataset.resolution={pixels} with space={spaces} suits them; this run takes "
        f"dataset.resolution={dataset.resolution} and space={config.space.name}."
    ]


def trial(overrides: list[str], config: Any, seconds: float) -> list[str]:
    """Run the first rounds in another process and say what one of them took; it leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="corolla-check-") as folder:
        run_dir = Path(folder) / "run"
        asked = min(config.participants, _TRIED)
        quiet = ["engine=inline", "report=false", "tensorboard=false", "evaluation.every=0"]
        own = [
            o for o in overrides if not o.startswith(("engine", "run_dir=", "clients_per_round="))
        ]
        words = ["run", *own, *quiet, f"clients_per_round={asked}", f"run_dir={run_dir}"]
        command = [sys.executable, "-c", _MAIN, *words]
        metrics, clients = JsonLines(run_dir / "metrics.jsonl"), run_dir / "clients.jsonl"
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                tried = _first_rounds(process, metrics, seconds)
            finally:
                _end(process)
            if not tried:
                log.seek(0)
                said = [line for line in log.read().splitlines() if line.strip()][-3:]
                return [f"No round ended within {seconds:g} s. {' '.join(said)}"]
        lines = [
            json.loads(line) for line in clients.read_text().splitlines() if line.endswith("}")
        ]
    return _measured(config, tried[-1], lines)


def _first_rounds(process: Any, metrics: JsonLines, seconds: float) -> list[dict[str, Any]]:
    """Return up to two rounds: the first imports and compiles."""
    rounds: list[dict[str, Any]] = []
    end = time.monotonic() + seconds
    while len(rounds) < 2 and process.poll() is None and time.monotonic() < end:
        time.sleep(_LOOK_S)
        rounds += metrics.read()
    return (rounds + metrics.read())[:2]  # a quick run is further by now


def _end(process: Any) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_MERCY_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _measured(config: Any, last: dict[str, Any], lines: list[dict[str, Any]]) -> list[str]:
    own = [line for line in lines if line["round"] == last["round"]]
    if not own:
        return ["Trial: nobody finished the round; run it with engine=inline to see why."]
    train_s = statistics.mean(line["train_s"] for line in own)
    down, up = (statistics.mean(line[key] for line in own) for key in ("bytes_down", "bytes_up"))
    each = last["round_s"] / len(own)
    actors = min(int(config.engine.get("actors", 1) or 1), config.participants)
    a_round = each * config.participants / actors
    workers = f" in {actors} processes" if actors > 1 else ""
    memory = max((line.get("peak_memory_mib") or 0) for line in own)
    who = f"round {last['round']}, {plural(len(own), 'participant')}, one after another"
    used = f", {size(memory * 2**20)} of memory" if memory else ""
    traffic = size(config.participants * (down + up))
    rounds = plural(config.rounds, "round")
    whole = f"{duration(a_round * config.rounds)} for {rounds}, without evaluations"
    return [
        f"Tried here ({who}): {duration(each)} a participant, {duration(train_s)} of it training{used}.",
        f"A participant receives {size(down)} and sends {size(up)}; all of a round: {traffic}.",
        f"About {duration(a_round)} a round{workers}, {whole}.",
    ]
