//! The fused sweep: one read of a row leaves its largest scores and its sums of exponentials.

use super::dispatch::{Kernel, narrow};
use super::exp::{DEPTH, Exponential, Powers, Rounder, STEPS, octaves_of, reference_of};
use super::lanes::{ExpLanes, Narrow};
use super::maxima::{block_maxima, prefetch};
use super::sums::{Groups, LANES, SUM_BLOCK, block_sums, folded, load_lanes};
use super::{BLOCK, Level, Summary};
use crate::row::{Mask, Scores};

/// What the fused sweep leaves of a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweep {
    /// The largest allowed scores of each span of four groups, 256 tokens, lane by lane: sixteen tokens each.
    pub(crate) maxima: Vec<f32>,
    /// The same for each block of 1024 tokens.
    pub(crate) tops: Vec<f32>,
    /// The sum of the terms of every block.
    pub(crate) sums: Vec<f64>,
    /// That of their squares, if it was asked for, in rows where the best token seems to have no large part of all terms. NaN in
    /// other blocks.
    pub(crate) squares: Vec<f64>,
    references: Vec<f32>,
}

/// Reads the row once and fills `out`; f64 rows have no such sweep. Sums are those of the exponential returned; a token 110
/// octaves below the best, or forbidden, adds at most 2^-109 of the best one's term. There is no exponential if the scale is
/// out of the ordinary, or if the row has no largest score that is finite; the summary says. With `squares`, theirs are summed,
/// too, where it looks as if they were of use: a little more work, and a pass less.
pub(crate) fn sweep(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    scale: f64,
    squares: bool,
    out: &mut Sweep,
) -> Option<(Summary, Option<Exponential>)> {
    let octaves = octaves_of(scale)?;
    // All of it is overwritten.
    let blocks = scores.len().div_ceil(SUM_BLOCK);
    out.maxima.resize(blocks * SPANS * LANES, 0.0);
    out.tops.resize(blocks * LANES, 0.0);
    out.sums.resize(blocks, 0.0);
    out.squares.resize(blocks, 0.0);
    out.references.resize(blocks, 0.0);
    let max = if squares {
        narrow!(level, scores, scores => Fused::<_, true> { scores, mask, octaves, out }, _wide => return None)
    } else {
        narrow!(level, scores, scores => Fused::<_, false> { scores, mask, octaves, out }, _wide => return None)
    };
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
            let sums = out.sums.iter_mut().zip(&mut out.squares);
            for ((sum, square), reference) in sums.zip(&out.references) {
                // At most 0: a running maximum is none above the maximum.
                let octaves = (reference - exponential.reference) / STEPS as f32;
                let unit = power_of_two(octaves as i32);
                *sum *= unit;
                *square *= unit * unit;
            }
        }
        Some(exponential) => {
            block_sums(level, scores, mask, &exponential, &mut out.sums);
            out.squares.fill(f64::NAN);
        }
        None => {}
    }
    Some((summary, exponential))
}

/// `2^n`, 0 below the range of floats, for n <= 0.
fn power_of_two(n: i32) -> f64 {
    if n < -1000 {
        0.0
    } else {
        f64::from_bits(((1023 + n) as u64) << 52)
    }
}

/// The binary logarithm of a positive number, but for 0.09.
#[inline(always)]
fn log2(x: f64) -> f64 {
    x.to_bits() as f64 / (1_u64 << 52) as f64 - 1023.0
}

/// Squares are of use where the terms are together more than three times the best one: draws must look beyond a handful of tokens.
const SHARED: f64 = 1.6;

struct Fused<'a, T, const SQUARES: bool> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    octaves: f32,
    out: &'a mut Sweep,
}

impl<T: Narrow, const SQUARES: bool> Kernel for Fused<'_, T, SQUARES> {
    /// The largest score, if every sum is a number.
    type Output = Option<f64>;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> Option<f64> {
        // SAFETY: the caller's; a group has room for LANES maxima, and so has a block.
        unsafe {
            let groups = Groups::new(self.scores, self.mask);
            let powers = Powers::<L>::new(self.octaves);
            let (mut max, mut number, mut current) = (f32::NEG_INFINITY, true, 0.0);
            // Of the terms so far, and whether the best is no large part of them.
            let (mut all, mut shared) = (0.0, false);
            let mut raises = false;
            let Sweep {
                maxima,
                tops,
                sums,
                squares,
                references,
            } = self.out;
            let maxima = maxima.as_chunks_mut::<LANES>().0.as_chunks_mut::<SPANS>().0.iter_mut();
            let blocks = tops.as_chunks_mut::<LANES>().0.iter_mut().zip(maxima);
            let sums = sums.iter_mut().zip(squares);
            for (block, (((tops, maxima), sums), reference)) in blocks.zip(sums).zip(references).enumerate() {
                let range = groups.of_block(block);
                let mut pass = Pass {
                    powers,
                    octaves: self.octaves,
                    groups: &groups,
                    range,
                    maxima,
                    raises: &mut raises,
                };
                if max == f32::NEG_INFINITY {
                    // Nothing yet to refer to: look before.
                    current = reference_of(self.octaves, pass.largest());
                }
                // Kept as long as it serves: blocks need not wait for each other's maximum.
                let (mut top, mut total) = match SQUARES && shared {
                    true => pass.run::<true>(current, tops),
                    false => pass.run::<false>(current, tops),
                };
                if f64::from(top) * f64::from(self.octaves) > f64::from(current) + MARGIN {
                    current = reference_of(self.octaves, top);
                    all = 0.0;
                    (top, total) = pass.run::<false>(current, tops);
                }
                *reference = current;
                (*sums.0, *sums.1) = (total[0], total[1]);
                number &= total[0].is_finite();
                max = if top > max { top } else { max };
                if SQUARES {
                    all += total[0];
                    let best = f64::from(max) * f64::from(self.octaves) - f64::from(current);
                    shared = log2(all) > best / STEPS + SHARED;
                }
            }
            number.then_some(f64::from(max))
        }
    }
}

/// Groups of a span, and spans of a block.
pub(super) const SPAN: usize = 4;
pub(super) const SPANS: usize = SUM_BLOCK / BLOCK / SPAN;

/// How far above its reference a block may reach, in steps.
const MARGIN: f64 = 40.0 * STEPS;

/// How far below it lower scores are raised to, in steps.
const FLOOR: f32 = (DEPTH * STEPS) as f32;

/// What sums of squares start at, in units of the reference's term: it adds nothing that matters, and keeps them from falling
/// below the range of ordinary numbers, which some machines are slow with.
const NEXT_TO_NOTHING: f32 = 1.0 / (1_u64 << 60) as f32;

/// One block of the fused sweep.
struct Pass<'a, T, L: ExpLanes> {
    powers: Powers<L>,
    octaves: f32,
    groups: &'a Groups<'a, T>,
    range: std::ops::Range<usize>,
    maxima: &'a mut [[f32; LANES]; SPANS],
    /// Whether low scores were raised in an earlier block, and are here without a look.
    raises: &'a mut bool,
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

    /// Leaves maxima and returns the largest score and the sums of the terms, which is no number if a score is none, and of
    /// their squares, which is none if these are not wanted.
    ///
    /// # Safety
    ///
    /// As for `largest`.
    #[inline(always)]
    unsafe fn run<const SQUARES: bool>(&mut self, reference: f32, tops: &mut [f32; LANES]) -> (f32, [f64; 2]) {
        let least = (reference - FLOOR) / self.octaves;
        // SAFETY: the caller's.
        unsafe {
            // As a rule nothing is so low that it must be raised, which costs as much as a multiplication: look afterwards.
            // The bits of scores below zero grow as they fall.
            if let (Some(groups), true) = (self.groups.plain(self.range.clone()), least < 0.0 && !*self.raises) {
                let mut totals = Totals::<L, SQUARES>::new(self.powers, reference, least);
                let spans = groups.chunks(SPAN).map(Some).chain(std::iter::repeat(None));
                for (groups, maxima) in spans.zip(self.maxima.iter_mut()) {
                    for scores in groups.unwrap_or_default() {
                        totals.add::<T, false>(scores, u64::MAX);
                    }
                    totals.end_span(maxima);
                }
                if !totals.lowest.has_larger_bits(least.to_bits()) {
                    return totals.finish(tops);
                }
                *self.raises = true;
            }
            let mut totals = Totals::<L, SQUARES>::new(self.powers, reference, least);
            for (span, maxima) in self.maxima.iter_mut().enumerate() {
                for group in self.range.clone().skip(span * SPAN).take(SPAN) {
                    let (scores, allowed) = self.groups.get(group);
                    totals.add::<T, true>(scores, allowed);
                }
                totals.end_span(maxima);
            }
            totals.finish(tops)
        }
    }
}

/// Running totals of one block of the fused sweep, lane by lane; the first `LANES / COUNT` are used.
struct Totals<L: ExpLanes, const SQUARES: bool> {
    powers: Powers<L>,
    rounder: Rounder<L>,
    least: L,
    sums: [L; LANES / 4],
    squares: [L; LANES / 4],
    /// The largest scores of the block, but for those of the span at hand.
    best: [L; LANES / 4],
    span: [L; LANES / 4],
    /// Of the bits of the lowest score.
    lowest: L,
}

impl<L: ExpLanes, const SQUARES: bool> Totals<L, SQUARES> {
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
                squares: [L::splat(NEXT_TO_NOTHING); LANES / 4],
                best: [L::lowest(); LANES / 4],
                span: [L::lowest(); LANES / 4],
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
    unsafe fn add<T: Narrow, const RAISED: bool>(&mut self, scores: &[T; BLOCK], allowed: u64) {
        // SAFETY: the last load starts at BLOCK - COUNT.
        unsafe {
            prefetch::<T, L>(scores);
            let mut lane = 0;
            while lane < LANES {
                let mut x = load_lanes::<T, L>(scores, lane, allowed);
                let top = x[0].max(x[1]).max(x[2].max(x[3]));
                let column = lane / L::COUNT;
                self.span[column] = self.span[column].max(top);
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
                if SQUARES {
                    let two = e[1].mul_add(e[1], e[0].mul_add(e[0], self.squares[column]));
                    self.squares[column] = e[3].mul_add(e[3], e[2].mul_add(e[2], two));
                }
                lane += L::COUNT;
            }
        }
    }

    /// Leaves the largest scores of a span, lane by lane, and starts the next.
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    unsafe fn end_span(&mut self, maxima: &mut [f32; LANES]) {
        // SAFETY: the last store starts at LANES - COUNT.
        unsafe {
            let mut lane = 0;
            while lane < LANES {
                let column = lane / L::COUNT;
                self.span[column].store(maxima.as_mut_ptr().add(lane));
                self.best[column] = self.best[column].max(self.span[column]);
                self.span[column] = L::lowest();
                lane += L::COUNT;
            }
        }
    }

    /// Leaves the largest scores of the block, lane by lane; the largest of them, and the sums.
    ///
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    unsafe fn finish(&self, tops: &mut [f32; LANES]) -> (f32, [f64; 2]) {
        // SAFETY: the last store starts at LANES - COUNT.
        unsafe {
            let (mut lane, mut top) = (0, self.best[0]);
            while lane < LANES {
                self.best[lane / L::COUNT].store(tops.as_mut_ptr().add(lane));
                top = top.max(self.best[lane / L::COUNT]);
                lane += L::COUNT;
            }
            let squares = if SQUARES { folded(&self.squares) } else { f64::NAN };
            (top.reduce_max(), [folded(&self.sums), squares])
        }
    }
}
