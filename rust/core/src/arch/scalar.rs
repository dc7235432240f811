//! Lanes in plain Rust: arrays, which the compiler may vectorise with what the target guarantees.

pub(in crate::arch) mod exp;

use half::{bf16, f16};

use super::lanes::{Element, Lanes, Narrow, NarrowLanes, f32_from};
use super::{Bounds, Summary, generic};
use crate::row::Mask;

const COUNT: usize = 8;

#[derive(Clone, Copy)]
struct Array<F>([F; COUNT]);

/// What both widths have in common; no function has a condition on the machine.
macro_rules! lanes {
    ($float:ty, $smallest_from:expr) => {
        impl Lanes for Array<$float> {
            const COUNT: usize = COUNT;
            type Value = $float;
            type Flag = bool;

            #[inline(always)]
            unsafe fn lowest() -> Self {
                Array([<$float>::NEG_INFINITY; COUNT])
            }

            #[inline(always)]
            unsafe fn smallest_from(bound: f64) -> Self {
                Array([$smallest_from(bound); COUNT])
            }

            #[inline(always)]
            unsafe fn max(self, other: Self) -> Self {
                Array(std::array::from_fn(|i| match self.0[i] > other.0[i] {
                    true => self.0[i],
                    false => other.0[i],
                }))
            }

            #[inline(always)]
            unsafe fn reduce_max(self) -> $float {
                self.0
                    .into_iter()
                    .fold(<$float>::NEG_INFINITY, |best, x| if x > best { x } else { best })
            }

            #[inline(always)]
            unsafe fn keep(self, bits: u64) -> Self {
                Array(std::array::from_fn(|i| match bits >> i & 1 {
                    1 => self.0[i],
                    _ => <$float>::NEG_INFINITY,
                }))
            }

            #[inline(always)]
            unsafe fn at_least(self, least: Self) -> u64 {
                (0..COUNT).fold(0, |bits, i| bits | u64::from(self.0[i] >= least.0[i]) << i)
            }

            #[inline(always)]
            unsafe fn flag() -> bool {
                false
            }

            #[inline(always)]
            unsafe fn raise_if_nan(flag: bool, a: Self, b: Self) -> bool {
                (0..COUNT).fold(flag, |flag, i| flag | a.0[i].is_nan() | b.0[i].is_nan())
            }

            #[inline(always)]
            unsafe fn is_raised(flag: bool) -> bool {
                flag
            }
        }
    };
}

lanes!(f32, f32_from);
lanes!(f64, std::convert::identity);

impl NarrowLanes for Array<f32> {
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's; arrays of floats may be read unaligned.
        Array(unsafe { from.cast::<[f32; COUNT]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller's.
        Array(unsafe { from.cast::<[f16; COUNT]>().read_unaligned() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: the caller's.
        let scores = unsafe { from.cast::<[bf16; COUNT]>().read_unaligned() };
        Array(scores.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16)))
    }
}

impl Element<Array<f64>> for f64 {
    #[inline(always)]
    fn widen(self) -> f64 {
        self
    }

    #[inline(always)]
    unsafe fn load(from: *const f64) -> Array<f64> {
        // SAFETY: the caller's.
        Array(unsafe { from.cast::<[f64; COUNT]>().read_unaligned() })
    }
}

pub(super) fn block_maxima<T: Narrow>(scores: &[T], mask: Option<Mask<'_>>, maxima: &mut [f64]) -> Summary {
    // SAFETY: arrays need no instruction set.
    unsafe { generic::block_maxima::<T, Array<f32>>(scores, mask, maxima) }
}

pub(super) fn collect_above<T: Narrow>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    maxima: &[f64],
    bounds: Bounds,
    out: (&mut Vec<u32>, &mut Vec<f64>),
) -> bool {
    // SAFETY: arrays need no instruction set.
    unsafe { generic::collect_above::<T, Array<f32>>(scores, mask, maxima, bounds, out) }
}

/// For f64 rows, at every level.
pub(super) fn wide_block_maxima(scores: &[f64], mask: Option<Mask<'_>>, maxima: &mut [f64]) -> Summary {
    // SAFETY: arrays need no instruction set.
    unsafe { generic::block_maxima::<f64, Array<f64>>(scores, mask, maxima) }
}

/// For f64 rows, at every level.
pub(super) fn wide_collect_above(
    scores: &[f64],
    mask: Option<Mask<'_>>,
    maxima: &[f64],
    bounds: Bounds,
    out: (&mut Vec<u32>, &mut Vec<f64>),
) -> bool {
    // SAFETY: arrays need no instruction set.
    unsafe { generic::collect_above::<f64, Array<f64>>(scores, mask, maxima, bounds, out) }
}
