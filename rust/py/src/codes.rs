//! `sample_codes`: one token of each of some sequences that arithmetic codes couple.

use numpy::PyArray1;
use optdecode_core::par::for_each_row;
use optdecode_core::sample::{Code, draw_by_code};
use pyo3::prelude::*;

use crate::arrays::{Arguments, vector};
use crate::errors::{guard, integer};
use crate::plan::{Plan, check_plans};
use crate::pool;
use crate::results::{Fresh, check_memory, detached};
use crate::sample::plan_of;
use crate::solve::choose_par;

/// tokens, log_probs, status, codes, steps.
type Drawn<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray1<u8>>,
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<u64>>,
);

/// One row: its sequence, and what is drawn.
struct Job {
    sequence: u32,
    code: Code,
    token: i64,
    log_prob: f64,
    status: u8,
}

/// Draw one token from every row by the code of its sequence: (tokens, log_probs, status, codes, steps), the last two being what
/// the given ones become; a row without a distribution leaves its own.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sample_codes<'py>(
    py: Python<'py>,
    plans: Vec<Bound<'py, Plan>>,
    logits: &Bound<'py, PyAny>,
    dtype: &str,
    mask: Option<&Bound<'py, PyAny>>,
    anchor: Option<&Bound<'py, PyAny>>,
    weights: Option<&Bound<'py, PyAny>>,
    budget: Option<&Bound<'py, PyAny>>,
    seed: &Bound<'py, PyAny>,
    sequences: &Bound<'py, PyAny>,
    codes: &Bound<'py, PyAny>,
    steps: &Bound<'py, PyAny>,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Drawn<'py>> {
    guard(|| {
        let level = crate::level()?;
        let arguments = Arguments::new(logits, dtype, mask, anchor, weights, budget)?;
        let (rows, vocabulary) = (arguments.rows, arguments.vocabulary);
        let plans = check_plans(&plans, &arguments)?;
        let seed = integer("seed", seed, 0, u64::MAX)?;
        let sequences = vector::<u32>("sequences", sequences, Some(rows))?;
        let codes = vector::<u64>("codes", codes, Some(rows))?;
        let steps = vector::<u64>("steps", steps, Some(rows))?;
        let par = choose_par(pool::count(threads)?, rows, vocabulary)?;
        let batch = arguments.batch()?;
        let states = codes.as_slice()?.iter().zip(steps.as_slice()?);
        let mut jobs: Vec<_> = states
            .zip(sequences.as_slice()?)
            .map(|((&value, &step), &sequence)| Job {
                sequence,
                code: Code { value, step },
                token: -1,
                log_prob: f64::NAN,
                status: 0,
            })
            .collect();
        detached(py, rows.saturating_mul(vocabulary), || {
            for_each_row(par, vocabulary, &mut jobs, |scratch, row, job| {
                let plan = plan_of(&plans, row);
                let row = batch.row(row, plan);
                let (draw, status) = draw_by_code(plan, &row, level, seed, job.sequence, &mut job.code, scratch);
                (job.token, job.log_prob, job.status) = (draw.token, draw.log_prob, status as u8);
            });
        });
        Ok((
            PyArray1::from_iter(py, jobs.iter().map(|job| job.token)),
            PyArray1::from_iter(py, jobs.iter().map(|job| job.log_prob)),
            PyArray1::from_iter(py, jobs.iter().map(|job| job.status)),
            PyArray1::from_iter(py, jobs.iter().map(|job| job.code.value)),
            PyArray1::from_iter(py, jobs.iter().map(|job| job.code.step)),
        ))
    })
}

/// The codes that n sequences start with.
#[pyfunction]
pub(crate) fn first_codes<'py>(
    py: Python<'py>,
    seed: &Bound<'py, PyAny>,
    n: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    guard(|| {
        let seed = integer("seed", seed, 0, u64::MAX)?;
        let n = integer("n", n, 1, u64::from(u32::MAX))? as u32;
        check_memory(usize::try_from(n).ok(), size_of::<u64>())?;
        let mut codes = Fresh::<u64, _>::zeros(py, n as usize);
        for (code, sequence) in codes.as_slice_mut()?.iter_mut().zip(0..n) {
            *code = Code::first(seed, sequence, n).value;
        }
        Ok(codes.hand_over())
    })
}
