"""Searches that propose an architecture per client and learn from what its training was worth."""
