//! Exponentials.

use std::arch::x86_64::*;

use super::Avx512;
use crate::arch::exp::{self, ExpLanes, Exponential, SUM_BLOCK};
use crate::arch::lanes::Narrow;
use crate::row::Mask;

impl ExpLanes for Avx512 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX-512 is present, as for every function here.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_fmsub_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn add_exponent(self, power: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(power.0));
            Avx512(_mm512_castsi512_ps(_mm512_add_epi32(
                _mm512_castps_si512(self.0),
                power,
            )))
        }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, least: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x.0, least.0), self.0) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, and the caller's.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
}

/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::arch) unsafe fn block_sums<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    sums: &mut [f64],
) {
    // SAFETY: passed on.
    unsafe { exp::block_sums::<T, Avx512>(scores, mask, exponential, sums) }
}

/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::arch) unsafe fn block_terms<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    block: usize,
    terms: &mut [f32; SUM_BLOCK],
) {
    // SAFETY: passed on.
    unsafe { exp::block_terms::<T, Avx512>(scores, mask, exponential, block, terms) }
}
