//! Exponentials of scores, by one sequence of operations on every level: the same bits everywhere.
//!
//! With `y = 16 C x`, C = scale / ln 2, a token's term is `2^((y - 16M)/16)` for an integer M near the largest `C x`. `k = round(y)`
//! and `y - k` by fused multiply-adds, so that the one large product is never rounded and the difference is good whatever the
//! size of x (not so `(x - max) C`, whose difference rounds). What C itself loses in f32 is a relative 2^-25 of the distance
//! of two scores. `2^(k/16)` is a table of sixteen and an addition to the exponent. `2^(r/16)` for |r| <= 1/2 is `b (u^2 + d)`,
//! `u = r + 23`: with 23 close to 16 / ln 2 a square alone has nearly the right slope, 23 costs nothing as it is taken from k,
//! and b is in the table. So a term takes four multiplications; they bind where two units do them.
//!
//! Scores beyond 2^17 octaves are first shifted by the largest: those that matter then lie within a factor of two of
//! it, where differences are exact.

use super::lanes::{ExpLanes, f32_from};

/// Octaves below the largest term from which on terms are 0.
pub(super) const DEPTH: f64 = 110.0;

/// Steps of an octave.
pub(super) const STEPS: f64 = 16.0;

/// More octaves than this, and k would not fit.
const HIGHEST: f64 = (1 << 17) as f64;

/// `2^(r/16) = B (u^2 + D)`, `u = r + 23`, |r| <= 1/2, with a relative error below 7e-7: minimax, B = 0.000_941_845_79.
const D: f32 = 532.744_6;
const U: f32 = 23.0;

/// The bits of `B 2^(j/16)`, less j times 2^19: what adding `k << 19`, k = j modulo 16, puts there besides whole exponents.
const SIXTEENTHS: [u32; 16] = [
    0x3A76_E633,
    0x3A78_EA4A,
    0x3A76_9F6D,
    0x3A74_9540,
    0x3A72_CEA2,
    0x3A71_4E8F,
    0x3A70_1827,
    0x3A6F_2EAD,
    0x3A6E_9589,
    0x3A6E_5049,
    0x3A6E_62A5,
    0x3A6E_D07D,
    0x3A6F_9DDE,
    0x3A70_CF03,
    0x3A72_6857,
    0x3A74_6E77,
];

/// Adding this leaves an integer, rounded to even, in the low bits of an f32 (plus a multiple of 2^22).
const MAGIC: f32 = 12_582_912.0;

/// Terms `exp(scale x)`, up to a power of two that makes the largest one ordinary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Exponential {
    /// 16 C.
    octaves: f32,
    /// 16 M.
    pub(super) reference: f32,
    /// Taken from the scores first; 0 unless these are huge.
    shift: f32,
    /// Smaller scores have a term of 0.
    least: f32,
}

impl Exponential {
    /// For scores with the given maximum, which is finite; `None` if the scale is out of the ordinary.
    pub(crate) fn new(scale: f64, max: f64) -> Option<Self> {
        let octaves = octaves_of(scale)?;
        let depth = DEPTH * STEPS / f64::from(octaves);
        let least = f32_from(max - depth);
        let top = max * f64::from(octaves) / STEPS;
        let (reference, shift) = if top.abs() <= HIGHEST {
            ((STEPS * top.round()) as f32, 0.0)
        } else {
            (0.0, max as f32)
        };
        Some(Exponential {
            octaves,
            reference,
            shift,
            least,
        })
    }

    /// Whether the fused sweep, which cannot shift, computes such terms.
    pub(super) fn is_fused(&self) -> bool {
        self.shift == 0.0
    }

    /// The same terms, except that those of scores below `bound` are 0.
    pub(crate) fn from(self, bound: f64) -> Self {
        Exponential {
            least: self.least.max(f32_from(bound)),
            ..self
        }
    }

    /// The factor of the scores, as the terms have it.
    pub(crate) fn scale(&self) -> f64 {
        f64::from(self.octaves) / STEPS * std::f64::consts::LN_2
    }

    /// `ln term = scale x - offset`.
    pub(crate) fn offset(&self) -> f64 {
        f64::from(self.reference) / STEPS * std::f64::consts::LN_2 + self.scale() * f64::from(self.shift)
    }

    /// The factor from terms to exponentials of `scale (x - max)`, with the scale that the terms have: another one, however near, would
    /// be a factor off where scores are large.
    pub(crate) fn unit(&self, max: f64) -> f64 {
        crate::math::exp(self.offset() - self.scale() * max)
    }

    /// Any, where none is used.
    pub(super) const LEVEL: Exponential = Exponential {
        octaves: 1.0,
        reference: 0.0,
        shift: 0.0,
        least: f32::MIN,
    };
}

/// 16 C for a scale, if that is in the ordinary range.
pub(super) fn octaves_of(scale: f64) -> Option<f32> {
    let octaves = scale * std::f64::consts::LOG2_E;
    (1e-30..1e30).contains(&octaves).then_some((STEPS * octaves) as f32)
}

/// The multiple of sixteen nearest to the score times `octaves` (16 C), kept within what the terms can bear.
pub(super) fn reference_of(octaves: f32, score: f32) -> f32 {
    const LIMIT: f64 = STEPS * HIGHEST;
    let steps = f64::from(octaves) * f64::from(score);
    (STEPS * (steps.clamp(-LIMIT, LIMIT) / STEPS).round()) as f32
}

/// What the terms take in every lane, but for the reference.
#[derive(Clone, Copy)]
pub(super) struct Powers<L: ExpLanes> {
    octaves: L,
    d: L,
    table: L::Table,
}

/// A reference in every lane, in two forms.
#[derive(Clone, Copy)]
pub(super) struct Rounder<L> {
    /// Adding it rounds to an integer, less the reference: itself an integer from 2^23 to 2^24.
    magic: L,
    /// Taking it away again leaves that integer, less 23.
    back: L,
}

impl<L: ExpLanes> Powers<L> {
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    pub(super) unsafe fn new(octaves: f32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self::from_table(octaves, &SIXTEENTHS) }
    }

    /// The terms times a factor of at most 1, as long as they stay above 2^-115: it is in the table, and costs nothing.
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    pub(super) unsafe fn scaled(octaves: f32, factor: f64) -> Self {
        let mut words = SIXTEENTHS;
        for (word, j) in words.iter_mut().zip(0..) {
            let power = f32::from_bits(word.wrapping_add(j << 19));
            *word = ((f64::from(power) * factor) as f32).to_bits().wrapping_sub(j << 19);
        }
        // SAFETY: the caller's.
        unsafe { Self::from_table(octaves, &words) }
    }

    #[inline(always)]
    unsafe fn from_table(octaves: f32, words: &[u32; 16]) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Powers {
                octaves: L::splat(octaves),
                d: L::splat(D),
                table: L::table(words),
            }
        }
    }

    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    pub(super) unsafe fn rounder(reference: f32) -> Rounder<L> {
        let magic = MAGIC - reference;
        // SAFETY: the caller's.
        unsafe {
            Rounder {
                magic: L::splat(magic),
                back: L::splat(magic + U),
            }
        }
    }

    /// The terms of scores within 2^17 octaves, not more than 110 below the reference and 87 above; else anything.
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    pub(super) unsafe fn terms(&self, x: L, rounder: Rounder<L>) -> L {
        // SAFETY: the caller's.
        unsafe {
            let shifted = x.mul_add(self.octaves, rounder.magic);
            let u = x.mul_minus(self.octaves, shifted.minus(rounder.back));
            u.mul_add(u, self.d).times(shifted.sixteenths(self.table))
        }
    }
}

/// An [`Exponential`] in every lane.
#[derive(Clone, Copy)]
pub(super) struct Constants<L: ExpLanes> {
    powers: Powers<L>,
    rounder: Rounder<L>,
    shift: L,
    least: L,
}

impl<L: ExpLanes> Constants<L> {
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    pub(super) unsafe fn new(exponential: &Exponential) -> Self {
        // SAFETY: the caller's.
        unsafe { Self::with_powers(exponential, Powers::new(exponential.octaves)) }
    }

    /// The terms times a factor; see [`Powers::scaled`].
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    pub(super) unsafe fn scaled(exponential: &Exponential, factor: f64) -> Self {
        // SAFETY: the caller's.
        unsafe { Self::with_powers(exponential, Powers::scaled(exponential.octaves, factor)) }
    }

    #[inline(always)]
    unsafe fn with_powers(exponential: &Exponential, powers: Powers<L>) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Constants {
                powers,
                rounder: Powers::<L>::rounder(exponential.reference),
                shift: L::splat(exponential.shift),
                least: L::splat(exponential.least),
            }
        }
    }

    /// The terms of scores. Below `least`, -inf included, whatever came out is replaced.
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    pub(super) unsafe fn terms(&self, x: L) -> L {
        // SAFETY: the caller's.
        unsafe { self.terms_at(x, x.minus(self.shift)) }
    }

    /// The same where there is no shift.
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    pub(super) unsafe fn fused_terms(&self, x: L) -> L {
        // SAFETY: the caller's.
        unsafe { self.terms_at(x, x) }
    }

    #[inline(always)]
    unsafe fn terms_at(&self, x: L, shifted: L) -> L {
        // SAFETY: the caller's.
        unsafe { self.powers.terms(shifted, self.rounder).zero_below(x, self.least) }
    }
}
