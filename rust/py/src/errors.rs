//! What Python sees when something is wrong: ValueError, TypeError, and never a panic.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyInt;

pub(crate) fn value(message: impl Display) -> PyErr {
    PyValueError::new_err(message.to_string())
}

pub(crate) fn type_(message: impl Display) -> PyErr {
    PyTypeError::new_err(message.to_string())
}

/// Runs a whole call; a panic inside is a bug of ours and becomes a RuntimeError, as PyO3's PanicException would slip
/// through `except Exception`.
pub(crate) fn guard<T>(call: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    // Unwind safe: everything a call writes to is its own until it returns, and scratch is dropped by a panic.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let message = format!(
            "internal error in optdecode, please report it: {}",
            panic_message(&*payload)
        );
        Err(PyRuntimeError::new_err(message))
    })
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown panic")
}

/// A Python integer within `[low, high]`.
pub(crate) fn integer(name: &str, value: &Bound<'_, PyAny>, low: u64, high: u64) -> PyResult<u64> {
    match value.extract::<u64>() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        Err(error) if !error.is_instance_of::<PyOverflowError>(value.py()) => {
            Err(type_(format!("{name} must be an integer; got {}", value.get_type())))
        }
        _ => Err(self::value(format!("{name} must be in [{low}, {high}]; got {value}"))),
    }
}

/// The same of a plain `int`, where anything else is not an error but somebody else's to read.
pub(crate) fn plain_integer(value: &Bound<'_, PyAny>, low: u64, high: u64) -> Option<u64> {
    let number: u64 = value.is_exact_instance_of::<PyInt>().then(|| value.extract().ok())??;
    (low..=high).contains(&number).then_some(number)
}
