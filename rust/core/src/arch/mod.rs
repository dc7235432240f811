//! Kernels that read a row once, on whatever instruction set the machine has: the only unsafe code of this crate.
//!
//! Each kernel is written once, over the lanes that `lanes` describes; an instruction set brings a lane type and the one entry
//! point that is compiled for it. All levels return the same bits: maxima and comparisons do not round, and sums of
//! exponentials have the same order everywhere.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod ascent;
mod coverage;
mod dispatch;
mod exp;
mod lanes;
mod maxima;
mod moments;
mod row_max;
mod scalar;
mod select;
mod split;
mod sums;
mod sweep;
mod threshold;
mod write;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::status::Status;
pub(crate) use ascent::{Ascent, Step};
pub(crate) use coverage::{LOWEST, Newton, tail_sums, write_tail};
pub(crate) use exp::Exponential;
pub use maxima::block_maxima;
pub(crate) use maxima::{collect_above, collect_between};
pub(crate) use moments::{Moments, moments};
pub use row_max::row_max;
pub(crate) use select::{count_from, mass_from, sample_below, term_of, terms_of};
pub(crate) use split::{count_ties, keep_between, split};
pub(crate) use sums::{LANES, SUM_BLOCK, block_sums, block_terms};
pub(crate) use sweep::{Sweep, sweep};
pub(crate) use threshold::{Threshold, threshold_bound};
pub(crate) use write::{Columns, Density, write_columns};

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

/// What to collect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The smallest score to collect; not -inf, which stands for forbidden tokens.
    pub(crate) least: f64,
    /// How many tokens to give up at, or of those that tie with the least, how many are wanted.
    pub(crate) limit: usize,
}

impl Bounds {
    /// All from a score on.
    pub(crate) fn from(least: f64) -> Self {
        Bounds {
            least,
            limit: usize::MAX,
        }
    }
}

#[cfg(test)]
mod tests;
