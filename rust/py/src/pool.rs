//! Threads: how many, and our own rayon pools. Never rayon's global pool, which other extensions configure and which no
//! process survives a fork with.
//!
//! A pool belongs to the process that built it. Its threads do not exist in a forked child, where to use it or to drop it
//! would wait for them for ever; so pools hang on a table tagged with the pid, and a child that finds its parent's table
//! leaks it and starts its own. Nothing here is ever locked across a fork: the counts are atomics, and a pool is built
//! before it is stored.

use std::ffi::OsStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::errors::{guard, integer, value};

pub(crate) const MAX_THREADS: usize = 4096;

struct Table {
    pid: u32,
    /// The pool of n threads is in slot n.
    slots: Vec<OnceLock<ThreadPool>>,
}

static TABLE: AtomicPtr<Table> = AtomicPtr::new(std::ptr::null_mut());

/// What `set_num_threads` said; 0 is nothing.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);
/// The default, settled by the first call that needs it, as finding it takes a while; 0 is not yet.
static FOUND: AtomicUsize = AtomicUsize::new(0);

/// The pool of `threads` threads, built at first use.
pub(crate) fn pool(threads: usize) -> PyResult<&'static ThreadPool> {
    let slot = &table().slots[threads.min(MAX_THREADS)];
    if let Some(pool) = slot.get() {
        return Ok(pool);
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("optdecode-{index}"))
        .build()
        .map_err(|error| PyRuntimeError::new_err(format!("cannot start {threads} threads: {error}; pass threads=1")))?;
    // Whoever lost a race drops a pool of this very process.
    Ok(slot.get_or_init(|| pool))
}

fn table() -> &'static Table {
    let pid = std::process::id();
    let mut found = TABLE.load(Ordering::Acquire);
    loop {
        // SAFETY: the pointer is null or comes from the `Box::leak` below, in this process or in the one this was forked
        // from; such a table is never freed and never borrowed mutably.
        if let Some(table) = unsafe { found.as_ref() }.filter(|table| table.pid == pid) {
            return table;
        }
        // A table found here is inherited: leaked. So is ours if another thread is faster; it holds no threads yet.
        let fresh = Box::leak(Box::new(Table {
            pid,
            slots: (0..=MAX_THREADS).map(|_| OnceLock::new()).collect(),
        }));
        found = match TABLE.compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => fresh,
            Err(faster) => faster,
        };
    }
}

/// Leave every pool behind, unused and undropped; for a child after a fork. The pid says the same of most forks, but not
/// of a descendant that was given the pid of a dead ancestor.
#[pyfunction]
pub(crate) fn forget_pools() {
    TABLE.store(std::ptr::null_mut(), Ordering::Release);
}

/// The `threads` argument of a call.
pub(crate) fn count(threads: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(integer("threads", threads, 0, MAX_THREADS as u64)? as usize)
}

/// How many threads a call that asks for `threads` gets: 0 is the default.
pub(crate) fn resolve(threads: usize) -> PyResult<usize> {
    match threads {
        0 => default_threads(),
        threads => Ok(threads),
    }
}

/// `set_num_threads`, else what the first call found.
pub(crate) fn default_threads() -> PyResult<usize> {
    let threads = known_default()?;
    if CHOSEN.load(Ordering::Relaxed) == 0 {
        FOUND.store(threads, Ordering::Relaxed);
    }
    Ok(threads)
}

/// The same without settling it, for those who only ask.
pub(crate) fn known_default() -> PyResult<usize> {
    let known = [&CHOSEN, &FOUND].map(|count| count.load(Ordering::Relaxed));
    known.into_iter().find(|&count| count > 0).map_or_else(find_default, Ok)
}

/// OPTDECODE_NUM_THREADS, else the cores that this process may use: affinity mask and cgroup quota included.
fn find_default() -> PyResult<usize> {
    match std::env::var_os("OPTDECODE_NUM_THREADS").filter(|text| !text.is_empty()) {
        Some(text) => parse(&text),
        None => Ok(std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_THREADS)),
    }
}

fn parse(text: &OsStr) -> PyResult<usize> {
    let text = text.to_string_lossy();
    text.trim()
        .parse()
        .ok()
        .filter(|threads| (1..=MAX_THREADS).contains(threads))
        .ok_or_else(|| {
            value(format!(
                "OPTDECODE_NUM_THREADS must be an integer in [1, {MAX_THREADS}]; got {text:?}"
            ))
        })
}

/// Set how many threads a call with `threads=0` may use, at least 1.
#[pyfunction]
pub(crate) fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    guard(|| {
        CHOSEN.store(integer("n", n, 1, MAX_THREADS as u64)? as usize, Ordering::Relaxed);
        Ok(())
    })
}

/// How many threads a call with `threads=0` may use.
#[pyfunction]
pub(crate) fn num_threads() -> PyResult<usize> {
    guard(known_default)
}
