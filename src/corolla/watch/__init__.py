"""Runs in a browser while they go on: the report's own pages, made anew when the files have grown."""

from corolla.watch.server import WatchServer

__all__ = ["WatchServer"]
