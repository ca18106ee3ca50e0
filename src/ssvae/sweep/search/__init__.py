"""A search through a space of config values: Optuna suggests, cells are computed as in any sweep, the study is told."""
