"""Paths between data and noise, and the sampler."""
