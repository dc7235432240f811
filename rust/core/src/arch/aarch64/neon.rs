//! Four lanes of f32.

pub(in crate::arch) mod exp;

use std::arch::aarch64::*;

use half::{bf16, f16};

use crate::arch::lanes::{Lanes, Narrow, NarrowLanes, f32_from};
use crate::arch::{Bounds, Summary, generic};
use crate::row::Mask;

#[derive(Clone, Copy)]
struct Neon(float32x4_t);

/// Bit i in lane i.
#[inline(always)]
unsafe fn each() -> uint32x4_t {
    // SAFETY: NEON is present, and four words are read.
    unsafe { vld1q_u32([1, 2, 4, 8].as_ptr()) }
}

impl Lanes for Neon {
    const COUNT: usize = 4;
    type Value = f32;
    /// Zero in every lane, or not.
    type Flag = uint32x4_t;

    #[inline(always)]
    unsafe fn lowest() -> Self {
        // SAFETY: NEON is present, as for every function here.
        Neon(unsafe { vdupq_n_f32(f32::NEG_INFINITY) })
    }

    #[inline(always)]
    unsafe fn smallest_from(bound: f64) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vdupq_n_f32(f32_from(bound)) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vmaxq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn reduce_max(self) -> f32 {
        // SAFETY: as above.
        unsafe { vmaxvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn keep(self, bits: u64) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vbslq_f32(vtstq_u32(vdupq_n_u32(bits as u32), each()), self.0, Self::lowest().0) })
    }

    #[inline(always)]
    unsafe fn at_least(self, least: Self) -> u64 {
        // SAFETY: as above.
        u64::from(unsafe { vaddvq_u32(vandq_u32(vcgeq_f32(self.0, least.0), each())) })
    }

    #[inline(always)]
    unsafe fn flag() -> uint32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_u32(0) }
    }

    #[inline(always)]
    unsafe fn raise_if_nan(flag: uint32x4_t, a: Self, b: Self) -> uint32x4_t {
        // SAFETY: as above.
        unsafe {
            let numbers = vandq_u32(vceqq_f32(a.0, a.0), vceqq_f32(b.0, b.0));
            vorrq_u32(flag, vmvnq_u32(numbers))
        }
    }

    #[inline(always)]
    unsafe fn is_raised(flag: uint32x4_t) -> bool {
        // SAFETY: as above.
        unsafe { vmaxvq_u32(flag) != 0 }
    }
}

impl NarrowLanes for Neon {
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's, four scores can be read.
        Neon(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // The intrinsics for f16 are younger than the oldest compiler supported.
        // SAFETY: as above; arrays of floats may be read unaligned.
        unsafe {
            let scores = from.cast::<[f16; 4]>().read_unaligned().map(f32::from);
            Neon(vld1q_f32(scores.as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        unsafe {
            Neon(vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(
                from.cast(),
            )))))
        }
    }
}

/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "neon")]
pub(in crate::arch) unsafe fn block_maxima<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    maxima: &mut [f64],
) -> Summary {
    // SAFETY: passed on.
    unsafe { generic::block_maxima::<T, Neon>(scores, mask, maxima) }
}

/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "neon")]
pub(in crate::arch) unsafe fn collect_above<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    maxima: &[f64],
    bounds: Bounds,
    out: (&mut Vec<u32>, &mut Vec<f64>),
) -> bool {
    // SAFETY: passed on.
    unsafe { generic::collect_above::<T, Neon>(scores, mask, maxima, bounds, out) }
}
