"""What the pages say is there: links, anchors, commands; the site holds every page once."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from corolla.cli.main import _parser
from corolla.config.build import class_of
from corolla.config.compose import compose_values
from corolla.config.groups import methods
from corolla.config.overrides import sweep
from corolla.launch import plan_run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _names(pages: list[Path]) -> list[str]:
    return [page.name for page in pages]


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
    return frozenset(plain)


@pytest.mark.parametrize("page", PAGES, ids=_names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


def _commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each `corolla ...` line in a page's blocks, of those that are written out."""
    for block in FENCE.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.split(" #")[0].strip()
            if text.startswith("corolla ") and "..." not in text.replace(" ...", "", 1):
                words = shlex.split(
                    re.sub(r"\[([A-Z_ ]+) ?\.\.\.\]|\[([A-Z_]+)\]| \.\.\.", "", text)
                )
                yield words[1:]


ALL = [(page.name, words) for page in PAGES for words in _commands(page)]


def test_there_are_commands() -> None:
    assert len(ALL) > 50


def test_commands_are_commands() -> None:
    parser, wrong = _parser(), []
    for page, words in ALL:
        try:
            parser.parse_args(words)
        except SystemExit:
            wrong.append((page, words))
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize(("page", "words"), ALL, ids=[" ".join(words)[:80] for _, words in ALL])
def test_overrides_compose(page: str, words: list[str]) -> None:
    options = _parser().parse_args(words)
    # parts of one's own: tests/config/test_own_parts.py
    if words[0] != "run" or options.config_dir or "method=yours" in options.overrides:
        return
    for overrides in sweep(options.overrides) if options.multirun else [options.overrides]:
        compose_values(overrides)


def _said_by_methods() -> Iterator[list[str]]:
    """Yield the commands in the files of methods that need no path of the reader's."""
    for path in sorted((ROOT / "conf/method").glob("*.yaml")):
        for line in path.read_text().splitlines():
            command, _, words = line.partition("corolla run ")
            if command == "#   " and not re.search("PATH|RUN_DIR", words):
                yield shlex.split(words, comments=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", list(_said_by_methods()), ids=" ".join)
def test_what_a_methods_file_says_can_be_run(words: list[str]) -> None:
    plan_run([*words, "run_dir=unused"])


def test_the_readme_counts_the_methods() -> None:
    assert f"{len(methods())} federated methods" in (ROOT / "README.md").read_text()


def _strategy_of(method: str) -> type[Any]:
    """Return the class that a method's file names, or the file that it begins with."""
    values = yaml.safe_load((ROOT / f"conf/method/{method}.yaml").read_text())
    if "strategy" not in values:
        return _strategy_of(values["defaults"][0])
    return class_of(values["strategy"], method)


def test_the_page_names_the_methods_that_refuse_private_parts() -> None:
    page = (ROOT / "docs/baselines.md").read_text()
    named = set(
        re.findall("`([a-z_]+)`", page.partition("- Refused, with a")[2].partition("\n- ")[0])
    )
    refusing = {name for name in methods() if _strategy_of(name).refuses_private}
    assert named & set(methods()) == refusing | {"fedkemf", "fedrod", "fedrep", "fedbabu"}


def _pages(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for inner in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages(inner)


def test_the_site_has_every_page_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(_pages(nav)) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
    robust = (tmp_path / "site" / "robust.html").read_text()
    assert "<math" in robust
    assert "\\(" not in robust  # nobody sees TeX


def test_the_whole_example_is_the_code_that_runs_and_its_lines_are_counted() -> None:
    """FedProx, which the contract tests run; FedPer."""
    page = (ROOT / "docs" / "add-a-method.md").read_text()
    files = {"conf/method/fedprox.yaml": 0, "clients/fedprox.py": 0, "conf/method/fedper.yaml": 0}
    for name in files:
        text = (ROOT / name).read_text()
        files[name] = len(text.splitlines())
        block = re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", page, re.DOTALL)
        assert block is not None or "fedper" in name
        assert block is None or text.endswith(block[1])
    yaml_lines, client_lines, fedper_lines = files.values()
    total = yaml_lines + client_lines
    assert f"| FedProx | 2 | {total} | YAML {yaml_lines}, client {client_lines} |" in page
    assert f"| FedPer | 1 | {fedper_lines} |" in page
