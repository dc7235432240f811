//! `solve`: whole distributions.

use numpy::{Element, PyArray1};
use optdecode_core::par::{self, Par, for_each_row};
use optdecode_core::plan::Plan as CorePlan;
use optdecode_core::solve::{Outcome, Workspace, solve_row};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arrays::{Arguments, Fresh, check_memory, detached};
use crate::errors::guard;
use crate::plan::Plan;
use crate::pool;

/// Solve every row: (log_probs, probs, face, threshold, objective, entropy, kl, kept_mass, iterations, status).
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn solve<'py>(
    py: Python<'py>,
    plan: &Plan,
    logits: &Bound<'py, PyAny>,
    dtype: &str,
    mask: Option<&Bound<'py, PyAny>>,
    anchor: Option<&Bound<'py, PyAny>>,
    weights: Option<&Bound<'py, PyAny>>,
    budget: Option<&Bound<'py, PyAny>>,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    guard(|| {
        crate::level()?;
        let arguments = Arguments::new(logits, dtype, mask, anchor, weights, budget)?;
        arguments.check_plan(&plan.plan, None)?;
        let par = choose_par(pool::count(threads)?, arguments.rows, arguments.vocabulary)?;
        if arguments.is_double() {
            solve_as::<f64>(py, &plan.plan, &arguments, par)
        } else {
            solve_as::<f32>(py, &plan.plan, &arguments, par)
        }
    })
}

/// The pool for a batch, which small batches never touch; 0 threads are the default.
pub(crate) fn choose_par(threads: usize, rows: usize, vocabulary: usize) -> PyResult<Par<'static>> {
    match pool::resolve(threads)? {
        threads if threads > 1 && par::worth_a_pool(rows, vocabulary) => Ok(Par::Pool(pool::pool(threads)?)),
        _ => Ok(Par::Seq),
    }
}

/// The float type of the probabilities that come back.
pub(crate) trait Real: Element + Copy + Send {
    fn rounded(x: f64) -> Self;
}

impl Real for f64 {
    fn rounded(x: f64) -> Self {
        x
    }
}

impl Real for f32 {
    fn rounded(x: f64) -> Self {
        x as f32
    }
}

/// Where one row of results goes; vectors start zeroed.
pub(crate) struct Job<'a, F> {
    pub(crate) log_probs: &'a mut [F],
    pub(crate) probs: &'a mut [F],
    pub(crate) face: &'a mut [bool],
    pub(crate) scalars: &'a mut [f64],
    pub(crate) iterations: &'a mut u32,
    pub(crate) status: &'a mut u8,
}

impl<F: Real> Job<'_, F> {
    pub(crate) fn write(&mut self, outcome: &Outcome, workspace: &Workspace) {
        *self.status = outcome.status as u8;
        *self.iterations = outcome.iterations;
        if !outcome.status.is_solved() {
            self.log_probs.fill(F::rounded(f64::NAN));
            self.probs.fill(F::rounded(f64::NAN));
            self.scalars.fill(f64::NAN);
            return;
        }
        let scalars = [
            outcome.threshold,
            outcome.objective,
            outcome.entropy,
            outcome.kl,
            outcome.kept_mass,
        ];
        self.scalars.copy_from_slice(&scalars);
        if workspace.face().len() < self.log_probs.len() {
            self.log_probs.fill(F::rounded(f64::NEG_INFINITY));
        }
        for ((&id, &log_q), &q) in workspace.face().iter().zip(workspace.log_q()).zip(workspace.q()) {
            let id = id as usize;
            self.log_probs[id] = F::rounded(log_q);
            self.probs[id] = F::rounded(q);
            self.face[id] = true;
        }
    }
}

pub(crate) const SCALARS: usize = 5;

fn solve_as<'py, F: Real>(
    py: Python<'py>,
    plan: &CorePlan,
    arguments: &Arguments<'py>,
    par: Par<'_>,
) -> PyResult<Bound<'py, PyTuple>> {
    let (rows, vocabulary) = (arguments.rows, arguments.vocabulary);
    check_memory(rows.checked_mul(vocabulary), size_of::<F>())?;
    let mut log_probs = Fresh::<F, _>::zeros(py, [rows, vocabulary]);
    let mut probs = Fresh::<F, _>::zeros(py, [rows, vocabulary]);
    let mut face = Fresh::<bool, _>::zeros(py, [rows, vocabulary]);
    let mut iterations = Fresh::<u32, _>::zeros(py, rows);
    let mut status = Fresh::<u8, _>::zeros(py, rows);
    let mut scalars = vec![0.0; rows * SCALARS];
    {
        let mut jobs: Vec<Job<'_, F>> = log_probs
            .as_slice_mut()?
            .chunks_exact_mut(vocabulary)
            .zip(probs.as_slice_mut()?.chunks_exact_mut(vocabulary))
            .zip(face.as_slice_mut()?.chunks_exact_mut(vocabulary))
            .zip(scalars.chunks_exact_mut(SCALARS))
            .zip(iterations.as_slice_mut()?)
            .zip(status.as_slice_mut()?)
            .map(|(((((log_probs, probs), face), scalars), iterations), status)| Job {
                log_probs,
                probs,
                face,
                scalars,
                iterations,
                status,
            })
            .collect();
        let batch = arguments.batch()?;
        detached(py, rows * vocabulary, || {
            for_each_row(par, vocabulary, &mut jobs, |scratch, row, job| {
                let outcome = solve_row(plan, &batch.row(row, plan), &mut scratch.workspace);
                job.write(&outcome, &scratch.workspace);
            });
        });
    }
    let column = |i: usize| PyArray1::from_iter(py, scalars.iter().skip(i).step_by(SCALARS).copied());
    let [threshold, objective, entropy, kl, kept_mass] = [0, 1, 2, 3, 4].map(column);
    (
        log_probs.hand_over(),
        probs.hand_over(),
        face.hand_over(),
        threshold,
        objective,
        entropy,
        kl,
        kept_mass,
        iterations.hand_over(),
        status.hand_over(),
    )
        .into_pyobject(py)
}
