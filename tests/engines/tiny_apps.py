"""A ServerApp and a ClientApp that the inline engine's tests load by name."""

from __future__ import annotations

from pathlib import Path

import yaml
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from corolla.errors import Fault, RefusedError

server, client = ServerApp(), ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every node once and write how many answered; ``fail`` says what to raise instead."""
    settings = yaml.safe_load(str(context.run_config["config"]))
    if settings.get("fail") == "refuse":
        raise RefusedError(Fault("space", "x", "is unknown", "Use another."))
    if settings.get("fail") == "raise":
        raise ArithmeticError("cannot go on")
    if settings.get("fail") == "interrupt":
        raise KeyboardInterrupt
    messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    text = f"{len(replies)} {context.run_config['launch']} {context.node_id}"
    Path(settings["run_dir"], "answered").write_text(text)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Return nothing."""
    return Message(RecordDict(), reply_to=message)
