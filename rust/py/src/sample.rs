//! `sample`: draws straight from the rows, whole distributions never leave the core; and the generator itself.

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use optdecode_core::par::for_each_row;
use optdecode_core::sample::{Coupling, draw_tokens, philox4x32_10 as philox, row_seed};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::arrays::{Arguments, check_memory, detached, vector};
use crate::errors::{guard, integer, value};
use crate::plan::Plan;
use crate::solve::choose_par;

type Drawn<'py> = (
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray1<u8>>,
);

/// Where one row of draws goes.
struct Job<'a> {
    tokens: &'a mut [i64],
    log_probs: &'a mut [f64],
    status: &'a mut u8,
}

/// Draw n tokens from every row: (tokens, log_probs, status); plans are one for all rows, or one a row.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn sample<'py>(
    py: Python<'py>,
    plans: Vec<Bound<'py, Plan>>,
    logits: &Bound<'py, PyAny>,
    dtype: &str,
    mask: Option<&Bound<'py, PyAny>>,
    anchor: Option<&Bound<'py, PyAny>>,
    weights: Option<&Bound<'py, PyAny>>,
    budget: Option<&Bound<'py, PyAny>>,
    seeds: &Bound<'py, PyAny>,
    positions: &Bound<'py, PyAny>,
    n: &Bound<'py, PyAny>,
    coupling: &str,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Drawn<'py>> {
    guard(|| {
        let level = crate::level()?;
        let arguments = Arguments::new(logits, dtype, mask, anchor, weights, budget)?;
        let (rows, vocabulary) = (arguments.rows, arguments.vocabulary);
        let plans: Vec<_> = plans.iter().map(|plan| &plan.get().plan).collect();
        if plans.len() != 1 && plans.len() != rows {
            return Err(value(format!(
                "plans must have length 1 or {rows}, the rows; got {}",
                plans.len()
            )));
        }
        for (row, plan) in plans.iter().enumerate() {
            arguments.check_plan(plan, (plans.len() > 1).then_some(row))?;
        }
        let seeds = vector::<u64>("seeds", seeds, Some(rows))?;
        let positions = vector::<u64>("positions", positions, Some(rows))?;
        // A draw's index is one word of the counter.
        let n = integer("n", n, 1, u64::from(u32::MAX))? as usize;
        let coupling = match coupling {
            "iid" => Coupling::Iid,
            "systematic" => Coupling::Systematic,
            _ => {
                return Err(value(format!(
                    "coupling must be 'iid' or 'systematic'; got {coupling:?}"
                )));
            }
        };
        let par = choose_par(threads, rows, vocabulary)?;

        check_memory(rows.checked_mul(n), size_of::<i64>())?;
        let tokens = PyArray2::<i64>::zeros(py, [rows, n], false);
        let log_probs = PyArray2::<f64>::zeros(py, [rows, n], false);
        let status = PyArray1::<u8>::zeros(py, rows, false);
        {
            let (mut tokens, mut log_probs, mut status) =
                (tokens.readwrite(), log_probs.readwrite(), status.readwrite());
            let mut jobs: Vec<Job<'_>> = tokens
                .as_slice_mut()?
                .chunks_exact_mut(n)
                .zip(log_probs.as_slice_mut()?.chunks_exact_mut(n))
                .zip(status.as_slice_mut()?)
                .map(|((tokens, log_probs), status)| Job {
                    tokens,
                    log_probs,
                    status,
                })
                .collect();
            let (seeds, positions) = (seeds.as_slice()?, positions.as_slice()?);
            let batch = arguments.batch()?;
            detached(py, rows.saturating_mul(vocabulary.max(n)), || {
                for_each_row(par, vocabulary, &mut jobs, |scratch, row, job| {
                    let plan = if plans.len() == 1 { plans[0] } else { plans[row] };
                    let status = draw_tokens(
                        plan,
                        &batch.row(row, plan),
                        level,
                        seeds[row],
                        positions[row],
                        coupling,
                        job.tokens,
                        job.log_probs,
                        scratch,
                    );
                    *job.status = status as u8;
                });
            });
        }
        Ok((tokens, log_probs, status))
    })
}

/// Philox4x32-10: four words of counter and two of key to four words of output.
#[pyfunction]
pub(crate) fn philox4x32_10(counter: &Bound<'_, PyAny>, key: &Bound<'_, PyAny>) -> PyResult<(u32, u32, u32, u32)> {
    guard(|| {
        let [a, b, c, d] = philox(words("counter", counter)?, words("key", key)?);
        Ok((a, b, c, d))
    })
}

fn words<const N: usize>(name: &str, words: &Bound<'_, PyAny>) -> PyResult<[u32; N]> {
    words
        .extract::<[u32; N]>()
        .map_err(|error| match error.is_instance_of::<PyOverflowError>(words.py()) {
            true => value(format!("{name} must hold integers in [0, 2**32)")),
            false => error,
        })
}

/// The seeds of n rows that one seed stands for; the first is the seed itself.
#[pyfunction]
pub(crate) fn row_seeds<'py>(
    py: Python<'py>,
    seed: &Bound<'py, PyAny>,
    n: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    guard(|| {
        let seed = integer("seed", seed, 0, u64::MAX)?;
        let n = integer("n", n, 0, u64::from(u32::MAX))?;
        check_memory(usize::try_from(n).ok(), size_of::<u64>())?;
        Ok(PyArray1::from_iter(py, (0..n).map(|index| row_seed(seed, index))))
    })
}
