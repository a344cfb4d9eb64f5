"""Tests of corolla.data."""
