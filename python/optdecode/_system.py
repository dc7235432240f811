"""The running library: version, threads, seeds derived from seeds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode import _core
from optdecode._spec import positive_int
from optdecode.errors import ProblemError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OPTIONAL = (
    "torch",
    "ml_dtypes",
    "onnxruntime",
    "tokenizers",
    "matplotlib",
    "rich",
    "transformers",
    "vllm",
    "llama_cpp",
)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_core.forget_pools)


def version() -> str:
    """Return the version of the compiled core, which is the package's."""
    return str(_core.build_info()["version"])


def set_num_threads(n: int) -> None:
    """Set how many threads a batch may use from now on.

    Parameters
    ----------
    n : int
        At least 1. The default is the number of cores this process may use (affinity and cgroup quota), or the
        environment variable ``OPTDECODE_NUM_THREADS``.

    Raises
    ------
    ProblemError
        ``n`` is not an integer >= 1.
    """
    _core.set_num_threads(positive_int("set_num_threads", "n", n, high=4096))


def row_seeds(seed: int, n: int) -> NDArray[Any]:
    """Derive the seeds of n rows from one seed.

    Parameters
    ----------
    seed : int
        In [0, 2**64).
    n : int
        Number of seeds, at least 0.

    Returns
    -------
    ndarray of uint64, shape (n,)
        Element 0 is the seed itself; element i depends on (seed, i) alone.

    Examples
    --------
    >>> [int(s) for s in row_seeds(7, 1)]
    [7]
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed.__index__() < 1 << 64:
        raise ProblemError(f"row_seeds: seed must be an integer in [0, 2**64); got {seed!r}")
    if isinstance(n, bool) or not hasattr(n, "__index__") or n.__index__() < 0:
        raise ProblemError(f"row_seeds: n must be an integer >= 0; got {n!r}")
    return _core.row_seeds(seed.__index__(), n.__index__())


def show_versions() -> None:
    """Print version, build profile, instruction set, threads and the optional dependencies found."""
    import platform  # these two cost more than the rest of `import optdecode`
    from importlib import metadata

    distributions = metadata.packages_distributions()
    info = {
        **_core.build_info(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
    }
    for name in _OPTIONAL:
        found = distributions.get(name)
        info[name] = metadata.version(found[0]) if found else "not installed"
    width = max(map(len, info))
    print("optdecode")
    for name, value in info.items():
        print(f"  {name:<{width}}  {value}")
