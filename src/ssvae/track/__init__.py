"""Mirrors of run folders; only ``mlflow.py`` knows MLflow."""
