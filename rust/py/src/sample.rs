//! `sample`: draws straight from the rows, whole distributions never leave the core; and the generator itself.

use std::cell::Cell;

use numpy::{Element, PyArray1, PyArray2};
use optdecode_core::Level;
use optdecode_core::par::{Par, for_each_row};
use optdecode_core::plan::Plan as CorePlan;
use optdecode_core::sample::{Coupling, Distinct, draw_distinct, draw_tokens, philox4x32_10 as philox, row_seed};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::arrays::{Arguments, Batch, vector};
use crate::errors::{guard, integer, value};
use crate::plan::{Plan, check_plans};
use crate::pool;
use crate::results::{Fresh, check_memory, detached};
use crate::solve::choose_par;

type Drawn<'py> = (
    Bound<'py, PyArray2<i64>>,
    Bound<'py, PyArray2<f64>>,
    Bound<'py, PyArray1<u8>>,
    Option<Bound<'py, PyArray2<f64>>>,
);

/// Draw n tokens from every row: (tokens, log_probs, status, log_inclusion), the last None unless the coupling has it; plans are one for all rows, or one a row.
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
        let plans = check_plans(&plans, &arguments)?;
        let seeds = vector::<u64>("seeds", seeds, Some(rows))?;
        let positions = vector::<u64>("positions", positions, Some(rows))?;
        let n = integer("n", n, 1, MAX_DRAWS)? as usize;
        let draws = Draws {
            plans: &plans,
            batch: arguments.batch()?,
            seeds: PerRow::Unsigned(seeds.as_slice()?),
            positions: PerRow::Unsigned(positions.as_slice()?),
            n,
            level,
            par: choose_par(pool::count(threads)?, rows, vocabulary)?,
            rows,
            vocabulary,
        };
        check_memory(rows.checked_mul(n), size_of::<i64>())?;
        let mut tokens = Fresh::<i64, _>::zeros(py, [rows, n]);
        let mut log_probs = Fresh::<f64, _>::zeros(py, [rows, n]);
        let mut status = Fresh::<u8, _>::zeros(py, rows);
        let out = (
            tokens.as_slice_mut()?,
            log_probs.as_slice_mut()?,
            status.as_slice_mut()?,
        );
        let mut log_inclusion = None;
        match (coupling_named(coupling), coupling) {
            (Some(coupling), _) => draws.write(py, coupling, out.0, out.1, out.2),
            (None, GUMBEL_TOP_K) => {
                let inclusion = log_inclusion.insert(Fresh::<f64, _>::zeros(py, [rows, n]));
                draws.write_distinct(py, out.0, out.1, inclusion.as_slice_mut()?, out.2);
            }
            _ => {
                let allowed = format!("'iid', 'systematic' or '{GUMBEL_TOP_K}'");
                return Err(value(format!("coupling must be {allowed}; got {coupling:?}")));
            }
        }
        let log_inclusion = log_inclusion.map(Fresh::hand_over);
        Ok((
            tokens.hand_over(),
            log_probs.hand_over(),
            status.hand_over(),
            log_inclusion,
        ))
    })
}

/// The coupling of distinct tokens, which brings more than tokens and their log-probabilities.
const GUMBEL_TOP_K: &str = "gumbel_topk";

/// A draw's index is one word of the counter.
const MAX_DRAWS: u64 = u32::MAX as u64;
pub(crate) fn coupling_named(name: &str) -> Option<Coupling> {
    match name {
        "iid" => Some(Coupling::Iid),
        "systematic" => Some(Coupling::Systematic),
        _ => None,
    }
}

/// Seeds or positions, free of Python.
#[derive(Clone, Copy)]
pub(crate) enum PerRow<'a> {
    One(u64),
    Unsigned(&'a [u64]),
    Signed(&'a [i64]),
}

impl PerRow<'_> {
    /// The position of a row: one number is that of every row.
    fn position(self, row: usize) -> u64 {
        match self {
            PerRow::One(number) => number,
            PerRow::Unsigned(numbers) => numbers[row],
            PerRow::Signed(numbers) => numbers[row] as u64,
        }
    }

    /// The seed of a row: one number stands for the seeds that derive from it.
    fn seed(self, row: usize) -> u64 {
        match self {
            PerRow::One(number) => row_seed(number, row as u64),
            _ => self.position(row),
        }
    }
}

/// What to draw, checked and free of Python.
pub(crate) struct Draws<'a> {
    /// One for all rows, or one a row.
    pub(crate) plans: &'a [&'a CorePlan],
    pub(crate) batch: Batch<'a>,
    pub(crate) seeds: PerRow<'a>,
    pub(crate) positions: PerRow<'a>,
    pub(crate) n: usize,
    pub(crate) level: Level,
    pub(crate) par: Par<'a>,
    pub(crate) rows: usize,
    pub(crate) vocabulary: usize,
}

/// Where one row of draws goes.
struct Job<'a, F, S> {
    tokens: &'a mut [i64],
    log_probs: &'a mut [F],
    status: &'a mut S,
}

impl Draws<'_> {
    /// Draws n tokens a row into slices with the rows one after another.
    pub(crate) fn write<F: LogProb, S: Send + From<u8>>(
        &self,
        py: Python<'_>,
        coupling: Coupling,
        tokens: &mut [i64],
        log_probs: &mut [F],
        status: &mut [S],
    ) {
        let mut jobs = tokens
            .chunks_exact_mut(self.n)
            .zip(log_probs.chunks_exact_mut(self.n))
            .zip(status)
            .map(|((tokens, log_probs), status)| Job {
                tokens,
                log_probs,
                status,
            });
        // A single row, the common call, allocates nothing but its results.
        let (mut one, mut many);
        let jobs: &mut [Job<'_, F, S>] = match (self.rows, jobs.next()) {
            (1, Some(job)) => {
                one = [job];
                &mut one
            }
            (_, first) => {
                many = first.into_iter().chain(jobs).collect::<Vec<_>>();
                &mut many
            }
        };
        detached(py, self.rows.saturating_mul(self.vocabulary.max(self.n)), || {
            for_each_row(self.par, self.vocabulary, jobs, |scratch, row, job| {
                let plan = plan_of(self.plans, row);
                let status = F::write_wide(job.log_probs, |log_probs| {
                    draw_tokens(
                        plan,
                        &self.batch.row(row, plan),
                        self.level,
                        self.seeds.seed(row),
                        self.positions.position(row),
                        coupling,
                        job.tokens,
                        log_probs,
                        scratch,
                    )
                });
                *job.status = S::from(status as u8);
            });
        });
    }

    /// Draws n distinct tokens a row, as `write` does.
    fn write_distinct(
        &self,
        py: Python<'_>,
        tokens: &mut [i64],
        log_probs: &mut [f64],
        log_inclusion: &mut [f64],
        status: &mut [u8],
    ) {
        let mut jobs: Vec<_> = tokens
            .chunks_exact_mut(self.n)
            .zip(log_probs.chunks_exact_mut(self.n))
            .zip(log_inclusion.chunks_exact_mut(self.n))
            .zip(status)
            .map(|(((tokens, log_probs), log_inclusion), status)| {
                let out = Distinct {
                    tokens,
                    log_probs,
                    log_inclusion,
                };
                (out, status)
            })
            .collect();
        detached(py, self.rows.saturating_mul(self.vocabulary.max(self.n)), || {
            for_each_row(self.par, self.vocabulary, &mut jobs, |scratch, row, (out, status)| {
                let plan = plan_of(self.plans, row);
                let (seed, position) = (self.seeds.seed(row), self.positions.position(row));
                let row = self.batch.row(row, plan);
                **status = draw_distinct(plan, &row, self.level, seed, position, out, scratch) as u8;
            });
        });
    }
}

/// The plan of a row, of plans that are one for all rows, or one a row.
pub(crate) fn plan_of<'a>(plans: &[&'a CorePlan], row: usize) -> &'a CorePlan {
    if plans.len() == 1 { plans[0] } else { plans[row] }
}

/// The float type of the log-probabilities that come back.
pub(crate) trait LogProb: Element + Send {
    /// Calls `write` on as many f64, then stores these as they are kept here.
    fn write_wide<R>(out: &mut [Self], write: impl FnOnce(&mut [f64]) -> R) -> R;
}

impl LogProb for f64 {
    fn write_wide<R>(out: &mut [f64], write: impl FnOnce(&mut [f64]) -> R) -> R {
        write(out)
    }
}

thread_local! {
    /// One row of log-probabilities before they are rounded; kept between calls.
    static WIDE: Cell<Vec<f64>> = const { Cell::new(Vec::new()) };
}

/// Draws a row up to which that is kept.
const WIDE_KEPT: usize = 1 << 12;

impl LogProb for f32 {
    fn write_wide<R>(out: &mut [f32], write: impl FnOnce(&mut [f64]) -> R) -> R {
        let mut wide = WIDE.take();
        wide.resize(out.len(), 0.0);
        let result = write(&mut wide);
        for (out, wide) in out.iter_mut().zip(&wide) {
            *out = *wide as f32;
        }
        if wide.len() <= WIDE_KEPT {
            WIDE.set(wide);
        }
        result
    }
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
