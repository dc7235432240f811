//! `solve`: whole distributions.

use numpy::{Element, PyArray1};
use optdecode_core::Level;
use optdecode_core::par::{self, Par, for_each_row};
use optdecode_core::plan::Plan as CorePlan;
use optdecode_core::row::Row;
use optdecode_core::solve::{Outcome, Wanted, Workspace, solve_into, solve_whole_into};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arrays::Arguments;
use crate::errors::guard;
use crate::plan::Plan;
use crate::pool;
use crate::results::{Fresh, check_memory, detached};

/// Solve every row: (log_probs, probs, face, threshold, objective, entropy, kl, kept_mass, multiplier, iterations,
/// status).
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
        let level = crate::level()?;
        let arguments = Arguments::new(logits, dtype, mask, anchor, weights, budget)?;
        arguments.check_plan(&plan.plan, None)?;
        let par = choose_par(pool::count(threads)?, arguments.rows, arguments.vocabulary)?;
        if arguments.is_double() {
            solve_as::<f64>(py, &plan.plan, level, &arguments, par)
        } else {
            solve_as::<f32>(py, &plan.plan, level, &arguments, par)
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
pub(crate) trait Real: Element + Copy + Default + Send {
    fn solve(
        plan: &CorePlan,
        row: &Row<'_>,
        level: Level,
        wanted: &mut Wanted<'_, Self>,
        workspace: &mut Workspace,
    ) -> Outcome;
}

impl Real for f64 {
    fn solve(
        plan: &CorePlan,
        row: &Row<'_>,
        _level: Level,
        wanted: &mut Wanted<'_, f64>,
        workspace: &mut Workspace,
    ) -> Outcome {
        solve_whole_into(plan, row, wanted, workspace)
    }
}

impl Real for f32 {
    fn solve(
        plan: &CorePlan,
        row: &Row<'_>,
        level: Level,
        wanted: &mut Wanted<'_, f32>,
        workspace: &mut Workspace,
    ) -> Outcome {
        solve_into(plan, row, level, wanted, workspace)
    }
}

/// Where one row of results goes.
struct Job<'a, F> {
    wanted: Wanted<'a, F>,
    scalars: &'a mut [f64],
    iterations: &'a mut u32,
    status: &'a mut u8,
}

impl<F> Job<'_, F> {
    fn report(&mut self, outcome: &Outcome) {
        *self.status = outcome.status as u8;
        *self.iterations = outcome.iterations;
        let scalars = [
            outcome.threshold,
            outcome.objective,
            outcome.entropy,
            outcome.kl,
            outcome.kept_mass,
            outcome.multiplier,
        ];
        self.scalars.copy_from_slice(&scalars);
    }
}

const SCALARS: usize = 6;

fn solve_as<'py, F: Real>(
    py: Python<'py>,
    plan: &CorePlan,
    level: Level,
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
                wanted: Wanted {
                    probs: Some(probs),
                    log_probs: Some(log_probs),
                    face: Some(face),
                    scalars: true,
                    zeroed: true,
                },
                scalars,
                iterations,
                status,
            })
            .collect();
        let batch = arguments.batch()?;
        detached(py, rows * vocabulary, || {
            for_each_row(par, vocabulary, &mut jobs, |scratch, row, job| {
                let row = batch.row(row, plan);
                let outcome = F::solve(plan, &row, level, &mut job.wanted, &mut scratch.workspace);
                job.report(&outcome);
            });
        });
    }
    let column = |i: usize| PyArray1::from_iter(py, scalars.iter().skip(i).step_by(SCALARS).copied());
    let [threshold, objective, entropy, kl, kept_mass, multiplier] = [0, 1, 2, 3, 4, 5].map(column);
    (
        log_probs.hand_over(),
        probs.hand_over(),
        face.hand_over(),
        threshold,
        objective,
        entropy,
        kl,
        kept_mass,
        multiplier,
        iterations.hand_over(),
        status.hand_over(),
    )
        .into_pyobject(py)
}
