"""One run at the server: rounds, records, checkpoints, the summary."""
