"""Measurements that anyone can repeat; results lie in ``results/``."""
