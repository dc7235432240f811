//! `optdecode._core`: NumPy arrays in and out of `optdecode-core`, errors, the GIL and the thread pool; no maths.

mod arrays;
mod codes;
mod errors;
mod in_place;
mod model;
mod plain;
mod plan;
mod pool;
mod results;
mod sample;
mod solve;
mod timing;

use optdecode_core::Level;
use pyo3::prelude::*;

/// The compiled core of optdecode: rows of logits in CPU memory, solved and drawn.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use crate::codes::{first_codes, sample_codes};
    #[pymodule_export]
    use crate::in_place::log_probs_in_place;
    #[pymodule_export]
    use crate::model::model_log_probs;
    #[pymodule_export]
    use crate::plain::sample_plain;
    #[pymodule_export]
    use crate::plan::Plan;
    #[pymodule_export]
    use crate::pool::{forget_pools, num_threads, set_num_threads};
    #[pymodule_export]
    use crate::sample::{philox4x32_10, row_seeds, sample};
    #[pymodule_export]
    use crate::solve::solve;
    #[pymodule_export]
    use crate::timing::{time_draws, time_row_max, time_solve};

    #[pymodule_export]
    use crate::build_info;
}

/// Version, build profile, instruction set in use and those that could be, threads and target of this build; bad environment variables do not
/// raise here: what is wrong with them stands in place of what they set.
#[pyfunction]
fn build_info(py: Python<'_>) -> PyResult<Bound<'_, pyo3::types::PyDict>> {
    use std::env::consts::{ARCH, OS};

    errors::guard(|| {
        let info = pyo3::types::PyDict::new(py);
        info.set_item("version", env!("CARGO_PKG_VERSION"))?;
        info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
        match level() {
            Ok(level) => info.set_item("level", level.name())?,
            Err(error) => info.set_item("level", error.value(py).to_string())?,
        }
        info.set_item("levels", Level::available().map(Level::name).collect::<Vec<_>>())?;
        match pool::known_default() {
            Ok(threads) => info.set_item("threads", threads)?,
            Err(error) => info.set_item("threads", error.value(py).to_string())?,
        }
        info.set_item("target", format!("{ARCH}-{OS}"))?;
        Ok(info)
    })
}

/// The instruction set in use: what `OPTDECODE_FORCE_LEVEL` asks for, else the best.
pub(crate) fn level() -> PyResult<Level> {
    // Read at every call, for less than 0.1 us, so that no state survives a fork or hides an error.
    let Some(wanted) = std::env::var_os("OPTDECODE_FORCE_LEVEL").filter(|value| !value.is_empty()) else {
        return Ok(Level::best());
    };
    let wanted = wanted.to_string_lossy();
    if let Some(level) = Level::named(&wanted) {
        return Ok(level);
    }
    let trouble = if Level::NAMES.contains(&&*wanted) {
        "is not available on this machine"
    } else {
        "is unknown"
    };
    let available: Vec<_> = Level::available().map(Level::name).collect();
    Err(errors::value(format!(
        "OPTDECODE_FORCE_LEVEL={wanted} {trouble}; available: {}",
        available.join(", ")
    )))
}
