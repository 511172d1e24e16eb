"""Scaling laws of a study: what loss follows from size, data and compute, scheme by scheme, with intervals and where they hold."""
