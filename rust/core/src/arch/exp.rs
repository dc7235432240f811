//! Exponentials of scores, summed: once for all instruction sets, like `generic`, and with the same bits on all of them.
//!
//! With `y = x C`, C = scale / ln 2, a token's term is `2^(y - m)` for an integer m near the largest y. `k = round(y)`, and
//! `r = (x C_high - k) + x C_low` by two fused multiply-adds, where C_high + C_low has 48 bits of C: the one product that is large
//! is never rounded, so r is exact to 2^-25 whatever the size of x (not so `(x - max) C`, whose difference rounds). 2^r is
//! a polynomial, and k - m is added to its exponent. No rounding depends on the lanes, and 64 virtual lanes fix the order
//! of the sums.

use super::lanes::{Element, NarrowLanes};
use super::{BLOCK, generic};
use crate::row::Mask;

/// Tokens of a sum.
pub(crate) const SUM_BLOCK: usize = 1024;

/// Octaves below the largest term from which on terms are 0.
const DEPTH: f64 = 120.0;

/// `2^r = 1 + r (P[0] + r (P[1] + ...))` for |r| <= 1/2, with a relative error below 9.4e-8: minimax among f32 coefficients.
const P: [f32; 5] = [LN_2_LESS, 0.240_222_47, 0.055_507_11, 0.009_671_291, 0.001_326_952_1];

/// ln 2, less three units in the last place.
const LN_2_LESS: f32 = f32::from_bits(0x3F31_7215);

/// Adding this leaves an integer, rounded to even, in the low bits of an f32 (plus a multiple of 2^22).
const MAGIC: f32 = 12_582_912.0;

/// Terms `exp(scale x)`, up to a power of two that makes the largest one ordinary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Exponential {
    /// C, in two parts.
    high: f32,
    low: f32,
    /// m.
    reference: f32,
    /// Smaller scores have a term of 0.
    least: f32,
}

impl Exponential {
    /// For scores with the given maximum; `None` if the numbers are out of the ordinary, such that r would be inexact.
    pub(crate) fn new(scale: f64, max: f64) -> Option<Self> {
        let octaves = scale * std::f64::consts::LOG2_E;
        let top = max * octaves;
        if !(1e-30..1e30).contains(&octaves) || top.abs() > f64::from(1 << 21) {
            return None;
        }
        let high = octaves as f32;
        Some(Exponential {
            high,
            low: (octaves - f64::from(high)) as f32,
            reference: top.round() as f32,
            least: super::lanes::f32_from(max - DEPTH / octaves),
        })
    }
}

/// What exponentials ask of lanes, besides. For safety see [`super::lanes::Lanes`].
pub(super) trait ExpLanes: NarrowLanes {
    unsafe fn splat(value: f32) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;

    /// `self * factor + term`, rounded once.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;

    /// `self * factor - term`, rounded once.
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self;

    /// Adds the low nine bits of each lane of `power`, read as integers, to the exponents of `self`; they wrap.
    unsafe fn add_exponent(self, power: Self) -> Self;

    /// +0 where `x < least` or NaN, `self` elsewhere.
    unsafe fn zero_below(self, x: Self, least: Self) -> Self;

    /// To an address that is valid for writes of `COUNT` values, however aligned.
    unsafe fn store(self, to: *mut f32);
}

/// An [`Exponential`] in every lane.
#[derive(Clone, Copy)]
struct Constants<L> {
    high: L,
    low: L,
    magic: L,
    least: L,
    one: L,
    p: [L; 5],
}

impl<L: ExpLanes> Constants<L> {
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn new(exponential: &Exponential) -> Self {
        // SAFETY: the caller's. The magic number less m is an integer from 2^23 to 2^24, hence exact.
        unsafe {
            Constants {
                high: L::splat(exponential.high),
                low: L::splat(exponential.low),
                magic: L::splat(MAGIC - exponential.reference),
                least: L::splat(exponential.least),
                one: L::splat(1.0),
                p: [
                    L::splat(P[0]),
                    L::splat(P[1]),
                    L::splat(P[2]),
                    L::splat(P[3]),
                    L::splat(P[4]),
                ],
            }
        }
    }

    /// The terms of scores. Below `least`, -inf included, whatever came out is replaced.
    ///
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn terms(&self, x: L) -> L {
        // SAFETY: the caller's.
        unsafe {
            let shifted = x.mul_add(self.high, self.magic);
            let k = shifted.minus(self.magic);
            let r = x.mul_add(self.low, x.mul_minus(self.high, k));
            let [a, b, c, d, e] = self.p;
            let p = e.mul_add(r, d).mul_add(r, c).mul_add(r, b).mul_add(r, a);
            p.mul_add(r, self.one).add_exponent(shifted).zero_below(x, self.least)
        }
    }
}

/// See [`super::block_sums`]; `sums` has one place a block.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn block_sums<T: Element<L>, L: ExpLanes>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    sums: &mut [f64],
) {
    // SAFETY: a group has BLOCK scores, a chunk or the padded buffer; `lanes` has room for BLOCK values.
    unsafe {
        let constants = Constants::<L>::new(exponential);
        let zero = L::splat(0.0);
        let (groups, rest) = scores.as_chunks::<BLOCK>();
        for (index, sum) in sums.iter_mut().enumerate() {
            // One for each COUNT virtual lanes; the first BLOCK / COUNT are used.
            let mut totals = [zero; BLOCK / 4];
            let start = index * (SUM_BLOCK / BLOCK);
            let stop = groups.len().min(start + SUM_BLOCK / BLOCK);
            for (group, scores) in groups.iter().enumerate().take(stop).skip(start) {
                add_group(scores.as_ptr(), generic::allowed(mask, group), &constants, &mut totals);
            }
            if stop < start + SUM_BLOCK / BLOCK && !rest.is_empty() {
                let allowed = generic::allowed(mask, groups.len()) & generic::first(rest.len());
                add_group(generic::padded(rest).as_ptr(), allowed, &constants, &mut totals);
            }
            let mut lanes = [0.0; BLOCK];
            let mut lane = 0;
            while lane < BLOCK {
                totals[lane / L::COUNT].store(lanes.as_mut_ptr().add(lane));
                lane += L::COUNT;
            }
            *sum = folded(&lanes);
        }
    }
}

/// Adds the terms of a group to the totals, lane by lane.
///
/// # Safety
///
/// The instruction set of `L` is present, and BLOCK scores can be read.
#[inline(always)]
unsafe fn add_group<T: Element<L>, L: ExpLanes>(
    scores: *const T,
    allowed: u64,
    constants: &Constants<L>,
    totals: &mut [L; BLOCK / 4],
) {
    // SAFETY: the last load starts at BLOCK - COUNT.
    unsafe {
        let mut lane = 0;
        if allowed == u64::MAX {
            // By itself, without a condition for each vector.
            while lane < BLOCK {
                let total = &mut totals[lane / L::COUNT];
                *total = total.plus(constants.terms(T::load(scores.add(lane))));
                lane += L::COUNT;
            }
            return;
        }
        while lane < BLOCK {
            let total = &mut totals[lane / L::COUNT];
            let x = T::load(scores.add(lane)).keep(allowed >> lane);
            *total = total.plus(constants.terms(x));
            lane += L::COUNT;
        }
    }
}

/// The sum of the lanes: halves onto each other, until one is left.
#[inline(always)]
fn folded(lanes: &[f32; BLOCK]) -> f64 {
    let mut wide = lanes.map(f64::from);
    let mut half = BLOCK / 2;
    while half > 0 {
        for i in 0..half {
            wide[i] += wide[i + half];
        }
        half /= 2;
    }
    wide[0]
}

/// See [`super::block_terms`].
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn block_terms<T: Element<L>, L: ExpLanes>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    block: usize,
    terms: &mut [f32; SUM_BLOCK],
) {
    // SAFETY: a group has BLOCK scores, a chunk or the padded buffer; a chunk of `terms` has room for BLOCK values.
    unsafe {
        let constants = Constants::<L>::new(exponential);
        let (groups, rest) = scores.as_chunks::<BLOCK>();
        for (offset, terms) in terms.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let group = block * (SUM_BLOCK / BLOCK) + offset;
            let padded = generic::padded(if group == groups.len() { rest } else { &[] });
            let (from, inside) = match groups.get(group) {
                Some(scores) => (scores.as_ptr(), u64::MAX),
                None if group == groups.len() => (padded.as_ptr(), generic::first(rest.len())),
                None => (padded.as_ptr(), 0),
            };
            let allowed = generic::allowed(mask, group) & inside;
            let mut lane = 0;
            while lane < BLOCK {
                let x = T::load(from.add(lane)).keep(allowed >> lane);
                constants.terms(x).store(terms.as_mut_ptr().add(lane));
                lane += L::COUNT;
            }
        }
    }
}

#[cfg(test)]
mod tests;
