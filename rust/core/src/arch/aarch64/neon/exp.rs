//! Exponentials.

use std::arch::aarch64::*;

use super::Neon;
use crate::arch::exp::{self, ExpLanes, Exponential, SUM_BLOCK};
use crate::arch::lanes::Narrow;
use crate::row::Mask;

impl ExpLanes for Neon {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: NEON is present, as for every function here.
        Neon(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vsubq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vfmaq_f32(term.0, self.0, factor.0) })
    }

    #[inline(always)]
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vfmaq_f32(vnegq_f32(term.0), self.0, factor.0) })
    }

    #[inline(always)]
    unsafe fn add_exponent(self, power: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let power = vshlq_n_u32::<23>(vreinterpretq_u32_f32(power.0));
            Neon(vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(self.0), power)))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, least: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(self.0), vcgeq_f32(x.0, least.0))) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, and the caller's.
        unsafe { vst1q_f32(to, self.0) }
    }
}

/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "neon")]
pub(in crate::arch) unsafe fn block_sums<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    sums: &mut [f64],
) {
    // SAFETY: passed on.
    unsafe { exp::block_sums::<T, Neon>(scores, mask, exponential, sums) }
}

/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "neon")]
pub(in crate::arch) unsafe fn block_terms<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    block: usize,
    terms: &mut [f32; SUM_BLOCK],
) {
    // SAFETY: passed on.
    unsafe { exp::block_terms::<T, Neon>(scores, mask, exponential, block, terms) }
}
