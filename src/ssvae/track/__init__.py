"""Mirrors of run folders; only this package knows MLflow, in ``mlflow.py``, ``client.py`` and ``limits.py``."""
