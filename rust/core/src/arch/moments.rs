//! Moments of the scores of a row, plain or under the terms of an exponential.

use super::dispatch::{Kernel, narrow};
use super::exp::{Constants, Exponential};
use super::lanes::{ExpLanes, Narrow};
use super::maxima::prefetch;
use super::sums::{Groups, LANES, folded, load_lanes};
use super::{BLOCK, Level};
use crate::row::{Mask, Scores};

/// Sums over the allowed tokens with a finite score x: of w, of `w d` and of `w d^2`, where `d = x - center` and w is 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub(crate) weight: f64,
    pub(crate) first: f64,
    pub(crate) second: f64,
}

/// The moments of a row around `center`; with an exponential, w is the term of a token. Lanes are f32, blocks f64: the
/// relative error is about 1e-6 at most, much less as a rule. f64 rows have none.
pub(crate) fn moments(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    exponential: Option<&Exponential>,
    center: f32,
) -> Moments {
    match exponential {
        Some(exponential) => {
            narrow!(level, scores, scores => Sums::<_, true> { scores, mask, exponential, center }, _wide => Moments::default())
        }
        None => {
            let exponential = &Exponential::LEVEL;
            narrow!(level, scores, scores => Sums::<_, false> { scores, mask, exponential, center }, _wide => Moments::default())
        }
    }
}

struct Sums<'a, T, const WEIGHTED: bool> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    exponential: &'a Exponential,
    center: f32,
}

impl<T: Narrow, const WEIGHTED: bool> Kernel for Sums<'_, T, WEIGHTED> {
    type Output = Moments;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> Moments {
        // SAFETY: the caller's.
        unsafe {
            let groups = Groups::new(self.scores, self.mask);
            let lanes = Weights::<L> {
                constants: Constants::new(self.exponential),
                center: L::splat(self.center),
                one: L::splat(1.0),
                lowest: L::splat(f32::MIN),
            };
            let mut moments = Moments::default();
            for block in 0..groups.blocks() {
                let mut sums = [[L::splat(0.0); LANES / 4]; 3];
                for group in groups.of_block(block) {
                    let (scores, allowed) = groups.get(group);
                    lanes.add::<T, WEIGHTED>(scores, allowed, &mut sums);
                }
                moments.weight += folded(&sums[0]);
                moments.first += folded(&sums[1]);
                moments.second += folded(&sums[2]);
            }
            moments
        }
    }
}

/// What the weights take, in every lane.
#[derive(Clone, Copy)]
struct Weights<L: ExpLanes> {
    constants: Constants<L>,
    center: L,
    one: L,
    lowest: L,
}

impl<L: ExpLanes> Weights<L> {
    /// Adds a group, lane by lane.
    ///
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn add<T: Narrow, const WEIGHTED: bool>(
        &self,
        scores: &[T; BLOCK],
        allowed: u64,
        sums: &mut [[L; LANES / 4]; 3],
    ) {
        // SAFETY: the last lane is LANES - COUNT.
        unsafe {
            prefetch::<T, L>(scores);
            let mut lane = 0;
            while lane < LANES {
                let column = lane / L::COUNT;
                let x = load_lanes::<T, L>(scores, lane, allowed);
                let mut part = 0;
                while part < 4 {
                    let weight = if WEIGHTED {
                        self.constants.terms(x[part])
                    } else {
                        self.one.zero_below(x[part], self.lowest)
                    };
                    let d = x[part].minus(self.center).zero_below(x[part], self.lowest);
                    let first = weight.times(d);
                    sums[0][column] = sums[0][column].plus(weight);
                    sums[1][column] = sums[1][column].plus(first);
                    sums[2][column] = first.mul_add(d, sums[2][column]);
                    part += 1;
                }
                lane += L::COUNT;
            }
        }
    }
}
