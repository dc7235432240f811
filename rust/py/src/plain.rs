//! `sample_plain`: the common call in one step, from arguments as callers have them.
//!
//! What `sample` takes was read, checked and laid out by Python, which at B = 1 costs tens of microseconds. Here whatever
//! needs no care is read in place; anything else is left to Python, and so are all errors but those of the environment.

use numpy::ndarray::Ix1;
use numpy::{PyArrayDyn, PyReadonlyArray1};
use optdecode_core::Status;
use optdecode_core::plan::Plan as CorePlan;
use optdecode_core::sample::Coupling;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::arrays::{Arguments, plain};
use crate::errors::{guard, plain_integer};
use crate::plan::Plan;
use crate::pool;
use crate::results::{Fresh, check_memory};
use crate::sample::{Draws, LogProb, PerRow, coupling_named};
use crate::solve::choose_par;

/// What Python allows at most.
const MAX_PLAIN_DRAWS: u64 = i32::MAX as u64;

/// What comes of a call that `sample_plain` reads.
type PlainDrawn<'py> = (Bound<'py, PyArrayDyn<i64>>, Bound<'py, PyAny>, Bound<'py, PyAny>, bool);

/// Draw as `sample` does, from arguments as callers have them; None if one is not plain, or wrong: it is then for the
/// caller to read and to name.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sample_plain<'py>(
    py: Python<'py>,
    plans: &Bound<'py, PyAny>,
    logits: &Bound<'py, PyAny>,
    seed: &Bound<'py, PyAny>,
    position: &Bound<'py, PyAny>,
    n: &Bound<'py, PyAny>,
    coupling: &Bound<'py, PyAny>,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Option<PlainDrawn<'py>>> {
    guard(|| {
        let Some(call) = PlainCall::read(plans, logits, seed, position, n, coupling, threads) else {
            return Ok(None);
        };
        let (one, each): ([&CorePlan; 1], Vec<&CorePlan>);
        let plans: &[&CorePlan] = match &call.plans {
            Plans::One(plan) => {
                one = [&plan.get().plan];
                &one
            }
            Plans::Each(plans) => {
                each = plans.iter().map(|plan| &plan.get().plan).collect();
                &each
            }
        };
        if plans.iter().any(|plan| call.arguments.check_plan(plan, None).is_err()) {
            return Ok(None);
        }
        let (rows, vocabulary) = (call.arguments.rows, call.arguments.vocabulary);
        let draws = Draws {
            plans,
            batch: call.arguments.batch()?,
            seeds: call.seeds.per_row()?,
            positions: call.positions.per_row()?,
            n: call.n,
            level: crate::level()?,
            par: choose_par(call.threads, rows, vocabulary)?,
            rows,
            vocabulary,
        };
        match call.arguments.is_double() {
            true => arrays::<f64>(&draws, py, call.coupling, call.arguments.is_single()).map(Some),
            false => arrays::<f32>(&draws, py, call.coupling, call.arguments.is_single()).map(Some),
        }
    })
}

/// The arguments of a call; keeps the arrays borrowed.
struct PlainCall<'py> {
    arguments: Arguments<'py>,
    plans: Plans<'py>,
    seeds: Numbers<'py>,
    positions: Numbers<'py>,
    n: usize,
    coupling: Coupling,
    threads: usize,
}

enum Plans<'py> {
    One(Bound<'py, Plan>),
    Each(Vec<Bound<'py, Plan>>),
}

impl<'py> PlainCall<'py> {
    fn read(
        plans: &Bound<'py, PyAny>,
        logits: &Bound<'py, PyAny>,
        seed: &Bound<'py, PyAny>,
        position: &Bound<'py, PyAny>,
        n: &Bound<'py, PyAny>,
        coupling: &Bound<'py, PyAny>,
        threads: &Bound<'py, PyAny>,
    ) -> Option<Self> {
        let arguments = Arguments::plain(logits)?;
        Some(PlainCall {
            plans: Plans::read(plans, &arguments)?,
            seeds: Numbers::read(seed, arguments.rows)?,
            positions: Numbers::read(position, arguments.rows)?,
            n: plain_integer(n, 1, MAX_PLAIN_DRAWS)? as usize,
            coupling: coupling_named(coupling.extract().ok()?)?,
            threads: match threads.is_none() {
                true => 0,
                false => plain_integer(threads, 1, pool::MAX_THREADS as u64)? as usize,
            },
            arguments,
        })
    }
}

impl<'py> Plans<'py> {
    /// One plan for all rows, or a list with one a row.
    fn read(plans: &Bound<'py, PyAny>, arguments: &Arguments<'py>) -> Option<Self> {
        if let Ok(plan) = plans.cast::<Plan>() {
            return Some(Plans::One(plan.clone()));
        }
        let plans = plans.cast::<PyList>().ok()?;
        if plans.len() != arguments.rows || arguments.is_single() {
            return None;
        }
        let plans: Result<_, _> = plans.iter().map(|plan| plan.cast_into::<Plan>()).collect();
        plans.ok().map(Plans::Each)
    }
}

/// Seeds or positions as callers have them.
enum Numbers<'py> {
    One(u64),
    Listed(Vec<u64>),
    Unsigned(PyReadonlyArray1<'py, u64>),
    /// None is negative.
    Signed(PyReadonlyArray1<'py, i64>),
}

impl<'py> Numbers<'py> {
    fn read(numbers: &Bound<'py, PyAny>, rows: usize) -> Option<Self> {
        if let Some(number) = plain_integer(numbers, 0, u64::MAX) {
            return Some(Numbers::One(number));
        }
        if let Ok(list) = numbers.cast::<PyList>() {
            let numbers: Vec<u64> = list
                .iter()
                .map(|item| plain_integer(&item, 0, u64::MAX))
                .collect::<Option<_>>()?;
            return (numbers.len() == rows).then_some(Numbers::Listed(numbers));
        }
        if let Some(array) = plain::<u64, Ix1>(numbers) {
            return (array.as_slice().ok()?.len() == rows).then_some(Numbers::Unsigned(array));
        }
        let array = plain::<i64, Ix1>(numbers)?;
        let slice = array.as_slice().ok()?;
        (slice.len() == rows && slice.iter().all(|&number| number >= 0)).then_some(Numbers::Signed(array))
    }

    fn per_row(&self) -> PyResult<PerRow<'_>> {
        Ok(match self {
            Numbers::One(number) => PerRow::One(*number),
            Numbers::Listed(numbers) => PerRow::Unsigned(numbers),
            Numbers::Unsigned(array) => PerRow::Unsigned(array.as_slice()?),
            Numbers::Signed(array) => PerRow::Signed(array.as_slice()?),
        })
    }
}

/// The draws of one row, or of rows, in arrays as users get them.
fn arrays<'py, F: LogProb>(
    draws: &Draws<'_>,
    py: Python<'py>,
    coupling: Coupling,
    single: bool,
) -> PyResult<PlainDrawn<'py>> {
    check_memory(draws.rows.checked_mul(draws.n), size_of::<i64>())?;
    let both = [draws.rows, draws.n];
    let shape = if single { &both[1..] } else { &both };
    let mut tokens = Fresh::<i64, _>::zeros(py, shape);
    let mut log_probs = Fresh::<F, _>::zeros(py, shape);
    let mut write = |status: &mut [i64]| -> PyResult<bool> {
        draws.write(py, coupling, tokens.as_slice_mut()?, log_probs.as_slice_mut()?, status);
        Ok(status.iter().all(|&code| code <= Status::ReducedAccuracy as i64))
    };
    let (status, solved) = if single {
        let mut code = [0];
        let solved = write(&mut code)?;
        (code[0].into_pyobject(py)?.into_any(), solved)
    } else {
        let mut codes = Fresh::<i64, _>::zeros(py, draws.rows);
        let solved = write(codes.as_slice_mut()?)?;
        (codes.hand_over().into_any(), solved)
    };
    Ok((tokens.hand_over(), log_probs.hand_over().into_any(), status, solved))
}
