"""The machine and the versions that figures come from."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from importlib import metadata

import numpy as np

from optdecode import _core


def describe(packages: Iterable[str] = ()) -> dict[str, str]:
    """Describe where a measurement runs.

    Parameters
    ----------
    packages : iterable of str
        Distributions whose versions matter; those that are missing are left out.

    Returns
    -------
    dict
        From what to how it reads, in the order of a report.
    """
    info = _core.build_info()
    found = {
        "processor": processor(),
        "architecture": info["target"],
        "instruction set": info["level"],
        "cores": f"{_usable_cores()} usable of {os.cpu_count() or 1}",
        "system": platform.system(),
        "load": _load(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "optdecode": f"{info['version']} ({info['profile']})",
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name, or the architecture's where it has none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> str:
    """The load when the measurement began: other work on the machine, which figures suffer from."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    return f"{os.getloadavg()[0]:.2f} when described"
