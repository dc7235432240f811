//! What calls write to, and where they run.

use numpy::ndarray::{Dimension, IntoDimension};
use numpy::{Element, PyArray, PyArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

/// An array of zeros to write results to, which nobody else has until it is handed over. So it needs no entry in the table
/// of borrowed arrays that all extensions share, which would cost as much as making it.
pub(crate) struct Fresh<'py, T: Element, D: Dimension>(Bound<'py, PyArray<T, D>>);

impl<'py, T: Element, D: Dimension> Fresh<'py, T, D> {
    pub(crate) fn zeros(py: Python<'py>, shape: impl IntoDimension<Dim = D>) -> Self {
        Fresh(PyArray::zeros(py, shape, false))
    }

    pub(crate) fn as_slice_mut(&mut self) -> PyResult<&mut [T]> {
        // SAFETY: `zeros` made the array, and it is reachable through `self` alone, which is borrowed for as long as the
        // slice.
        Ok(unsafe { self.0.as_slice_mut() }?)
    }

    pub(crate) fn hand_over(self) -> Bound<'py, PyArray<T, D>> {
        self.0
    }
}

/// Raises MemoryError where NumPy could not allocate `count` elements of `size` bytes, since rust-numpy would panic.
pub(crate) fn check_memory(count: Option<usize>, size: usize) -> PyResult<()> {
    const PROBE_FROM: usize = 1 << 30;
    let fits = |bytes: usize| bytes < PROBE_FROM || Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
    match count.and_then(|count| count.checked_mul(size)).is_some_and(fits) {
        true => Ok(()),
        false => Err(PyMemoryError::new_err("cannot allocate the result")),
    }
}

/// Tokens from which on a call lets other Python threads run; below, that would cost more than the work.
const DETACH_THRESHOLD: usize = 1 << 12;

/// Runs a kernel, without the GIL if it is worth it.
pub(crate) fn detached<T: Send>(py: Python<'_>, tokens: usize, kernel: impl FnOnce() -> T + Send) -> T {
    if tokens < DETACH_THRESHOLD {
        kernel()
    } else {
        py.detach(kernel)
    }
}
