"""Tests of corolla.data.partition."""
