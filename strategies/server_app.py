"""The ServerApp: reads the run's configuration and carries the run out, or on."""

from __future__ import annotations

import yaml
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from clients.flower_internals import outlive_errors
from corolla.config.compose import compose_values
from corolla.config.schema import parse_config
from corolla.errors import RefusedError
from strategies.running.federated_run import FederatedRun

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that ``run_config["config"]`` describes."""
    text = str(context.run_config.get("config", ""))
    overrides = str(context.run_config.get("overrides", "")).split()
    values = yaml.safe_load(text) if text else compose_values(overrides)
    config, faults = parse_config(values)
    if config is None:
        raise RefusedError(faults)
    if config.on_nodes:
        outlive_errors()
    FederatedRun(config=config, launch=str(context.run_config.get("launch", ""))).run(grid)
