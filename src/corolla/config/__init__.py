"""The YAML is the run: composed once, checked whole, all faults shown before anything starts."""
