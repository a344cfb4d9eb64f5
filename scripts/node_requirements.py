"""Prints what a site needs of pyproject.toml's dependencies, one a line: no Ray, report or predictors.

    pip install -c constraints.txt torch torchvision
    python scripts/node_requirements.py > node.txt && pip install -c constraints.txt -r node.txt
    pip install --no-deps .

`all` prints the dependencies as they are.
"""

import re
import sys
import tomllib
from pathlib import Path

NOT_ON_NODES = {
    *("altair", "jinja2", "vl-convert-python", "tensorboard"),  # report and events
    *("scikit-learn", "scipy"),  # digits, predictors, statistics
}


def requirements(dependencies: list[str]) -> list[str]:
    """Return the requirements that a site has; ``flwr[simulation]``, which brings Ray, becomes ``flwr``."""
    plain = [re.sub(r"\[[^]]*]", "", text) for text in dependencies]
    return [text for text in plain if re.split(r"[<>=!~ ;]", text)[0] not in NOT_ON_NODES]


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    everything = sys.argv[1:] == ["all"]
    wanted = project["dependencies"] if everything else requirements(project["dependencies"])
    sys.stdout.write("\n".join(wanted) + "\n")
