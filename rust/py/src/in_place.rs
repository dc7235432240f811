//! `log_probs_in_place`: what engines that draw themselves need.

use std::cell::Cell;

use numpy::ndarray::Axis;
use numpy::{PyArray1, PyUntypedArrayMethods};
use optdecode_core::par::for_each_row;
use optdecode_core::plan::{self, Anchor};
use optdecode_core::row::{Mask, Row, Scores};
use optdecode_core::solve::{Wanted, Workspace, solve_into};
use optdecode_core::{Level, Status};
use pyo3::prelude::*;

use crate::arrays::{MaskArray, check_tokens, matrix_mut};
use crate::errors::{guard, value};
use crate::plan::Plan;
use crate::pool;
use crate::results::{Fresh, detached};
use crate::solve::choose_par;

/// Replace every row of float32 logits by log q of its plan, and return a status a row; a row without a distribution is left as
/// it was.
#[pyfunction]
pub(crate) fn log_probs_in_place<'py>(
    py: Python<'py>,
    plans: Vec<Bound<'py, Plan>>,
    logits: &Bound<'py, PyAny>,
    mask: Option<&Bound<'py, PyAny>>,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    guard(|| {
        let level = crate::level()?;
        let mut logits = matrix_mut::<f32>("logits", logits)?;
        let (rows, vocabulary) = (logits.shape()[0], logits.shape()[1]);
        if plans.len() != rows {
            return Err(value(format!(
                "plans must have length {rows}, the rows; got {}",
                plans.len()
            )));
        }
        let plans: Vec<_> = plans.iter().map(|plan| &plan.get().plan).collect();
        for (row, plan) in plans.iter().enumerate() {
            if plan.anchor == Anchor::Given {
                return Err(value(format!(
                    "the plan's anchor is 'given', and this call brings none (row {row})"
                )));
            }
            check_tokens(plan, vocabulary, false, Some(row))?;
        }
        let mask = mask.map(|mask| MaskArray::new(mask, rows, vocabulary)).transpose()?;
        let mask = mask.as_ref().map(MaskArray::rows);
        let mut status = Fresh::<u8, _>::zeros(py, rows);
        let par = choose_par(pool::count(threads)?, rows, vocabulary)?;
        let mut view = logits.as_array_mut();
        let mut jobs: Vec<(&mut [f32], &mut u8)> = view
            .axis_iter_mut(Axis(0))
            .map(|row| row.into_slice().unwrap_or_default())
            .zip(status.as_slice_mut()?)
            .collect();
        detached(py, rows * vocabulary, || {
            for_each_row(par, vocabulary, &mut jobs, |scratch, row, (logits, status)| {
                let mask = mask.as_ref().map(|mask| mask.row(row));
                **status = replace(plans[row], logits, mask, level, &mut scratch.workspace) as u8;
            });
        });
        drop(jobs);
        Ok(status.hand_over())
    })
}

thread_local! {
    /// A row as it was, since the solvers read it while log q is written; kept between calls.
    static ROW: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

fn replace(
    plan: &plan::Plan,
    logits: &mut [f32],
    mask: Option<Mask<'_>>,
    level: Level,
    workspace: &mut Workspace,
) -> Status {
    let mut before = ROW.take();
    before.clear();
    before.extend_from_slice(logits);
    let row = Row {
        scores: Scores::F32(&before),
        mask,
        anchor: None,
        weights: None,
        budget: None,
    };
    let mut wanted = Wanted {
        log_probs: Some(&mut *logits),
        ..Wanted::default()
    };
    let status = solve_into(plan, &row, level, &mut wanted, workspace).status;
    if !status.is_solved() {
        logits.copy_from_slice(&before);
    }
    ROW.set(before);
    status
}
