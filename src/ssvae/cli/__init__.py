"""The doors: ``run.py`` and the verbs of ``python -m ssvae``."""
