//! What selections need of scores that were picked out of a row: their terms, and how many or how much reach a bound.

use super::Level;
use super::dispatch::{Kernel, narrow};
use super::exp::{Constants, Exponential};
use super::lanes::{ExpLanes, Narrow};
use super::sums::{Groups, LANES, SUM_BLOCK, folded};
use crate::row::{Mask, Scores};

/// Sets `terms` to the terms of the values, the bits that a row with these scores would have.
pub(crate) fn terms_of(level: Level, exponential: &Exponential, values: &[f32], terms: &mut Vec<f32>) {
    // All of it is overwritten.
    terms.resize(values.len(), 0.0);
    level.run(TermsOf {
        exponential,
        values,
        terms,
    });
}

/// The term of one value, the same bits.
pub(crate) fn term_of(exponential: &Exponential, value: f32) -> f32 {
    let mut term = [0.0];
    Level::SCALAR.run(TermsOf {
        exponential,
        values: &[value],
        terms: &mut term,
    });
    term[0]
}

/// Tokens of a block that [`sample_below`] takes.
const SAMPLE: usize = 32;

/// Sets `values` to the scores of half a group in each block, -inf where a token is forbidden or has a score of at least
/// `below`, or where the group has none. f64 rows have none.
pub(crate) fn sample_below(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    below: f64,
    values: &mut Vec<f32>,
) {
    // All of it is overwritten.
    values.resize(scores.len().div_ceil(SUM_BLOCK) * SAMPLE, 0.0);
    narrow!(level, scores, scores => SampleBelow { scores, mask, below, values }, _wide => {});
}

/// How many values are at least `least`.
pub(crate) fn count_from(level: Level, values: &[f32], least: f32) -> usize {
    level.run(CountFrom { values, least })
}

/// The sum of the terms of values that are at least `least`: it never falls as `least` does, rounding included.
pub(crate) fn mass_from(level: Level, values: &[f32], terms: &[f32], least: f32) -> f64 {
    level.run(MassFrom { values, terms, least })
}

struct TermsOf<'a> {
    exponential: &'a Exponential,
    values: &'a [f32],
    terms: &'a mut [f32],
}

impl Kernel for TermsOf<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // SAFETY: the caller's; chunks have COUNT values, and so do the buffers.
        unsafe {
            let constants = Constants::<L>::new(self.exponential);
            let mut values = self.values.chunks_exact(L::COUNT);
            let mut terms = self.terms.chunks_exact_mut(L::COUNT);
            for (values, terms) in values.by_ref().zip(terms.by_ref()) {
                constants.terms(L::load_f32(values.as_ptr())).store(terms.as_mut_ptr());
            }
            let (values, terms) = (values.remainder(), terms.into_remainder());
            let mut buffer = [f32::NEG_INFINITY; LANES];
            buffer[..values.len()].copy_from_slice(values);
            constants.terms(L::load_f32(buffer.as_ptr())).store(buffer.as_mut_ptr());
            terms.copy_from_slice(&buffer[..terms.len()]);
        }
    }
}

struct SampleBelow<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    below: f64,
    values: &'a mut [f32],
}

impl<T: Narrow> Kernel for SampleBelow<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // SAFETY: the caller's; the last load and the last store start at SAMPLE - COUNT.
        unsafe {
            let below = L::smallest_from(self.below);
            let groups = Groups::new(self.scores, self.mask);
            for (block, values) in self.values.as_chunks_mut::<SAMPLE>().0.iter_mut().enumerate() {
                let range = groups.of_block(block);
                // Another one in each block, in no simple order.
                let group = range.start + (block * 7 + block / 16 * 3) % range.len();
                let (scores, allowed) = groups.get(group);
                let mut lane = 0;
                while lane < SAMPLE {
                    let x = T::load_narrow::<L>(scores.as_ptr().add(lane));
                    let kept = allowed >> lane & !x.at_least(below);
                    x.keep(kept).store(values.as_mut_ptr().add(lane));
                    lane += L::COUNT;
                }
            }
        }
    }
}

struct CountFrom<'a> {
    values: &'a [f32],
    least: f32,
}

impl Kernel for CountFrom<'_> {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> usize {
        // SAFETY: the caller's; chunks have COUNT values.
        unsafe {
            let least = L::splat(self.least);
            let chunks = self.values.chunks_exact(L::COUNT);
            let rest = chunks.remainder().iter().filter(|&&x| x >= self.least).count();
            let mut count = 0;
            for values in chunks {
                count += L::load_f32(values.as_ptr()).at_least(least).count_ones() as usize;
            }
            count + rest
        }
    }
}

struct MassFrom<'a> {
    values: &'a [f32],
    terms: &'a [f32],
    least: f32,
}

impl Kernel for MassFrom<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> f64 {
        // SAFETY: the caller's; the last load starts at LANES - COUNT.
        unsafe {
            let least = L::splat(self.least);
            let mut total = 0.0;
            let blocks = self.values.chunks(SUM_BLOCK).zip(self.terms.chunks(SUM_BLOCK));
            for (values, terms) in blocks {
                // Four sums a lane, so that none waits for the one before.
                let mut sums = [[L::splat(0.0); LANES / 4]; 4];
                let (values, values_rest) = values.as_chunks::<LANES>();
                let (terms, terms_rest) = terms.as_chunks::<LANES>();
                let mut fours = values.chunks_exact(4).zip(terms.chunks_exact(4));
                for (values, terms) in fours.by_ref() {
                    add_from(&values[0], &terms[0], least, &mut sums[0]);
                    add_from(&values[1], &terms[1], least, &mut sums[1]);
                    add_from(&values[2], &terms[2], least, &mut sums[2]);
                    add_from(&values[3], &terms[3], least, &mut sums[3]);
                }
                let done = values.len() / 4 * 4;
                for (values, terms) in values[done..].iter().zip(&terms[done..]) {
                    add_from(values, terms, least, &mut sums[0]);
                }
                let (mut values, mut terms) = ([f32::NEG_INFINITY; LANES], [0.0; LANES]);
                values[..values_rest.len()].copy_from_slice(values_rest);
                terms[..terms_rest.len()].copy_from_slice(terms_rest);
                add_from(&values, &terms, least, &mut sums[0]);
                let mut column = 0;
                while column < LANES / L::COUNT {
                    let pairs = [
                        sums[0][column].plus(sums[1][column]),
                        sums[2][column].plus(sums[3][column]),
                    ];
                    sums[0][column] = pairs[0].plus(pairs[1]);
                    column += 1;
                }
                total += folded(&sums[0]);
            }
            total
        }
    }
}

/// Adds the terms of the values that are at least `least`, lane by lane.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
unsafe fn add_from<L: ExpLanes>(values: &[f32; LANES], terms: &[f32; LANES], least: L, sums: &mut [L; LANES / 4]) {
    // SAFETY: the last load starts at LANES - COUNT.
    unsafe {
        let mut lane = 0;
        while lane < LANES {
            let (x, e) = (
                L::load_f32(values.as_ptr().add(lane)),
                L::load_f32(terms.as_ptr().add(lane)),
            );
            let sum = &mut sums[lane / L::COUNT];
            *sum = sum.plus(e.zero_below(x, least));
            lane += L::COUNT;
        }
    }
}
