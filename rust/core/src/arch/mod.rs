//! Kernels that read a row once, on whatever instruction set the machine has: the only unsafe code of this crate.
//!
//! The algorithm is written once, in `generic`, over the lanes that `lanes` describes; each instruction set brings a lane
//! type and entry points compiled for it. All levels return the same bits: maxima and comparisons do not round,
//! and sums of exponentials have the same order everywhere.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod dispatch;
mod exp;
mod generic;
mod lanes;
mod row_max;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::row::{Mask, Scores};
use crate::status::Status;
pub(crate) use dispatch::{block_sums, block_terms};
pub(crate) use exp::{Exponential, SUM_BLOCK};
use lanes::Narrow;
pub use row_max::row_max;

/// Tokens of a block.
pub(crate) const BLOCK: usize = 64;

/// An instruction set that this machine has: there is no other way to come by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// Plain Rust, everywhere.
    pub const SCALAR: Level = Level(Isa::Scalar);

    /// The name of every level that some machine has.
    pub const NAMES: [&'static str; 4] = ["scalar", "avx2", "avx512", "neon"];

    /// The levels of this machine, best last.
    pub fn available() -> impl DoubleEndedIterator<Item = Level> {
        let levels = [
            Some(Isa::Scalar),
            #[cfg(target_arch = "x86_64")]
            x86_64::has_avx2().then_some(Isa::Avx2),
            #[cfg(target_arch = "x86_64")]
            x86_64::has_avx512().then_some(Isa::Avx512),
            #[cfg(target_arch = "aarch64")]
            std::arch::is_aarch64_feature_detected!("neon").then_some(Isa::Neon),
        ];
        levels.into_iter().flatten().map(Level)
    }

    /// The best level of this machine.
    pub fn best() -> Level {
        Self::available().next_back().unwrap_or(Self::SCALAR)
    }

    /// The level of that name, if this machine has it.
    pub fn named(name: &str) -> Option<Level> {
        Self::available().find(|level| level.name() == name)
    }

    /// One of [`Level::NAMES`].
    pub fn name(self) -> &'static str {
        match self.0 {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
        }
    }
}

/// What one read of a row tells of its allowed tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The largest score, +inf included; -inf if no token is allowed. Means nothing if there is a NaN.
    pub max: f64,
    /// Whether one is NaN.
    pub nan: bool,
}

impl Summary {
    /// What is wrong with the row, if anything.
    pub(crate) fn check(&self) -> Result<(), Status> {
        if self.nan {
            return Err(Status::NanScores);
        }
        if self.max == f64::INFINITY {
            return Err(Status::InfScores);
        }
        if self.max == f64::NEG_INFINITY {
            return Err(Status::Infeasible);
        }
        Ok(())
    }
}

/// Reads the row once: sets `maxima` to the largest allowed score of every 64 tokens, -inf where there is none.
pub fn block_maxima(level: Level, scores: Scores<'_>, mask: Option<Mask<'_>>, maxima: &mut Vec<f64>) -> Summary {
    // All of it is overwritten.
    maxima.resize(scores.len().div_ceil(BLOCK), f64::NEG_INFINITY);
    match scores {
        Scores::F64(scores) => scalar::wide_block_maxima(scores, mask, maxima),
        Scores::F32(scores) => narrow_block_maxima(level, scores, mask, maxima),
        Scores::F16(scores) => narrow_block_maxima(level, scores, mask, maxima),
        Scores::Bf16(scores) => narrow_block_maxima(level, scores, mask, maxima),
    }
}

/// What to collect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The smallest score to collect; not -inf, which stands for forbidden tokens.
    pub(crate) least: f64,
    /// How many tokens to give up at.
    pub(crate) limit: usize,
}

/// Appends the allowed tokens with a score of at least `bounds.least`, ascending: ids, and scores widened to f64. Looks
/// only at blocks whose maximum allows one. False, and not all of them, if there are more than `bounds.limit`.
pub(crate) fn collect_above(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    maxima: &[f64],
    bounds: Bounds,
    out: (&mut Vec<u32>, &mut Vec<f64>),
) -> bool {
    match scores {
        Scores::F64(scores) => scalar::wide_collect_above(scores, mask, maxima, bounds, out),
        Scores::F32(scores) => narrow_collect_above(level, scores, mask, maxima, bounds, out),
        Scores::F16(scores) => narrow_collect_above(level, scores, mask, maxima, bounds, out),
        Scores::Bf16(scores) => narrow_collect_above(level, scores, mask, maxima, bounds, out),
    }
}

fn narrow_block_maxima<T: Narrow>(level: Level, scores: &[T], mask: Option<Mask<'_>>, maxima: &mut [f64]) -> Summary {
    match level.0 {
        Isa::Scalar => scalar::block_maxima(scores, mask, maxima),
        // SAFETY: a `Level` is made only where its instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::block_maxima(scores, mask, maxima) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86_64::avx512::block_maxima(scores, mask, maxima) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { aarch64::neon::block_maxima(scores, mask, maxima) },
    }
}

fn narrow_collect_above<T: Narrow>(
    level: Level,
    scores: &[T],
    mask: Option<Mask<'_>>,
    maxima: &[f64],
    bounds: Bounds,
    out: (&mut Vec<u32>, &mut Vec<f64>),
) -> bool {
    match level.0 {
        Isa::Scalar => scalar::collect_above(scores, mask, maxima, bounds, out),
        // SAFETY: a `Level` is made only where its instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::collect_above(scores, mask, maxima, bounds, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86_64::avx512::collect_above(scores, mask, maxima, bounds, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { aarch64::neon::collect_above(scores, mask, maxima, bounds, out) },
    }
}

#[cfg(test)]
mod tests;
