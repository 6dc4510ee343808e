"""Exact nearest-neighbour search and retrieval metrics."""
