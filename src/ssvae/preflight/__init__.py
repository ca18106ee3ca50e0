"""Checks of a machine, on every rank, before a job that costs money: one line each, and a clear stop."""
