//! Sums of exponentials over blocks.
//!
//! Within a group of 64 tokens, lane i of sixteen takes one of each part (see `Narrow`), in pairs; a block adds its 16
//! groups lane by lane and folds the lanes in f64. That order is the same whatever the width of a register.

use super::dispatch::{Kernel, narrow};
use super::exp::{Constants, Exponential};
use super::lanes::{ExpLanes, Narrow};
use super::maxima::{allowed, first, padded, prefetch};
use super::{BLOCK, Level};
use crate::row::{Mask, Scores};

/// Tokens of a sum.
pub(crate) const SUM_BLOCK: usize = 1024;

/// Groups of 64 tokens in a block.
const GROUPS: usize = SUM_BLOCK / BLOCK;

/// Lanes of the fixed order.
pub(crate) const LANES: usize = 16;

/// Sets `sums` to the sum of the terms of every 1024 tokens, forbidden ones being 0. Each token's term has a relative
/// error of at most 9e-7, each sum one of 1e-6 more. f64 rows have none.
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

    /// How many there are.
    #[inline(always)]
    pub(super) fn count(&self) -> usize {
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
                *sum = block_sum(&groups, block, &constants);
            }
        }
    }
}

/// The sum of the terms of a block.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn block_sum<T: Narrow, L: ExpLanes>(
    groups: &Groups<'_, T>,
    block: usize,
    constants: &Constants<L>,
) -> f64 {
    // SAFETY: the caller's.
    unsafe {
        let mut totals = [L::splat(0.0); LANES / 4];
        match groups.plain(groups.of_block(block)) {
            Some(groups) => {
                for scores in groups {
                    add_terms(scores, u64::MAX, constants, &mut totals);
                }
            }
            None => {
                for group in groups.of_block(block) {
                    let (scores, allowed) = groups.get(group);
                    add_terms(scores, allowed, constants, &mut totals);
                }
            }
        }
        folded(&totals)
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
