//! `model_log_probs`: what the model itself says of drawn tokens, and its best ones.

use numpy::ndarray::Axis;
use numpy::{PyArray2, PyUntypedArrayMethods};
use optdecode_core::par::for_each_row;
use optdecode_core::solve::{Asked, model_log_probs as ask};
use pyo3::prelude::*;

use crate::arrays::{Arguments, rows_of};
use crate::errors::{guard, integer};
use crate::plan::{Plan, check_plans};
use crate::pool;
use crate::results::{Fresh, check_memory, detached};
use crate::solve::choose_par;

type Answer<'py> = (
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<f64>>,
);

/// log p of given tokens (B, n), and the m best tokens (B, m) with theirs; plans are one for all rows, or one a row.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn model_log_probs<'py>(
    py: Python<'py>,
    plans: Vec<Bound<'py, Plan>>,
    logits: &Bound<'py, PyAny>,
    dtype: &str,
    mask: Option<&Bound<'py, PyAny>>,
    anchor: Option<&Bound<'py, PyAny>>,
    tokens: &Bound<'py, PyAny>,
    m: &Bound<'py, PyAny>,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Answer<'py>> {
    guard(|| {
        let level = crate::level()?;
        let arguments = Arguments::new(logits, dtype, mask, anchor, None, None)?;
        let (rows, vocabulary) = (arguments.rows, arguments.vocabulary);
        let plans = check_plans(&plans, &arguments)?;
        let tokens = rows_of::<i64>("tokens", tokens, rows)?;
        let (n, m) = (tokens.shape()[1], integer("m", m, 0, u64::from(u32::MAX))? as usize);
        check_memory(rows.checked_mul(m), size_of::<i64>())?;
        let mut log_probs = Fresh::<f64, _>::zeros(py, [rows, n]);
        let mut top_tokens = Fresh::<i64, _>::zeros(py, [rows, m]);
        let mut top_log_probs = Fresh::<f64, _>::zeros(py, [rows, m]);
        let par = choose_par(pool::count(threads)?, rows, vocabulary)?;
        let view = tokens.as_array();
        let mut jobs: Vec<Asked<'_>> = (0..rows)
            .map(|row| view.index_axis_move(Axis(0), row))
            .map(|tokens| Asked {
                tokens: tokens.to_slice().unwrap_or_default(),
                log_probs: &mut [],
                top_tokens: &mut [],
                top_log_probs: &mut [],
            })
            .collect();
        split(log_probs.as_slice_mut()?, n, &mut jobs, |job, slice| {
            job.log_probs = slice
        });
        split(top_tokens.as_slice_mut()?, m, &mut jobs, |job, slice| {
            job.top_tokens = slice
        });
        split(top_log_probs.as_slice_mut()?, m, &mut jobs, |job, slice| {
            job.top_log_probs = slice
        });
        let batch = arguments.batch()?;
        detached(py, rows * vocabulary, || {
            for_each_row(par, vocabulary, &mut jobs, |scratch, row, job| {
                let plan = plans[if plans.len() == 1 { 0 } else { row }];
                ask(plan, &batch.row(row, plan), level, job, &mut scratch.workspace);
            });
        });
        drop(jobs);
        Ok((log_probs.hand_over(), top_tokens.hand_over(), top_log_probs.hand_over()))
    })
}

/// Hands every job its part, `width` long, of a slice with the rows one after another.
fn split<'a, T, J>(slice: &'a mut [T], width: usize, jobs: &mut [J], give: impl Fn(&mut J, &'a mut [T])) {
    if width > 0 {
        slice
            .chunks_exact_mut(width)
            .zip(jobs)
            .for_each(|(part, job)| give(job, part));
    }
}
