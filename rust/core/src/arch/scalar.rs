//! Lanes in plain Rust: arrays, which the compiler may vectorise with what the target guarantees.

use half::{bf16, f16};

use super::dispatch::Kernel;
use super::lanes::{Element, ExpLanes, Lanes, NarrowLanes, f32_from};
use super::{Bounds, Summary, maxima};
use crate::row::Mask;

const COUNT: usize = 8;

#[derive(Clone, Copy)]
pub(super) struct Array<F>([F; COUNT]);

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

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> [Self; 2] {
        // SAFETY: the caller's, sixteen scores.
        let scores = unsafe { from.cast::<[bf16; 2 * COUNT]>().read_unaligned() };
        let place = |i: usize| f32::from_bits(u32::from(scores[i].to_bits()) << 16);
        [
            Array(std::array::from_fn(|i| place(2 * i))),
            Array(std::array::from_fn(|i| place(2 * i + 1))),
        ]
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
    type Table = [u32; 16];

    #[inline(always)]
    unsafe fn table(words: &[u32; 16]) -> [u32; 16] {
        *words
    }

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
    unsafe fn times(self, other: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i] * other.0[i]))
    }

    #[inline(always)]
    unsafe fn over(self, other: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i] / other.0[i]))
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
    unsafe fn sixteenths(self, table: [u32; 16]) -> Self {
        let power = |x: f32| table[(x.to_bits() & 15) as usize].wrapping_add(x.to_bits() << 19);
        Array(std::array::from_fn(|i| f32::from_bits(power(self.0[i]))))
    }

    #[inline(always)]
    unsafe fn larger_bits(self, other: Self) -> Self {
        Array(std::array::from_fn(|i| {
            match self.0[i].to_bits() > other.0[i].to_bits() {
                true => self.0[i],
                false => other.0[i],
            }
        }))
    }

    #[inline(always)]
    unsafe fn has_larger_bits(self, least: u32) -> bool {
        self.0.iter().any(|x| x.to_bits() > least)
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

    #[inline(always)]
    unsafe fn compress(self, bits: u64, to: *mut f32) {
        let mut count = 0;
        for (i, x) in self.0.into_iter().enumerate() {
            // SAFETY: the caller's; the count is at most that of the lanes before.
            unsafe { to.add(count).write(x) };
            count += (bits >> i & 1) as usize;
        }
    }
}

/// The entry point of this level.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: arrays need no instruction set.
    unsafe { kernel.run::<Array<f32>>() }
}

/// For f64 rows, at every level.
pub(super) fn wide_block_maxima(scores: &[f64], mask: Option<Mask<'_>>, block_maxima: &mut [f64]) -> Summary {
    // SAFETY: arrays need no instruction set.
    unsafe { maxima::read_maxima::<f64, Array<f64>>(scores, mask, block_maxima) }
}

/// For f64 rows, at every level.
pub(super) fn wide_collect_above(
    scores: &[f64],
    mask: Option<Mask<'_>>,
    block_maxima: &[f64],
    bounds: Bounds,
    out: (&mut Vec<u32>, &mut Vec<f64>),
) {
    // SAFETY: arrays need no instruction set.
    unsafe { maxima::collect::<f64, Array<f64>>(scores, mask, block_maxima, bounds, out) }
}
