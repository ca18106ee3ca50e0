"""Rectified flow and its sampler."""
