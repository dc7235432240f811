//! Times of the core's own work, taken beside it: no Python, no NumPy and no GIL between the two looks at the clock.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use numpy::PyArray1;
use optdecode_core::arch::row_max;
use optdecode_core::par::{Par, Scratch, for_each_row};
use optdecode_core::plan::{Anchor, Objective, Plan as CorePlan};
use optdecode_core::sample::{Coupling, draw_tokens};
use optdecode_core::solve::Wanted;
use optdecode_core::{Level, Status};
use pyo3::prelude::*;

use crate::arrays::Arguments;
use crate::errors::{guard, integer, value};
use crate::plan::Plan;
use crate::pool;
use crate::results::check_memory;
use crate::solve::{Real, choose_par};

type Times<'py> = Bound<'py, PyArray1<u64>>;

/// Time draws of one token a row: nanoseconds of `count` batches, which go round through the rows of `logits` from row
/// `start` on.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn time_draws<'py>(
    py: Python<'py>,
    plan: &Plan,
    logits: &Bound<'py, PyAny>,
    dtype: &str,
    start: &Bound<'py, PyAny>,
    count: &Bound<'py, PyAny>,
    batch: &Bound<'py, PyAny>,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Times<'py>> {
    guard(|| {
        let level = crate::level()?;
        let arguments = Arguments::new(logits, dtype, None, None, None, None)?;
        arguments.check_plan(&plan.plan, None)?;
        let rounds = Rounds::new(&arguments, start, count, batch, threads)?;
        let rows = arguments.batch()?;
        let mut jobs = vec![([0], [0.0]); rounds.batch];
        rounds.time(py, &mut jobs, |scratch, position, row, (token, log_prob)| {
            draw_tokens(
                &plan.plan,
                &rows.row(row, &plan.plan),
                level,
                0,
                position,
                Coupling::Iid,
                token,
                log_prob,
                scratch,
            )
        })
    })
}

/// Time whole distributions: the probabilities, and nothing beside them, written into arrays that are there already; the rest
/// is as in `time_draws`.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn time_solve<'py>(
    py: Python<'py>,
    plan: &Plan,
    logits: &Bound<'py, PyAny>,
    dtype: &str,
    start: &Bound<'py, PyAny>,
    count: &Bound<'py, PyAny>,
    batch: &Bound<'py, PyAny>,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Times<'py>> {
    guard(|| {
        let level = crate::level()?;
        let arguments = Arguments::new(logits, dtype, None, None, None, None)?;
        arguments.check_plan(&plan.plan, None)?;
        let rounds = Rounds::new(&arguments, start, count, batch, threads)?;
        if arguments.is_double() {
            time_solve_as::<f64>(py, &plan.plan, level, &arguments, &rounds)
        } else {
            time_solve_as::<f32>(py, &plan.plan, level, &arguments, &rounds)
        }
    })
}

fn time_solve_as<'py, F: Real>(
    py: Python<'py>,
    plan: &CorePlan,
    level: Level,
    arguments: &Arguments<'py>,
    rounds: &Rounds,
) -> PyResult<Times<'py>> {
    let rows = arguments.batch()?;
    check_memory(rounds.batch.checked_mul(arguments.vocabulary), size_of::<F>())?;
    let mut results = vec![vec![F::default(); arguments.vocabulary]; rounds.batch];
    rounds.time(py, &mut results, |scratch, _, row, probs| {
        let mut wanted = Wanted {
            probs: Some(probs),
            ..Wanted::default()
        };
        let outcome = F::solve(plan, &rows.row(row, plan), level, &mut wanted, &mut scratch.workspace);
        black_box(probs);
        outcome.status
    })
}

/// Time the largest score of a row, which is the cost of reading it; the rest is as in `time_draws`.
#[pyfunction]
pub(crate) fn time_row_max<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    dtype: &str,
    start: &Bound<'py, PyAny>,
    count: &Bound<'py, PyAny>,
    batch: &Bound<'py, PyAny>,
    threads: &Bound<'py, PyAny>,
) -> PyResult<Times<'py>> {
    guard(|| {
        let level = crate::level()?;
        let arguments = Arguments::new(logits, dtype, None, None, None, None)?;
        let rounds = Rounds::new(&arguments, start, count, batch, threads)?;
        let rows = arguments.batch()?;
        // Only its anchor is looked at, and it has none.
        let reader = CorePlan {
            objective: Objective::Argmax,
            temperature: 1.0,
            score_weight: 1.0,
            raw_scores: false,
            anchor: Anchor::None,
            supports: vec![],
            chains: vec![],
            allowed: None,
            cap: 1.0,
            target: None,
        };
        let mut jobs = vec![(); rounds.batch];
        rounds.time(py, &mut jobs, |_, _, row, _| {
            black_box(row_max(level, rows.row(row, &reader).scores));
            Status::Ok
        })
    })
}

/// Which rows are timed, in which batches.
struct Rounds {
    par: Par<'static>,
    rows: usize,
    vocabulary: usize,
    start: usize,
    count: usize,
    batch: usize,
}

impl Rounds {
    fn new(
        arguments: &Arguments<'_>,
        start: &Bound<'_, PyAny>,
        count: &Bound<'_, PyAny>,
        batch: &Bound<'_, PyAny>,
        threads: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let (rows, vocabulary) = (arguments.rows, arguments.vocabulary);
        if rows == 0 {
            return Err(value("logits must have at least one row"));
        }
        let start = integer("start", start, 0, u64::from(u32::MAX))? as usize;
        let count = integer("count", count, 1, 1 << 20)? as usize;
        let batch = integer("batch", batch, 1, 1 << 10)? as usize;
        Ok(Rounds {
            par: choose_par(pool::count(threads)?, batch, vocabulary)?,
            rows,
            vocabulary,
            start: start % rows,
            count,
            batch,
        })
    }

    /// Calls `body(scratch, position, row, job)` for every row of every batch, without the GIL; an error if a row has no
    /// distribution, as its time would be that of something else.
    fn time<'py, J: Send>(
        &self,
        py: Python<'py>,
        jobs: &mut [J],
        body: impl Fn(&mut Scratch, u64, usize, &mut J) -> Status + Sync + Send,
    ) -> PyResult<Times<'py>> {
        let bad = AtomicUsize::new(usize::MAX);
        let mut times = vec![0; self.count];
        py.detach(|| {
            for (reading, time) in times.iter_mut().enumerate() {
                let first = self.start + reading * self.batch;
                let begun = Instant::now();
                for_each_row(self.par, self.vocabulary, jobs, |scratch, index, job| {
                    let (position, row) = (first + index, (first + index) % self.rows);
                    if !body(scratch, position as u64, row, job).is_solved() {
                        bad.fetch_min(row, Ordering::Relaxed);
                    }
                });
                *time = begun.elapsed().as_nanos() as u64;
            }
        });
        match bad.into_inner() {
            usize::MAX => Ok(PyArray1::from_vec(py, times)),
            row => Err(value(format!("row {row} has no distribution to time"))),
        }
    }
}
