//! Sums of exponentials over blocks, fused with the largest scores into one read of the row.
//!
//! Within a group of 64 tokens, lane i of sixteen takes one of each part (see `Narrow`), in pairs; a block adds its 16
//! groups lane by lane and folds the lanes in f64. That order is the same whatever the width of a register.

use super::dispatch::{Kernel, narrow};
use super::exp::{Constants, DEPTH, Exponential, Powers, Rounder, STEPS, octaves_of, reference_of};
use super::lanes::{ExpLanes, Narrow};
use super::maxima::{allowed, block_maxima, first, padded, prefetch};
use super::{BLOCK, Level, Summary};
use crate::row::{Mask, Scores};

/// Tokens of a sum.
pub(crate) const SUM_BLOCK: usize = 1024;

/// Groups of 64 tokens in a block.
const GROUPS: usize = SUM_BLOCK / BLOCK;

/// Lanes of the fixed order.
pub(crate) const LANES: usize = 16;

/// What the fused sweep leaves of a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    /// The largest allowed scores of each group of 64 tokens, lane by lane: four tokens each.
    pub(crate) maxima: Vec<f32>,
    /// The same for each block of 1024 tokens.
    pub(crate) tops: Vec<f32>,
    /// The sum of the terms of every block.
    pub(crate) sums: Vec<f64>,
    references: Vec<f32>,
}

/// Reads the row once and fills `out`; f64 rows have no such sweep. Sums are those of the exponential returned; a token 110
/// octaves below the best, or forbidden, adds at most 2^-109 of the best one's term. There is no exponential if the scale is
/// out of the ordinary, or if the row has no largest score that is finite; the summary says.
pub(crate) fn sweep(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    scale: f64,
    out: &mut Sweep,
) -> Option<(Summary, Option<Exponential>)> {
    let octaves = octaves_of(scale)?;
    // All of it is overwritten.
    let blocks = scores.len().div_ceil(SUM_BLOCK);
    out.maxima.resize(scores.len().div_ceil(BLOCK) * LANES, 0.0);
    out.tops.resize(blocks * LANES, 0.0);
    out.sums.resize(blocks, 0.0);
    out.references.resize(blocks, 0.0);
    let max = narrow!(level, scores, scores => Fused { scores, mask, octaves, out }, _wide => return None);
    let summary = match max {
        Some(max) => Summary { max, nan: false },
        // A score is no number, or infinite, or so large that its term is.
        None => block_maxima(level, scores, mask, &mut Vec::new()),
    };
    let exponential = match summary.check() {
        Ok(()) => Exponential::new(scale, summary.max),
        Err(_) => None,
    };
    match exponential {
        Some(exponential) if exponential.is_fused() => {
            for (sum, reference) in out.sums.iter_mut().zip(&out.references) {
                // At most 0: a running maximum is none above the maximum.
                let octaves = (reference - exponential.reference) / STEPS as f32;
                *sum *= power_of_two(octaves as i32);
            }
        }
        Some(exponential) => block_sums(level, scores, mask, &exponential, &mut out.sums),
        None => {}
    }
    Some((summary, exponential))
}

/// Sets `sums` to the sum of the terms of every 1024 tokens, forbidden ones being 0. Each token's term has a relative
/// error of at most 2e-7, each sum one of 1e-6 more. f64 rows have none.
pub(crate) fn block_sums(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    sums: &mut Vec<f64>,
) {
    // All of it is overwritten.
    sums.resize(scores.len().div_ceil(SUM_BLOCK), 0.0);
    narrow!(level, scores, scores => BlockSums { scores, mask, exponential, sums }, _wide => {});
}

/// The terms of the tokens of one block, 0 past the end of the row: those that [`block_sums`] adds up, bit for bit. There is
/// room for whole groups of 64. f64 rows have none.
pub(crate) fn block_terms(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    block: usize,
    terms: &mut [f32],
) {
    narrow!(level, scores, scores => BlockTerms { scores, mask, exponential, block, terms }, _wide => {});
}

/// `2^n`, 0 below the range of floats, for n <= 0.
fn power_of_two(n: i32) -> f64 {
    if n < -1000 {
        0.0
    } else {
        f64::from_bits(((1023 + n) as u64) << 52)
    }
}

/// The scores of a row by groups of 64, the last of them filled up.
pub(super) struct Groups<'a, T> {
    whole: &'a [[T; BLOCK]],
    last: [T; BLOCK],
    rest: usize,
    mask: Option<Mask<'a>>,
}

impl<'a, T: Copy + Default> Groups<'a, T> {
    #[inline(always)]
    pub(super) fn new(scores: &'a [T], mask: Option<Mask<'a>>) -> Self {
        let (whole, rest) = scores.as_chunks::<BLOCK>();
        Groups {
            whole,
            last: padded(rest),
            rest: rest.len(),
            mask,
        }
    }

    #[inline(always)]
    fn count(&self) -> usize {
        self.whole.len() + usize::from(self.rest > 0)
    }

    /// How many blocks there are.
    #[inline(always)]
    pub(super) fn blocks(&self) -> usize {
        self.count().div_ceil(GROUPS)
    }

    /// The groups of a block.
    #[inline(always)]
    pub(super) fn of_block(&self, block: usize) -> std::ops::Range<usize> {
        block * GROUPS..self.count().min((block + 1) * GROUPS)
    }

    /// The scores of several groups, if all of them are whole and nothing is masked.
    #[inline(always)]
    pub(super) fn plain(&self, range: std::ops::Range<usize>) -> Option<&[[T; BLOCK]]> {
        self.whole.get(range).filter(|_| self.mask.is_none())
    }

    /// The scores of a group, and which of them are allowed.
    #[inline(always)]
    pub(super) fn get(&self, group: usize) -> (&[T; BLOCK], u64) {
        match self.whole.get(group) {
            Some(scores) => (scores, allowed(self.mask, group)),
            None => (&self.last, allowed(self.mask, group) & first(self.rest)),
        }
    }
}

struct Fused<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    octaves: f32,
    out: &'a mut Sweep,
}

impl<T: Narrow> Kernel for Fused<'_, T> {
    /// The largest score, if every sum is a number.
    type Output = Option<f64>;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> Option<f64> {
        // SAFETY: the caller's; a group has room for LANES maxima, and so has a block.
        unsafe {
            let groups = Groups::new(self.scores, self.mask);
            let powers = Powers::<L>::new(self.octaves);
            let (mut max, mut number, mut current) = (f32::NEG_INFINITY, true, 0.0);
            let Sweep {
                maxima,
                tops,
                sums,
                references,
            } = self.out;
            let blocks = tops.as_chunks_mut::<LANES>().0.iter_mut().zip(sums).zip(references);
            for (block, ((tops, sum), reference)) in blocks.enumerate() {
                let range = groups.of_block(block);
                let maxima = &mut maxima[range.start * LANES..range.end * LANES];
                let mut pass = Pass {
                    powers,
                    octaves: self.octaves,
                    groups: &groups,
                    range,
                    maxima,
                };
                if max == f32::NEG_INFINITY {
                    // Nothing yet to refer to: look before.
                    current = reference_of(self.octaves, pass.largest());
                }
                // Kept as long as it serves: blocks need not wait for each other's maximum.
                let (mut top, mut total) = pass.run(current, tops);
                if f64::from(top) * f64::from(self.octaves) > f64::from(current) + MARGIN {
                    current = reference_of(self.octaves, top);
                    (top, total) = pass.run(current, tops);
                }
                *reference = current;
                *sum = total;
                number &= total.is_finite();
                max = if top > max { top } else { max };
            }
            number.then_some(f64::from(max))
        }
    }
}

/// How far above its reference a block may reach, in steps.
const MARGIN: f64 = 40.0 * STEPS;

/// How far below it lower scores are raised to, in steps.
const FLOOR: f32 = (DEPTH * STEPS) as f32;

/// One block of the fused sweep.
struct Pass<'a, T, L: ExpLanes> {
    powers: Powers<L>,
    octaves: f32,
    groups: &'a Groups<'a, T>,
    range: std::ops::Range<usize>,
    maxima: &'a mut [f32],
}

impl<T: Narrow, L: ExpLanes> Pass<'_, T, L> {
    /// The largest allowed score; if one is NaN, anything.
    ///
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn largest(&self) -> f32 {
        // SAFETY: the last load starts at BLOCK - COUNT.
        unsafe {
            let mut best = L::lowest();
            for group in self.range.clone() {
                let (scores, allowed) = self.groups.get(group);
                let mut start = 0;
                while start < BLOCK {
                    let x = T::load_narrow::<L>(scores.as_ptr().add(start));
                    best = best.max(x.keep(allowed >> start));
                    start += L::COUNT;
                }
            }
            best.reduce_max()
        }
    }

    /// Leaves maxima and returns the largest score and the sum of the terms, which is no number if a score is none.
    ///
    /// # Safety
    ///
    /// As for `largest`.
    #[inline(always)]
    unsafe fn run(&mut self, reference: f32, tops: &mut [f32; LANES]) -> (f32, f64) {
        let least = (reference - FLOOR) / self.octaves;
        // SAFETY: the caller's.
        unsafe {
            // As a rule nothing is so low that it must be raised, which costs as much as a multiplication: look afterwards.
            // The bits of scores below zero grow as they fall.
            if let (Some(groups), true) = (self.groups.plain(self.range.clone()), least < 0.0) {
                let mut totals = Totals::<L>::new(self.powers, reference, least);
                let maxima = self.maxima.as_chunks_mut::<LANES>().0;
                for (scores, maxima) in groups.iter().zip(maxima) {
                    totals.add::<T, false>(scores, u64::MAX, maxima);
                }
                if !totals.lowest.has_larger_bits(least.to_bits()) {
                    return totals.finish(tops);
                }
            }
            let mut totals = Totals::<L>::new(self.powers, reference, least);
            let maxima = self.maxima.as_chunks_mut::<LANES>().0;
            for (group, maxima) in self.range.clone().zip(maxima) {
                let (scores, allowed) = self.groups.get(group);
                totals.add::<T, true>(scores, allowed, maxima);
            }
            totals.finish(tops)
        }
    }
}

/// Running totals of one block of the fused sweep, lane by lane; the first `LANES / COUNT` are used.
struct Totals<L: ExpLanes> {
    powers: Powers<L>,
    rounder: Rounder<L>,
    least: L,
    sums: [L; LANES / 4],
    best: [L; LANES / 4],
    /// Of the bits of the lowest score.
    lowest: L,
}

impl<L: ExpLanes> Totals<L> {
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn new(powers: Powers<L>, reference: f32, least: f32) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Totals {
                powers,
                rounder: Powers::<L>::rounder(reference),
                least: L::splat(least),
                sums: [L::splat(0.0); LANES / 4],
                best: [L::lowest(); LANES / 4],
                lowest: L::splat(0.0),
            }
        }
    }

    /// Adds a group; where `RAISED`, scores below the least are raised to it.
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    unsafe fn add<T: Narrow, const RAISED: bool>(
        &mut self,
        scores: &[T; BLOCK],
        allowed: u64,
        maxima: &mut [f32; LANES],
    ) {
        // SAFETY: the last load starts at BLOCK - COUNT, the last store at LANES - COUNT.
        unsafe {
            prefetch::<T, L>(scores);
            let mut lane = 0;
            while lane < LANES {
                let mut x = load_lanes::<T, L>(scores, lane, allowed);
                let top = x[0].max(x[1]).max(x[2].max(x[3]));
                top.store(maxima.as_mut_ptr().add(lane));
                let column = lane / L::COUNT;
                self.best[column] = self.best[column].max(top);
                if RAISED {
                    // In this order, what is no number stays none.
                    x = [
                        self.least.max(x[0]),
                        self.least.max(x[1]),
                        self.least.max(x[2]),
                        self.least.max(x[3]),
                    ];
                } else {
                    let pairs = [x[0].larger_bits(x[1]), x[2].larger_bits(x[3])];
                    self.lowest = self.lowest.larger_bits(pairs[0].larger_bits(pairs[1]));
                }
                let e = [
                    self.powers.terms(x[0], self.rounder),
                    self.powers.terms(x[1], self.rounder),
                    self.powers.terms(x[2], self.rounder),
                    self.powers.terms(x[3], self.rounder),
                ];
                self.sums[column] = self.sums[column].plus(e[0].plus(e[1]).plus(e[2].plus(e[3])));
                lane += L::COUNT;
            }
        }
    }

    /// Leaves the largest scores, lane by lane; the largest of them, and the sum.
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    unsafe fn finish(&self, tops: &mut [f32; LANES]) -> (f32, f64) {
        // SAFETY: the last store starts at LANES - COUNT.
        unsafe {
            let (mut lane, mut top) = (0, self.best[0]);
            while lane < LANES {
                self.best[lane / L::COUNT].store(tops.as_mut_ptr().add(lane));
                top = top.max(self.best[lane / L::COUNT]);
                lane += L::COUNT;
            }
            (top.reduce_max(), folded(&self.sums))
        }
    }
}

/// The allowed scores of the four parts of a group, from a lane on; -inf for the others.
///
/// # Safety
///
/// The instruction set of `L` is present, and `lane` is at most LANES - COUNT.
#[inline(always)]
pub(super) unsafe fn load_lanes<T: Narrow, L: ExpLanes>(scores: &[T; BLOCK], lane: usize, allowed: u64) -> [L; 4] {
    // SAFETY: the caller's.
    unsafe {
        let x = T::load_parts::<L>(scores.as_ptr(), lane);
        if allowed == u64::MAX {
            return x;
        }
        let bits = T::parts(allowed);
        [
            x[0].keep(bits[0] >> lane),
            x[1].keep(bits[1] >> lane),
            x[2].keep(bits[2] >> lane),
            x[3].keep(bits[3] >> lane),
        ]
    }
}

/// The sum of sixteen lanes: halves onto each other, until one is left.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn folded<L: ExpLanes>(totals: &[L; LANES / 4]) -> f64 {
    let mut lanes = [0.0_f32; LANES];
    let mut lane = 0;
    while lane < LANES {
        // SAFETY: the last store starts at LANES - COUNT.
        unsafe { totals[lane / L::COUNT].store(lanes.as_mut_ptr().add(lane)) };
        lane += L::COUNT;
    }
    let mut wide = lanes.map(f64::from);
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            wide[i] += wide[i + half];
        }
        half /= 2;
    }
    wide[0]
}

struct BlockSums<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    exponential: &'a Exponential,
    sums: &'a mut [f64],
}

impl<T: Narrow> Kernel for BlockSums<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // SAFETY: the caller's; the last load starts at BLOCK - COUNT.
        unsafe {
            let constants = Constants::<L>::new(self.exponential);
            let groups = Groups::new(self.scores, self.mask);
            for (block, sum) in self.sums.iter_mut().enumerate() {
                let mut totals = [L::splat(0.0); LANES / 4];
                match groups.plain(groups.of_block(block)) {
                    Some(groups) => {
                        for scores in groups {
                            add_terms(scores, u64::MAX, &constants, &mut totals);
                        }
                    }
                    None => {
                        for group in groups.of_block(block) {
                            let (scores, allowed) = groups.get(group);
                            add_terms(scores, allowed, &constants, &mut totals);
                        }
                    }
                }
                *sum = folded(&totals);
            }
        }
    }
}

/// Adds the terms of a group to the totals, lane by lane.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
unsafe fn add_terms<T: Narrow, L: ExpLanes>(
    scores: &[T; BLOCK],
    allowed: u64,
    constants: &Constants<L>,
    totals: &mut [L; LANES / 4],
) {
    // SAFETY: the last lane is LANES - COUNT.
    unsafe {
        prefetch::<T, L>(scores);
        let mut lane = 0;
        while lane < LANES {
            let [a, b, c, d] = load_lanes::<T, L>(scores, lane, allowed);
            let e = [
                constants.terms(a),
                constants.terms(b),
                constants.terms(c),
                constants.terms(d),
            ];
            let total = &mut totals[lane / L::COUNT];
            *total = total.plus(e[0].plus(e[1]).plus(e[2].plus(e[3])));
            lane += L::COUNT;
        }
    }
}

struct BlockTerms<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    exponential: &'a Exponential,
    block: usize,
    terms: &'a mut [f32],
}

impl<T: Narrow> Kernel for BlockTerms<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // SAFETY: the caller's; the last load and the last store start at BLOCK - COUNT.
        unsafe {
            let constants = Constants::<L>::new(self.exponential);
            let groups = Groups::new(self.scores, self.mask);
            let range = groups.of_block(self.block);
            let (here, behind) = self.terms.split_at_mut(range.len() * BLOCK);
            for (group, terms) in range.zip(here.as_chunks_mut::<BLOCK>().0) {
                let (scores, allowed) = groups.get(group);
                let mut lane = 0;
                while lane < BLOCK {
                    let x = T::load_narrow::<L>(scores.as_ptr().add(lane)).keep(allowed >> lane);
                    constants.terms(x).store(terms.as_mut_ptr().add(lane));
                    lane += L::COUNT;
                }
            }
            behind.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests;
