"""Local training on a client: settings, the loop, evaluation, BN statistics, measurements."""
