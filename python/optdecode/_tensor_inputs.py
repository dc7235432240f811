"""Call-time tensors: rows that stay on their device, for the torch backend.

What `optdecode._inputs` does for arrays in CPU memory. Values of tensors on other devices are not looked at, since
that would wait for the device: a seed there counts by its 64 bits, and a budget below 1 makes its row a bad one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from optdecode._inputs import (
    Rows,
    budget_rows,
    check_each_plan,
    float_rows,
    is_tensor,
    logits_array,
    mask_rows,
    read_positions,
    read_rows,
    read_seeds,
)
from optdecode._plan import Plan
from optdecode._status import Status
from optdecode.errors import BackendUnavailableError, DTypeError, ProblemError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TAGS = {"torch.float64": "f64", "torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}


@dataclass(frozen=True)
class TensorRows:
    """A checked batch of tensors, all on the device of the logits; see `optdecode._inputs.Rows`.

    Attributes
    ----------
    logits : Tensor, shape (B, V)
        Of any float type; may carry a graph for gradients.
    dtype : str
        ``"f64"``, ``"f32"``, ``"f16"`` or ``"bf16"``.
    shape : tuple of int
        The caller's batch shape.
    mask : Tensor of bool, shape (B or 1, V), optional
        Allowed tokens.
    anchor, weights : Tensor of float64, shape (B or 1, V), optional
        As given.
    budget : Tensor of int64, shape (B,), optional
        As given.
    arrays : bool
        Results go back as NumPy arrays.
    """

    logits: Any
    dtype: str
    shape: tuple[int, ...]
    mask: Any = None
    anchor: Any = None
    weights: Any = None
    budget: Any = None
    arrays: bool = False

    @property
    def count(self) -> int:
        """B."""
        return int(self.logits.shape[0])

    @property
    def vocabulary(self) -> int:
        """V."""
        return int(self.logits.shape[1])

    def restore(self, rows: Any) -> Any:
        """Give a (B, ...) result the caller's batch shape and array type."""
        result = rows.reshape(self.shape + tuple(rows.shape[1:]))
        return result.detach().cpu().numpy()[()] if self.arrays else result

    def owned(self) -> TensorRows:
        """The same rows with logits that later writes of the caller cannot reach; gradients still do."""
        mask, anchor, weights = (None if v is None else v.clone() for v in (self.mask, self.anchor, self.weights))
        return replace(self, logits=self.logits.clone(), mask=mask, anchor=anchor, weights=weights)

    def widened(self) -> NDArray[Any]:
        """The logits as a float64 array, shape (B, V)."""
        return np.asarray(self.host(self.logits.double()))

    def host(self, rows: Any) -> Any:
        """A tensor as an array; waits for the device."""
        return None if rows is None else rows.detach().cpu().numpy()

    def integers(self, rows: Any) -> Any:
        """A result as int64."""
        return rows.long()

    def narrowed(self, rows: Any) -> Any:
        """Log-probabilities in the precision in which they are returned."""
        return rows.double() if self.dtype == "f64" else rows.float()

    def status_now(self, codes: Any) -> Any:
        """Statuses as a draw returns them: a member for a single row in CPU memory, int64 codes otherwise."""
        if self.shape == () and codes.device.type == "cpu" and not _is_compiling():
            return Status(int(codes[0]))
        return self.restore(codes.long())

    def seeds(self, seed: Any, row_seeds: Callable[[int, int], Any]) -> Any:
        """One seed a row, int64 by its bits, (B,)."""
        if not _stays(seed):
            return self._on_device(read_seeds(seed, self.shape, row_seeds).view(np.int64))
        seeds = self._per_row("seed", seed)
        if seed.ndim == 0 and self.count > 1:
            from optdecode.backends.torch._philox import row_seeds as derive

            return derive(seeds[:1], self.count)
        return seeds

    def positions(self, position: Any) -> Any:
        """One position a row, int64 by its bits, (B,)."""
        if _stays(position):
            return self._per_row("position", position)
        if type(position) is int and 0 <= position < 1 << 63:
            return self.logits.new_full((self.count,), position, dtype=_torch().int64)
        return self._on_device(read_positions(position, self.shape).view(np.int64))

    def read_out(self, out: Any) -> Any:
        """Return what receives log q of the batch, checked."""
        shape = (*self.shape, self.vocabulary)
        if not (isinstance(out, np.ndarray) or is_tensor(out)):
            raise DTypeError(f"out must be an array or a tensor; got {type(out).__name__}")
        wanted = "float64" if self.dtype == "f64" else "float32"
        if str(out.dtype).removeprefix("torch.") != wanted:
            raise DTypeError(f"out must be {wanted}, as log q is for such logits; got {out.dtype}")
        if tuple(out.shape) != shape:
            raise ShapeError(f"out must have the shape of the logits, {shape}; got {tuple(out.shape)}")
        if isinstance(out, np.ndarray) and not out.flags.writeable:
            raise ProblemError("out must be writable")
        return out

    def write(self, out: Any, log_probs: Any) -> None:
        """Write log q into what `read_out` returned."""
        if isinstance(out, np.ndarray):
            out[...] = self.host(log_probs).reshape(out.shape)
        else:
            out.detach().copy_(log_probs.detach().reshape(out.shape))

    def _on_device(self, array: NDArray[Any]) -> Any:
        return _from_numpy(array).to(self.logits.device)

    def _per_row(self, name: str, value: Any) -> Any:
        return _per_row(name, value, self.shape).to(self.logits.device)


#: What the readers of a call return.
AnyRows = Rows | TensorRows


def read_call(logits: Any, plans: list[Plan], backend: str, **arguments: Any) -> AnyRows:
    """Read what a call was given, for the backend that will run.

    Parameters
    ----------
    logits, plans
        As in `optdecode._inputs.read_rows`.
    backend : str
        As the caller named it. ``"auto"`` is torch for tensors on other devices than the CPU, and for those that
        require gradients.
    **arguments
        As in `optdecode._inputs.read_rows`.

    Returns
    -------
    Rows or TensorRows
        The batch.
    """
    auto = backend == "auto" and is_tensor(logits) and (logits.device.type != "cpu" or logits.requires_grad)
    if auto and logits.device.type == "cpu":
        from optdecode.backends.torch._parameters import refusal

        # What has no gradients yet is computed as it always was.
        auto = all(refusal(plan) is None for plan in plans)
    if auto or backend == "torch":
        return _read_tensor_rows(logits, plans, **arguments)
    return read_rows(logits, plans, **arguments)


def _read_tensor_rows(
    logits: Any, plans: list[Plan], *, mask: Any = None, anchor: Any = None, budget: Any = None, weights: Any = None,
    mixed: bool = False,
) -> TensorRows:  # fmt: skip
    tensor, arrays = _logits(logits)
    tag = _TAGS.get(str(tensor.dtype))
    if tag is None:
        name = str(tensor.dtype).removeprefix("torch.")
        raise DTypeError(f"logits must be float16, bfloat16, float32 or float64; got {name}")
    if tensor.ndim < 1 or tensor.shape[-1] < 1:
        raise ShapeError(f"logits must be (..., V) with V >= 1; got {tuple(tensor.shape)}")
    shape, size = tuple(tensor.shape[:-1]), int(tensor.shape[-1])
    check_each_plan(plans, size, anchor=anchor, budget=budget, weights=weights, mixed=mixed)
    rows = TensorRows(tensor.reshape(prod(shape), size), tag, shape, arrays=arrays)
    device = tensor.device
    return replace(
        rows,
        mask=None if mask is None else _mask(mask, shape, size).to(device),
        anchor=None if anchor is None else _floats("anchor", anchor, shape, size).to(device),
        weights=None if weights is None else _floats("weights", weights, shape, size).to(device),
        budget=None if budget is None else _budget(budget, shape).to(device),
    )


def _torch() -> Any:
    return sys.modules["torch"]


def _is_compiling() -> bool:
    return bool(_torch().compiler.is_compiling())


def _stays(value: Any) -> bool:
    """Whether a tensor is taken as it is: its values cannot be looked at, or only by waiting for them."""
    return is_tensor(value) and (value.device.type != "cpu" or _is_compiling())


def _logits(logits: Any) -> tuple[Any, bool]:
    if is_tensor(logits):
        return logits, False
    if "torch" not in sys.modules:
        if find_spec("torch") is None:
            raise BackendUnavailableError("backend='torch' needs PyTorch: pip install 'optdecode[torch]'")
        import torch  # noqa: F401  # the caller asked for it by name
    array, tag, _ = logits_array(logits)
    if tag == "bf16":
        return _from_numpy(array.view(np.int16)).view(_torch().bfloat16), True
    return _from_numpy(array.view(np.float16) if tag == "f16" else array), True


def _from_numpy(array: NDArray[Any]) -> Any:
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return _torch().from_numpy(array)


def _mask(mask: Any, shape: tuple[int, ...], size: int) -> Any:
    torch, words = _torch(), -(-size // 32)
    if not is_tensor(mask):
        rows = mask_rows(mask, shape, size)
        return _from_numpy(rows) if rows.dtype == np.bool_ else _unpacked(_from_numpy(rows.view(np.int32)), size)
    given = tuple(mask.shape)
    if mask.ndim < 1:
        raise ShapeError(f"mask must be (..., {size}) bool or (..., {words}) int32; got shape {given}")
    if mask.dtype == torch.bool:
        if given[-1] != size:
            raise ShapeError(f"a bool mask must be (..., V) with V = {size}; got {given}")
        return _broadcast("mask", mask, shape, size)
    if str(mask.dtype) not in ("torch.int32", "torch.uint32"):
        raise DTypeError(f"mask must be bool (..., V) or a packed int32/uint32 bitmask; got {mask.dtype}")
    if given[-1] > words:
        raise ShapeError(f"a packed mask must be (..., W) with W <= ceil(V / 32) = {words}; got {given}")
    return _unpacked(_broadcast("mask", mask.view(torch.int32), shape, given[-1]), size)


def _unpacked(words: Any, size: int) -> Any:
    """Unpack int32 words (B, W), least significant bit first; tokens past them are forbidden."""
    torch = _torch()
    bits = (words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=words.device)) & 1
    flags = bits.reshape(words.shape[0], -1)[:, :size].bool()
    missing = size - flags.shape[1]
    return torch.cat([flags, flags.new_zeros((flags.shape[0], missing))], dim=1) if missing else flags


def _floats(name: str, value: Any, shape: tuple[int, ...], size: int) -> Any:
    if not is_tensor(value):
        return _from_numpy(float_rows(name, value, shape, size))
    if value.dtype == _torch().bool or value.is_complex():
        raise DTypeError(f"{name} must be a float array; got {value.dtype}")
    if value.ndim < 1 or value.shape[-1] != size:
        raise ShapeError(f"{name} must be (..., V) with V = {size}; got {tuple(value.shape)}")
    return _broadcast(name, value.detach().double(), shape, size)


def _broadcast(name: str, tensor: Any, shape: tuple[int, ...], width: int) -> Any:
    if tensor.ndim == 1:
        return tensor[None]
    try:
        return tensor.expand((*shape, width)).reshape(prod(shape), width)
    except RuntimeError:
        raise ShapeError(
            f"{name} must broadcast to {(*shape, width)}, the batch of the logits; got {tuple(tensor.shape)}"
        ) from None


def _budget(budget: Any, shape: tuple[int, ...]) -> Any:
    if _stays(budget):
        return _per_row("budget", budget, shape)
    return _from_numpy(budget_rows(budget, shape).astype(np.int64))


def _per_row(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Lay a scalar or a batch-shaped integer tensor out as (B,) int64, its values unseen."""
    if value.is_floating_point() or value.is_complex() or value.dtype == _torch().bool:
        raise DTypeError(f"{name} must be an integer or an integer array; got {value.dtype}")
    if value.ndim and tuple(value.shape) not in (shape, (prod(shape),)):
        raise ShapeError(f"{name} must be a scalar or have the batch shape {shape}; got {tuple(value.shape)}")
    return value.long().reshape(-1).expand(prod(shape))
