//! Passes over a row around one threshold: the sums above it with the tokens near it, and the tokens at it.

use super::dispatch::{Kernel, narrow};
use super::exp::{Constants, Exponential};
use super::lanes::{ExpLanes, Narrow};
use super::maxima::{block_at_least, first};
use super::sums::{Groups, LANES, SUM_BLOCK, block_sum};
use super::{BLOCK, Bounds, Level};
use crate::row::{Mask, Scores};

/// [`super::block_sums`] of the tokens from `below` on, and in the same pass the allowed tokens with a score in
/// `[bounds.least, below)`, ascending. False, and not all of these, if there are more than `bounds.limit`; the sums are there all
/// the same. f64 rows have none.
pub(crate) fn split(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    (bounds, below): (Bounds, f64),
    sums: &mut Vec<f64>,
    (ids, values): (&mut Vec<u32>, &mut Vec<f32>),
) -> bool {
    // All of it is overwritten.
    sums.resize(scores.len().div_ceil(SUM_BLOCK), 0.0);
    let exponential = &exponential.from(below);
    narrow!(
        level, scores,
        scores => Split { scores, mask, exponential, bounds, below, sums, ids, values },
        _wide => false
    )
}

/// Sets `counts` to how many allowed tokens of each block have that very score and an id of at most `last`. f64 rows have none.
pub(crate) fn count_ties(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    score: f32,
    last: u32,
    counts: &mut Vec<u32>,
) {
    // All of it is overwritten.
    counts.resize(scores.len().div_ceil(SUM_BLOCK), 0);
    narrow!(level, scores, scores => CountTies { scores, mask, score, last, counts }, _wide => {});
}

struct Split<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    exponential: &'a Exponential,
    bounds: Bounds,
    below: f64,
    sums: &'a mut [f64],
    ids: &'a mut Vec<u32>,
    values: &'a mut Vec<f32>,
}

impl<T: Narrow> Kernel for Split<'_, T> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> bool {
        // SAFETY: the caller's.
        unsafe {
            let constants = Constants::<L>::new(self.exponential);
            let window = [L::smallest_from(self.bounds.least), L::smallest_from(self.below)];
            let groups = Groups::new(self.scores, self.mask);
            let mut complete = true;
            for (block, sum) in self.sums.iter_mut().enumerate() {
                *sum = block_sum(&groups, block, &constants);
                if complete {
                    // What was just read is still near.
                    for group in groups.of_block(block) {
                        let (scores, allowed) = groups.get(group);
                        push_between(scores, allowed, window, group, self.ids);
                    }
                    push_values(self.scores, self.ids, self.values);
                    complete = self.ids.len() <= self.bounds.limit;
                }
            }
            complete
        }
    }
}

/// Appends the tokens of a group that are allowed and have a score in a window.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn push_between<T: Narrow, L: ExpLanes>(
    scores: &[T; BLOCK],
    allowed: u64,
    [least, below]: [L; 2],
    group: usize,
    ids: &mut Vec<u32>,
) {
    /// So many are written at once, found or not: how many there are could not be foreseen.
    const AT_ONCE: usize = 4;
    // SAFETY: BLOCK scores are read. At most BLOCK are found, and those written with the last of them are AT_ONCE at most: there
    // is room for these, and as many as were found are kept.
    unsafe {
        let mut found = block_at_least(scores.as_ptr(), least) & !block_at_least(scores.as_ptr(), below) & allowed;
        let (start, count) = (ids.len(), found.count_ones() as usize);
        ids.reserve(BLOCK + AT_ONCE);
        let mut to = ids.as_mut_ptr().add(start);
        loop {
            for i in 0..AT_ONCE {
                to.add(i).write(group as u32 * BLOCK as u32 + found.trailing_zeros());
                found &= found.wrapping_sub(1);
            }
            if found == 0 {
                break;
            }
            to = to.add(AT_ONCE);
        }
        ids.set_len(start + count);
    }
}

/// Appends the scores of the tokens that have none yet.
#[inline(always)]
pub(super) fn push_values<T: Narrow>(scores: &[T], ids: &[u32], values: &mut Vec<f32>) {
    let new = &ids[values.len()..];
    values.extend(new.iter().map(|&id| {
        let value: f64 = scores[id as usize].into();
        value as f32
    }));
}

struct CountTies<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    score: f32,
    last: u32,
    counts: &'a mut [u32],
}

impl<T: Narrow> Kernel for CountTies<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // SAFETY: the caller's; BLOCK scores are read.
        unsafe {
            let (score, next) = (L::splat(self.score), L::splat(self.score.next_up()));
            let groups = Groups::new(self.scores, self.mask);
            let end = (self.last as usize).saturating_add(1);
            for (block, count) in self.counts.iter_mut().enumerate() {
                *count = 0;
                for group in groups.of_block(block) {
                    let (scores, mut allowed) = groups.get(group);
                    match end.saturating_sub(group * BLOCK) {
                        0 => break,
                        few if few < BLOCK => allowed &= first(few),
                        _ => {}
                    }
                    let tied = block_at_least(scores.as_ptr(), score) & !block_at_least(scores.as_ptr(), next);
                    *count += (tied & allowed).count_ones();
                }
            }
        }
    }
}

/// Sets `kept` to the values in `[least, below)`, in their order, and to their terms.
pub(crate) fn keep_between(
    level: Level,
    (values, terms): (&[f32], &[f32]),
    [least, below]: [f32; 2],
    kept: (&mut Vec<f32>, &mut Vec<f32>),
) {
    let kept = [kept.0, kept.1];
    level.run(KeepBetween {
        values,
        terms,
        window: [least, below],
        kept,
    });
}

struct KeepBetween<'a> {
    values: &'a [f32],
    terms: &'a [f32],
    window: [f32; 2],
    kept: [&'a mut Vec<f32>; 2],
}

impl Kernel for KeepBetween<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        let KeepBetween {
            values,
            terms,
            window: [least, below],
            kept,
        } = self;
        let [kept_values, kept_terms] = kept;
        for kept in [&mut *kept_values, &mut *kept_terms] {
            kept.clear();
            kept.reserve(values.len() + LANES);
        }
        let mut length = 0;
        // SAFETY: the caller's; chunks have COUNT values. No more are kept than there were, with what is behind the last up to COUNT,
        // and there is room for these; as many as were written are kept.
        unsafe {
            let window = [L::splat(least), L::splat(below)];
            let chunks = values.chunks_exact(L::COUNT).zip(terms.chunks_exact(L::COUNT));
            for (values, terms) in chunks {
                let (x, e) = (L::load_f32(values.as_ptr()), L::load_f32(terms.as_ptr()));
                let bits = x.at_least(window[0]) & !x.at_least(window[1]);
                x.compress(bits, kept_values.as_mut_ptr().add(length));
                e.compress(bits, kept_terms.as_mut_ptr().add(length));
                length += bits.count_ones() as usize;
            }
            kept_values.set_len(length);
            kept_terms.set_len(length);
        }
        let done = values.len() / L::COUNT * L::COUNT;
        for (&x, &e) in values[done..].iter().zip(&terms[done..]) {
            if x >= least && x < below {
                kept_values.push(x);
                kept_terms.push(e);
            }
        }
    }
}

#[cfg(test)]
mod tests;
