"""Corolla: personalised federated neural architecture search. Nothing below this package imports Flower."""

__version__ = "0.1.0"
