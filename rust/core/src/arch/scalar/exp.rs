//! Exponentials.

use super::{Array, COUNT};
use crate::arch::exp::{self, ExpLanes, Exponential, SUM_BLOCK};
use crate::arch::lanes::Narrow;
use crate::row::Mask;

/// `a * b + c`, rounded once. Without an instruction for it, the product is exact in f64 and the sum nearly so: rounding
/// it again goes wrong only where it lies halfway between two f32, or below their normal range.
#[inline(always)]
pub(in crate::arch) fn fused(a: f32, b: f32, c: f32) -> f32 {
    const INSTRUCTION: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    let sum = f64::from(a) * f64::from(b) + f64::from(c);
    if INSTRUCTION || sum.to_bits() & 0x1FFF_FFFF == 0x1000_0000 || sum.abs() < f64::from(f32::MIN_POSITIVE) {
        a.mul_add(b, c)
    } else {
        sum as f32
    }
}

impl ExpLanes for Array<f32> {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Array([value; COUNT])
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i] - other.0[i]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        Array(std::array::from_fn(|i| fused(self.0[i], factor.0[i], term.0[i])))
    }

    #[inline(always)]
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self {
        Array(std::array::from_fn(|i| fused(self.0[i], factor.0[i], -term.0[i])))
    }

    #[inline(always)]
    unsafe fn add_exponent(self, power: Self) -> Self {
        let add = |x: f32, power: f32| f32::from_bits(x.to_bits().wrapping_add(power.to_bits() << 23));
        Array(std::array::from_fn(|i| add(self.0[i], power.0[i])))
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, least: Self) -> Self {
        Array(std::array::from_fn(|i| match x.0[i] >= least.0[i] {
            true => self.0[i],
            false => 0.0,
        }))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's; arrays of floats may be written unaligned.
        unsafe { to.cast::<[f32; COUNT]>().write_unaligned(self.0) }
    }
}

pub(in crate::arch) fn block_sums<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    sums: &mut [f64],
) {
    // SAFETY: arrays need no instruction set.
    unsafe { exp::block_sums::<T, Array<f32>>(scores, mask, exponential, sums) }
}

pub(in crate::arch) fn block_terms<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    block: usize,
    terms: &mut [f32; SUM_BLOCK],
) {
    // SAFETY: arrays need no instruction set.
    unsafe { exp::block_terms::<T, Array<f32>>(scores, mask, exponential, block, terms) }
}
