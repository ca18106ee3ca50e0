"""What a number was measured on: processor by product name, cores, accelerator, memory, load, versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = (
    "ssvae", "torch", "numpy", "scipy", "av", "accelerate", "safetensors", "hydra-core", "mlflow", "optuna",
    "webdataset",
)  # fmt: skip
_NAME_KEYS = ("model name", "hardware", "cpu model", "model")


def cpu_product(cpuinfo: Path = CPUINFO) -> str:
    """Product name of the processor, such as ``AMD EPYC 7B13``; the architecture where nothing says more."""
    if cpuinfo.is_file() and (
        name := _from_cpuinfo(cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines())
    ):
        return name
    return platform.processor() or platform.machine()


def _from_cpuinfo(lines: Iterable[str]) -> str | None:
    values: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip().lower(), value.strip())
    # On Arm "model name" is often missing, and "model" is a number on x86: the first that reads like a name.
    return next((name for key in _NAME_KEYS if (name := values.get(key, "")) and not name.isdigit()), None)


def hardware() -> dict[str, Any]:
    """{"cpu", "cores", "accelerators", "system", "python"}: products, never host names.

    cores: those that this process may use. accelerators: product names of the visible GPUs.
    """
    import torch

    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": cpu_product(),
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count(),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "system": platform.system(),
        "python": platform.python_version(),
    }


def load_average() -> float | None:
    """Runnable processes over the last minute, a hint at how noisy the machine is; None where that is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str | None]:
    """Versions of the packages that make numbers or times; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
