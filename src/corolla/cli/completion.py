"""``corolla completion``: the shell's Tab knows commands, keys, and the names in conf/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from corolla.config.compose import known_keys
from corolla.config.groups import groups

_BASH = """\
_corolla() {
  local IFS=$'\\n'
  COMPREPLY=($(corolla complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o default -F _corolla corolla
"""
_COMMANDS = (
    *("run", "check", "resume", "report", "table", "export", "gain", "list", "tune", "completion"),
    *("status", "attach", "stop", "clean", "watch", "predict"),
)


def completion_command(options: argparse.Namespace, console: Console) -> int:
    """Print the script: ``source <(corolla completion bash)``."""
    zsh = "autoload -U +X bashcompinit && bashcompinit\n" if options.shell == "zsh" else ""
    sys.stdout.write(zsh + _BASH)
    return 0


def complete_command(options: argparse.Namespace, console: Console) -> int:
    """Print the ways in which the last of the words can go on, one a line."""
    words = [word for word in options.words if word != "--"] or [""]
    sys.stdout.writelines(f"{text}\n" for text in candidates(words))
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """Return what the last word may become; nothing where the shell knows better, as of paths."""
    if len(words) == 1:
        return [name for name in _COMMANDS if name.startswith(words[0])]
    last, found = words[-1], []
    if words[0] in ("run", "check", "tune"):
        group, equals, name = last.partition("=")
        members = groups()
        if equals:
            found = [f"{group}={one}" for one in members.get(group, []) if one.startswith(name)]
        else:
            found = [f"{key}=" for key in sorted({*members, *known_keys(words[1:-1])})]
            found = [text for text in found if text.startswith(last)]
    elif words[0] == "list":
        kinds = ("methods", "spaces", "datasets", "experiments")
        found = [kind for kind in kinds if kind.startswith(last)]
    return found
