"""Call-time arrays: what the caller passed, checked once and laid out the one way that backends read.

Backends see rows: 2-D NumPy arrays, last axis contiguous, float16 and bfloat16 as their 16-bit patterns. Logits are
passed without a copy unless their last axis is strided or their batch axes cannot be flattened in place.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._plan import Plan
from optdecode._status import Status
from optdecode.errors import BackendUnavailableError, DTypeError, ProblemError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOAT_TAGS = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_SEED_BOUND = 1 << 64
_FITS_ANY_CALL = attrgetter("fits_any_call")


@dataclass(frozen=True)
class Rows:
    """A checked batch.

    Attributes
    ----------
    logits : ndarray, shape (B, V)
        float64, float32, or uint16 bit patterns (`dtype` says of what).
    dtype : str
        ``"f64"``, ``"f32"``, ``"f16"`` or ``"bf16"``.
    shape : tuple of int
        The caller's batch shape; its product is B.
    mask : ndarray, optional
        bool (B or 1, V) or packed uint32 (B or 1, W).
    anchor, weights : ndarray, optional
        float64 (B or 1, V).
    budget : ndarray, optional
        uint32 (B,).
    torch : bool
        Results go back as torch tensors.
    """

    logits: NDArray[Any]
    dtype: str
    shape: tuple[int, ...]
    mask: NDArray[Any] | None = None
    anchor: NDArray[Any] | None = None
    weights: NDArray[Any] | None = None
    budget: NDArray[Any] | None = None
    torch: bool = False

    @property
    def count(self) -> int:
        """B."""
        return int(self.logits.shape[0])

    @property
    def vocabulary(self) -> int:
        """V."""
        return int(self.logits.shape[1])

    def restore(self, rows: NDArray[Any]) -> Any:
        """Give a (B, ...) result the caller's batch shape and array type."""
        result = rows.reshape(self.shape + rows.shape[1:])
        if self.torch:
            return sys.modules["torch"].from_numpy(result if result.ndim else result[None]).reshape(result.shape)
        return result[()]

    def owned(self) -> Rows:
        """The same rows with logits that later writes of the caller cannot reach."""
        parts = {
            name: None if value is None else value.copy()
            for name, value in (("mask", self.mask), ("anchor", self.anchor), ("weights", self.weights))
        }
        return Rows(self.logits.copy(), self.dtype, self.shape, budget=self.budget, torch=self.torch, **parts)

    def take(self, index: NDArray[Any]) -> Rows:
        """Some of the rows, as a batch of one axis."""
        parts = {
            name: value if value is None or (value.shape[0] == 1 and self.count > 1) else value[index]
            for name, value in (("mask", self.mask), ("anchor", self.anchor), ("weights", self.weights))
        }
        budget = None if self.budget is None else self.budget[index]
        return Rows(self.logits[index], self.dtype, index.shape, budget=budget, torch=self.torch, **parts)

    def widened(self) -> NDArray[Any]:
        """The logits as float64, shape (B, V)."""
        if self.dtype == "bf16":
            return (self.logits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if self.dtype == "f16":
            return self.logits.view(np.float16).astype(np.float64)
        return self.logits.astype(np.float64)

    def host(self, rows: Any) -> Any:
        """An array of the batch or of a result, in CPU memory as it is."""
        return rows

    def integers(self, rows: NDArray[Any]) -> NDArray[Any]:
        """A result as int64."""
        return rows.astype(np.int64)

    def narrowed(self, log_probs: NDArray[Any]) -> NDArray[Any]:
        """Log-probabilities in the precision in which they are returned."""
        return log_probs if self.dtype == "f64" else log_probs.astype(np.float32)

    def status_now(self, codes: NDArray[Any]) -> Any:
        """Statuses as a draw returns them: a member for a single row, int64 codes for a batch."""
        return Status(int(codes[0])) if self.shape == () else self.restore(codes.astype(np.int64))

    def seeds(self, seed: Any, row_seeds: Any) -> NDArray[Any]:
        """One seed a row."""
        return read_seeds(seed, self.shape, row_seeds)

    def positions(self, position: Any) -> NDArray[Any]:
        """One position a row."""
        return read_positions(position, self.shape)

    def read_out(self, out: Any) -> NDArray[Any]:
        """Return what receives log q of the batch, on the caller's memory."""
        return read_out(out, self)

    def write(self, out: NDArray[Any], log_probs: NDArray[Any]) -> None:
        """Write log q into what `read_out` returned."""
        out[...] = log_probs.reshape(out.shape)


def read_rows(
    logits: Any,
    plans: list[Plan],
    *,
    mask: Any = None,
    anchor: Any = None,
    budget: Any = None,
    weights: Any = None,
    mixed: bool = False,
) -> Rows:
    """Check what a call was given against what its plans need.

    Parameters
    ----------
    logits : array_like, shape (..., V)
        Scores; V >= 1.
    plans : list of Plan
        One for all rows, or one a row.
    mask, anchor, budget, weights
        As in `Decoder.__call__`.
    mixed : bool
        The plans are of several decoders: arguments that only some of them use are fine.

    Returns
    -------
    Rows
        The batch.

    Raises
    ------
    ShapeError, DTypeError, ProblemError
        Naming what was given and what is allowed.
    """
    array, tag, is_torch = logits_array(logits)
    if array.ndim < 1 or array.shape[-1] < 1:
        raise ShapeError(f"logits must be (..., V) with V >= 1; got {array.shape}")
    shape, vocabulary = array.shape[:-1], array.shape[-1]
    rows: NDArray[Any] = array.reshape(prod(shape), vocabulary)
    if not is_laid_out(rows):
        rows = np.ascontiguousarray(rows)
    check_plans(plans, vocabulary, anchor=anchor, budget=budget, weights=weights, mixed=mixed)
    return Rows(
        rows,
        tag,
        shape,
        mask=None if mask is None else mask_rows(mask, shape, vocabulary),
        anchor=None if anchor is None else float_rows("anchor", anchor, shape, vocabulary),
        weights=None if weights is None else float_rows("weights", weights, shape, vocabulary),
        budget=None if budget is None else budget_rows(budget, shape),
        torch=is_torch,
    )


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor."""
    torch = sys.modules.get("torch")  # a caller with a tensor has imported torch already
    return torch is not None and isinstance(value, torch.Tensor)


def plain_tensor(value: Any) -> NDArray[Any] | None:
    """View a CPU tensor whose type NumPy has as an array; None for anything else."""
    if not is_tensor(value) or value.device.type != "cpu":
        return None
    torch = sys.modules["torch"]
    return np.asarray(value.detach().numpy()) if value.dtype in (torch.float32, torch.float64) else None


def as_tensors(*arrays: Any) -> tuple[Any, ...]:
    """Turn arrays into tensors on the same memory; what is no array stays as it is."""
    torch = sys.modules["torch"]
    return tuple(torch.from_numpy(array) if isinstance(array, np.ndarray) else array for array in arrays)


def _numpy_view(value: Any, name: str) -> NDArray[Any]:
    """View a CPU tensor or anything array-like as a NumPy array; bfloat16 tensors as uint16 patterns."""
    if not is_tensor(value):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise ShapeError(f"{name} must be one rectangular array; got {type(value).__name__}: {error}") from error
    torch = sys.modules["torch"]
    if value.device.type != "cpu":
        raise BackendUnavailableError(
            f"{name} is on {value.device}, and this backend computes on the CPU: pass {name}.cpu(), or backend='torch'"
        )
    value = value.detach()
    if value.dtype == torch.bfloat16:
        return np.asarray(value.view(torch.int16).numpy()).view(np.uint16)
    return np.asarray(value.numpy())


def logits_array(logits: Any) -> tuple[NDArray[Any], str, bool]:
    """View logits as an array; the tag of their type, and whether they are a tensor."""
    array = _numpy_view(logits, "logits")
    is_torch = is_tensor(logits)
    name = array.dtype.name
    if is_torch:
        name = str(logits.dtype).removeprefix("torch.")
    if name not in _FLOAT_TAGS:
        raise DTypeError(f"logits must be float16, bfloat16, float32 or float64; got {name}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    tag = _FLOAT_TAGS[name]
    return (array.view(np.uint16) if tag in ("f16", "bf16") else array), tag, is_torch


def writable_rows(logits: Any) -> NDArray[Any]:
    """Return float32 logits (B, V), an array or a CPU tensor, as an array on the same memory."""
    if not (isinstance(logits, np.ndarray) or is_tensor(logits)):
        raise DTypeError(f"only an array or a tensor can be overwritten; got {type(logits).__name__}")
    array = _numpy_view(logits, "logits")
    if array.dtype != np.float32:
        raise DTypeError(f"logits that are overwritten must be float32; got {logits.dtype}")
    if array.ndim != 2 or array.shape[1] < 1:
        raise ShapeError(f"logits that are overwritten must be (B, V) with V >= 1; got {array.shape}")
    if not array.flags.writeable:
        raise ProblemError("logits that are overwritten must be writable")
    return array


def read_out(out: Any, rows: Rows) -> NDArray[Any]:
    """Return an array that receives log q of a batch, on the caller's memory."""
    if not (isinstance(out, np.ndarray) or is_tensor(out)):
        raise DTypeError(f"out must be an array or a tensor; got {type(out).__name__}")
    array, shape = _numpy_view(out, "out"), (*rows.shape, rows.vocabulary)
    wanted = np.float64 if rows.dtype == "f64" else np.float32
    if array.dtype != wanted:
        raise DTypeError(f"out must be {np.dtype(wanted)}, as log q is for such logits; got {out.dtype}")
    if array.shape != shape:
        raise ShapeError(f"out must have the shape of the logits, {shape}; got {array.shape}")
    if not array.flags.writeable:
        raise ProblemError("out must be writable")
    return array


def is_laid_out(rows: NDArray[Any]) -> bool:
    """Whether backends can take (B, V) rows as they are."""
    return bool(rows.strides[1] == rows.itemsize and rows.strides[0] >= 0 and rows.flags.aligned)


def check_plans(plans: list[Plan], vocabulary: int, *, anchor: Any, budget: Any, weights: Any, mixed: bool) -> None:
    """Refuse a call that a plan cannot take, at little cost where all of them take any."""
    if not (mixed and all(map(_FITS_ANY_CALL, plans))):
        check_each_plan(plans, vocabulary, anchor=anchor, budget=budget, weights=weights, mixed=mixed)


def check_each_plan(
    plans: list[Plan], vocabulary: int, *, anchor: Any, budget: Any, weights: Any, mixed: bool
) -> None:  # fmt: skip
    """Refuse a call that a plan cannot take."""
    for row, plan in enumerate(plans):
        where = f" (row {row})" if mixed else ""
        if plan.anchor == "given" and anchor is None:
            raise ProblemError(f"this decoder's KL anchor is 'given': pass anchor= log-probabilities{where}")
        if (budget is not None or weights is not None) and not plan.has_coverage and not mixed:
            given = "budget" if budget is not None else "weights"
            raise ProblemError(f"{given}= belongs to a coverage term, which this decoder lacks ({plan.kind.name})")
        if anchor is not None and not plan.takes_anchor and not mixed:
            raise ProblemError("anchor= needs a decoder with KL('given') or best_of_k(..., anchor='given')")
        array = plan.weight_array()
        if array is not None and weights is None and array.size != vocabulary:
            raise ShapeError(f"the coverage weights have length {array.size}, the logits V = {vocabulary}{where}")
        if plan.allowed and plan.allowed[-1] >= vocabulary:
            raise ShapeError(f"Allowed names token {plan.allowed[-1]}, the logits have V = {vocabulary}{where}")


def _broadcast(name: str, array: NDArray[Any], shape: tuple[int, ...], width: int) -> NDArray[Any]:
    """Lay (..., W) out as (B, W), or (1, W) where one row serves the whole batch."""
    if array.ndim == 1:
        return np.ascontiguousarray(array[None])
    try:
        full = np.broadcast_to(array, (*shape, width))
    except ValueError:
        raise ShapeError(
            f"{name} must broadcast to {(*shape, width)}, the batch of the logits; got {array.shape}"
        ) from None
    return np.ascontiguousarray(full.reshape(prod(shape), width))


def mask_rows(mask: Any, shape: tuple[int, ...], vocabulary: int) -> NDArray[Any]:
    array = _numpy_view(mask, "mask")
    words = -(-vocabulary // 32)
    if array.ndim < 1:
        raise ShapeError(f"mask must be (..., {vocabulary}) bool or (..., {words}) int32; got shape {array.shape}")
    if array.dtype == np.bool_:
        if array.shape[-1] != vocabulary:
            raise ShapeError(f"a bool mask must be (..., V) with V = {vocabulary}; got {array.shape}")
        return _broadcast("mask", array, shape, vocabulary)
    if array.dtype not in (np.int32, np.uint32):
        raise DTypeError(f"mask must be bool (..., V) or a packed int32/uint32 bitmask; got {array.dtype}")
    if array.shape[-1] > words:
        raise ShapeError(f"a packed mask must be (..., W) with W <= ceil(V / 32) = {words}; got {array.shape}")
    return _broadcast("mask", np.ascontiguousarray(array).view(np.uint32), shape, array.shape[-1])


def float_rows(name: str, value: Any, shape: tuple[int, ...], vocabulary: int) -> NDArray[Any]:
    """Lay (..., V) numbers out as float64 (B or 1, V)."""
    array = _numpy_view(value, name)
    if is_tensor(value) and str(value.dtype) == "torch.bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise DTypeError(f"{name} must be a float array; got {array.dtype}")
    if array.ndim < 1 or array.shape[-1] != vocabulary:
        raise ShapeError(f"{name} must be (..., V) with V = {vocabulary}; got {array.shape}")
    return _broadcast(name, array.astype(np.float64), shape, vocabulary)


def per_row_integers(name: str, value: Any, shape: tuple[int, ...], low: int, high: int) -> NDArray[Any]:
    """Lay a scalar or a batch-shaped integer array out as (B,) uint64, each in [low, high)."""
    count = prod(shape)
    if type(value) is int and low <= value < high:
        return np.full(count, value, dtype=np.uint64)
    array = _numpy_view(value, name)
    if array.dtype == object and all(isinstance(item, int) for item in array.ravel()):
        bad = [item for item in array.ravel() if not low <= item < high]
        if bad:
            raise ProblemError(f"{name} must be in [{low}, {high}); got {bad[0]}")
        array = array.astype(np.uint64)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{name} must be an integer or an integer array; got {array.dtype}")
    if array.ndim and array.shape != shape and array.shape != (count,):
        raise ShapeError(f"{name} must be a scalar or have the batch shape {shape}; got {array.shape}")
    flat = np.broadcast_to(array, shape).ravel() if array.shape != (count,) else array
    if flat.size and not low <= int(flat.min()) <= int(flat.max()) < high:
        row, bad = next((row, item) for row, item in enumerate(flat.tolist()) if not low <= item < high)
        raise ProblemError(f"{name} must be in [{low}, {high}); row {row} has {bad}")
    return np.ascontiguousarray(flat.astype(np.uint64))


def budget_rows(budget: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Lay budgets out as uint32 (B,)."""
    return per_row_integers("budget", budget, shape, 1, 2**31).astype(np.uint32)


def fresh_seed() -> int:
    """Return a seed that nobody has had before."""
    return int.from_bytes(os.urandom(8), "little")


def read_seeds(seed: Any, shape: tuple[int, ...], row_seeds: Any) -> NDArray[Any]:
    """Return one 64-bit seed a row: the caller's array, or `row_seeds` of the caller's scalar or of a fresh one."""
    count = prod(shape)
    if seed is None:
        seed = fresh_seed()
    seeds = per_row_integers("seed", seed, shape, 0, _SEED_BOUND)
    if np.ndim(seed) == 0 and count > 1:
        derived: NDArray[Any] = row_seeds(int(seeds[0]), count)
        return derived
    return seeds


def read_positions(position: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return one 64-bit position a row."""
    return per_row_integers("position", position, shape, 0, _SEED_BOUND)
