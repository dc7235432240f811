//! Rows in parallel. A row is solved by one thread from start to end, so that no result depends on how many there are.

use std::cell::Cell;

use rayon::prelude::*;

use crate::sample::SoftmaxScratch;
use crate::solve::Workspace;

/// Where rows are worked on.
#[derive(Clone, Copy, Debug)]
pub enum Par<'p> {
    /// On the calling thread.
    Seq,
    /// On the threads of a pool, if the batch [is worth it](worth_a_pool).
    Pool(&'p rayon::ThreadPool),
}

/// Tokens (rows * V) from which on a batch of several rows is worth waking a pool for: that takes some 10 us, in which one
/// thread gets through a few thousand tokens.
pub const PARALLEL_THRESHOLD: usize = 1 << 14;

/// Tokens that a task of the pool has at least, so that many tiny rows are handed out in bundles.
const TASK_TOKENS: usize = 1 << 12;

/// What a thread keeps between rows and between calls; it grows to the largest row met and is never shrunk.
pub struct Scratch {
    /// For the solvers.
    pub workspace: Workspace,
    /// For [`crate::sample::draw_row`].
    pub masses: Vec<u64>,
    /// For draws from a plain softmax.
    pub softmax: SoftmaxScratch,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch {
            workspace: Workspace::new(),
            masses: Vec::new(),
            softmax: SoftmaxScratch::default(),
        }
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Whether a pool would be used at all; ask before building one.
pub fn worth_a_pool(rows: usize, vocabulary: usize) -> bool {
    rows > 1 && rows.saturating_mul(vocabulary) >= PARALLEL_THRESHOLD
}

/// Calls `body(scratch, row, job)` once for each job, in any order. Jobs carry what the rows write to; idle threads take
/// over rows that others have not begun, so that cheap and dear rows may mix.
pub fn for_each_row<J, F>(par: Par<'_>, vocabulary: usize, jobs: &mut [J], body: F)
where
    J: Send,
    F: Fn(&mut Scratch, usize, &mut J) + Sync,
{
    let run = |(row, job): (usize, &mut J)| with_scratch(|scratch| body(scratch, row, job));
    match par {
        Par::Pool(pool) if worth_a_pool(jobs.len(), vocabulary) => pool.install(|| {
            let bundle = (TASK_TOKENS / vocabulary.max(1)).max(1);
            // Down to one bundle a task: rayon's own splitting would leave long runs of rows to one thread.
            jobs.par_iter_mut()
                .enumerate()
                .with_min_len(bundle)
                .with_max_len(bundle)
                .for_each(run);
        }),
        _ => jobs.iter_mut().enumerate().for_each(run),
    }
}

/// Takes the scratch of this thread for the time of a call. Taken, not borrowed: after a panic, whatever state it was in is
/// dropped, and the next row starts on a fresh one.
fn with_scratch<R>(call: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = call(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool")
    }

    #[test]
    fn every_row_runs_once_whatever_the_threads_and_the_sizes() {
        for (rows, vocabulary) in [
            (0, 10),
            (1, 100_000),
            (3, 10),
            (1000, 1),
            (1000, 100),
            (37, 50_000),
            (5, 0),
        ] {
            for threads in [1, 2, 5] {
                let pool = pool(threads);
                for par in [Par::Seq, Par::Pool(&pool)] {
                    let mut jobs = vec![0; rows];
                    for_each_row(par, vocabulary, &mut jobs, |_, row, job| *job += row + 1);
                    assert_eq!(jobs, (1..=rows).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn small_batches_stay_on_the_calling_thread() {
        let pool = pool(2);
        let here = std::thread::current().id();
        let mut jobs = vec![None; 8];
        for_each_row(Par::Pool(&pool), PARALLEL_THRESHOLD / 8 - 1, &mut jobs, |_, _, job| {
            *job = Some(std::thread::current().id());
        });
        assert!(jobs.iter().all(|id| *id == Some(here)));
        for_each_row(Par::Pool(&pool), PARALLEL_THRESHOLD / 8, &mut jobs, |_, _, job| {
            *job = Some(std::thread::current().id());
        });
        assert!(jobs.iter().all(|id| *id != Some(here)));
        assert!(!worth_a_pool(1, 1 << 20));
    }

    #[test]
    fn scratch_is_kept_between_rows_and_dropped_by_a_panic() {
        let rows = |par: Par<'_>| {
            let mut jobs = vec![0; 4];
            for_each_row(par, 10, &mut jobs, |scratch, _, job| {
                scratch.masses.push(0);
                *job = scratch.masses.len();
            });
            jobs
        };
        SCRATCH.set(None);
        assert_eq!(rows(Par::Seq), [1, 2, 3, 4]);
        assert_eq!(rows(Par::Seq), [5, 6, 7, 8]);
        let failed = std::panic::catch_unwind(|| {
            for_each_row(Par::Seq, 10, &mut [()], |_, _, ()| {
                std::panic::resume_unwind(Box::new("stop"))
            });
        });
        assert!(failed.is_err());
        assert_eq!(rows(Par::Seq), [1, 2, 3, 4]);
    }
}
