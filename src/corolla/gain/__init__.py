"""Personalization gain: what an architecture is worth on other clients' images (SPIDER, section 5.2.2)."""
