from engines.watch import following  # noqa
