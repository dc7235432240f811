//! Exponentials.

use std::arch::x86_64::*;

use super::Avx2;
use crate::arch::exp::{self, ExpLanes, Exponential, SUM_BLOCK};
use crate::arch::lanes::Narrow;
use crate::row::Mask;

impl ExpLanes for Avx2 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX2 is present, as for every function here.
        Avx2(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_fmsub_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn add_exponent(self, power: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(power.0));
            Avx2(_mm256_castsi256_ps(_mm256_add_epi32(
                _mm256_castps_si256(self.0),
                power,
            )))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, least: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_and_ps(self.0, _mm256_cmp_ps::<_CMP_GE_OQ>(x.0, least.0)) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, and the caller's.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
}

/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::arch) unsafe fn block_sums<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    sums: &mut [f64],
) {
    // SAFETY: passed on.
    unsafe { exp::block_sums::<T, Avx2>(scores, mask, exponential, sums) }
}

/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::arch) unsafe fn block_terms<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    block: usize,
    terms: &mut [f32; SUM_BLOCK],
) {
    // SAFETY: passed on.
    unsafe { exp::block_terms::<T, Avx2>(scores, mask, exponential, block, terms) }
}
