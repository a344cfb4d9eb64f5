"""Subnets as regions of a supernet: cutting them out, and averaging them back."""
