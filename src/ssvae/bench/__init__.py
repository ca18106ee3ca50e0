"""Performance, measured: each fast way beside its plain reference, alternately in one run."""

NAMES = ("vae_step", "decode", "local_corr", "frechet", "spectrum", "tracking", "cell")
"""What ``python -m ssvae bench --only NAME`` knows: one module of this package each, with one or more figures."""
