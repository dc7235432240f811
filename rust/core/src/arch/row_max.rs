//! The floor of every benchmark: the largest score of a row, and no more. What it costs is the cost of reading the row.
//!
//! Plain Rust that the compiler vectorises for each instruction set; nothing else in the crate calls it.

use half::slice::HalfFloatSliceExt;

use super::{Isa, Level};
use crate::row::Scores;

/// Scores of a round: enough independent maxima to hide the latency of each.
const ROUND: usize = 64;

/// Bytes that the prefetch runs ahead.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// The largest score of a row, -inf of an empty one; means nothing if there is a NaN.
pub fn row_max(level: Level, scores: Scores<'_>) -> f64 {
    match scores {
        Scores::F64(x) => largest_at(level, x, f64::NEG_INFINITY, |x| x),
        Scores::F32(x) => f64::from(largest_at(level, x, f32::NEG_INFINITY, |x| x)),
        Scores::F16([]) => f64::NEG_INFINITY,
        Scores::Bf16([]) => f64::NEG_INFINITY,
        Scores::F16(x) => half::f16::from_bits(largest_half(level, x.reinterpret_cast())).to_f64(),
        Scores::Bf16(x) => half::bf16::from_bits(largest_half(level, x.reinterpret_cast())).to_f64(),
    }
}

/// The bits of the largest float of 16 bits, of either format.
fn largest_half(level: Level, bits: &[u16]) -> u16 {
    in_order(largest_at(level, bits, i16::MIN, |bits| in_order(bits as i16))) as u16
}

/// The bits of a float, changed so that they are ordered as integers; its own inverse.
#[inline(always)]
fn in_order(bits: i16) -> i16 {
    bits ^ (bits >> 15 & i16::MAX)
}

fn largest_at<T: Copy, K: Copy + PartialOrd>(level: Level, scores: &[T], lowest: K, key: impl Fn(T) -> K) -> K {
    match level.0 {
        Isa::Scalar => largest(scores, lowest, key),
        // SAFETY: a `Level` is made only where its instruction set was detected.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(scores, lowest, key) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(scores, lowest, key) },
        // Part of every 64-bit Arm, so that there is nothing to enable.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => largest(scores, lowest, key),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<T: Copy, K: Copy + PartialOrd>(scores: &[T], lowest: K, key: impl Fn(T) -> K) -> K {
    largest(scores, lowest, key)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512<T: Copy, K: Copy + PartialOrd>(scores: &[T], lowest: K, key: impl Fn(T) -> K) -> K {
    largest(scores, lowest, key)
}

#[inline(always)]
fn largest<T: Copy, K: Copy + PartialOrd>(scores: &[T], lowest: K, key: impl Fn(T) -> K) -> K {
    let larger = |a: K, b: K| if b > a { b } else { a };
    let mut best = [lowest; ROUND];
    let (rounds, rest) = scores.as_chunks::<ROUND>();
    for round in rounds {
        #[cfg(target_arch = "x86_64")]
        for line in 0..size_of_val(round) / 64 {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let address = round.as_ptr().cast::<i8>().wrapping_add(AHEAD + 64 * line);
            // SAFETY: a hint; no address faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
        }
        for (best, &x) in best.iter_mut().zip(round) {
            *best = larger(*best, key(x));
        }
    }
    let best = best.into_iter().fold(lowest, larger);
    rest.iter().fold(best, |best, &x| larger(best, key(x)))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn it_is_the_largest_score_of_any_length_width_and_level() {
        for length in [0, 1, 63, 64, 65, 1000] {
            for sign in [-1.0, 1.0] {
                // Halves and small integers: exact in every width.
                let x: Vec<f64> = (0..length).map(|i| sign * (0.5 + f64::from(i * 37 % 101))).collect();
                let expected = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
                let half: Vec<f16> = x.iter().map(|&x| f16::from_f64(x)).collect();
                let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
                let rows = [
                    Scores::F64(&x),
                    Scores::F32(&single),
                    Scores::F16(&half),
                    Scores::Bf16(&brain),
                ];
                for level in Level::available() {
                    for row in rows {
                        assert_eq!(row_max(level, row), expected, "{} {row:?}", level.name());
                    }
                }
            }
        }
    }

    #[test]
    fn infinities_have_their_place() {
        let row = [f16::NEG_INFINITY, f16::ZERO, f16::INFINITY].map(|x| [x; 70]).concat();
        assert_eq!(row_max(Level::best(), Scores::F16(&row)), f64::INFINITY);
        assert_eq!(row_max(Level::best(), Scores::F16(&row[..70])), f64::NEG_INFINITY);
        assert_eq!(row_max(Level::best(), Scores::F16(&row[..140])), 0.0);
    }
}
