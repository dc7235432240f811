//! From a level and a row of some width to the kernel compiled for both.

#[cfg(target_arch = "aarch64")]
use super::aarch64;
use super::exp::{Exponential, SUM_BLOCK};
use super::lanes::Narrow;
#[cfg(target_arch = "x86_64")]
use super::x86_64;
use super::{Isa, Level, scalar};
use crate::row::{Mask, Scores};

/// Sets `sums` to the sum of the terms of every 1024 tokens, forbidden ones being 0. Each token's term has a relative
/// error of at most 3e-7, each sum one of 1e-6 more. f64 rows have none.
pub(crate) fn block_sums(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    sums: &mut Vec<f64>,
) {
    // All of it is overwritten.
    sums.resize(scores.len().div_ceil(SUM_BLOCK), 0.0);
    match scores {
        Scores::F64(_) => {}
        Scores::F32(scores) => narrow_block_sums(level, scores, mask, exponential, sums),
        Scores::F16(scores) => narrow_block_sums(level, scores, mask, exponential, sums),
        Scores::Bf16(scores) => narrow_block_sums(level, scores, mask, exponential, sums),
    }
}

/// The terms of the tokens of one block, 0 past the end of the row: those that [`block_sums`] adds up, bit for bit. f64 rows
/// have none.
pub(crate) fn block_terms(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    block: usize,
    terms: &mut [f32; SUM_BLOCK],
) {
    match scores {
        Scores::F64(_) => {}
        Scores::F32(scores) => narrow_block_terms(level, scores, mask, exponential, block, terms),
        Scores::F16(scores) => narrow_block_terms(level, scores, mask, exponential, block, terms),
        Scores::Bf16(scores) => narrow_block_terms(level, scores, mask, exponential, block, terms),
    }
}

fn narrow_block_sums<T: Narrow>(
    level: Level,
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    sums: &mut [f64],
) {
    match level.0 {
        Isa::Scalar => scalar::exp::block_sums(scores, mask, exponential, sums),
        // SAFETY: a `Level` is made only where its instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::exp::block_sums(scores, mask, exponential, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86_64::avx512::exp::block_sums(scores, mask, exponential, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { aarch64::neon::exp::block_sums(scores, mask, exponential, sums) },
    }
}

fn narrow_block_terms<T: Narrow>(
    level: Level,
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    block: usize,
    terms: &mut [f32; SUM_BLOCK],
) {
    match level.0 {
        Isa::Scalar => scalar::exp::block_terms(scores, mask, exponential, block, terms),
        // SAFETY: a `Level` is made only where its instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86_64::avx2::exp::block_terms(scores, mask, exponential, block, terms) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86_64::avx512::exp::block_terms(scores, mask, exponential, block, terms) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { aarch64::neon::exp::block_terms(scores, mask, exponential, block, terms) },
    }
}
