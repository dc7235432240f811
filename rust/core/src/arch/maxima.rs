//! The largest scores of a row, and the tokens that reach a bound: once for all instruction sets.

use super::dispatch::{Kernel, narrow};
use super::lanes::{Element, ExpLanes, Lanes, Narrow};
use super::split::{push_between, push_values};
use super::sums::{Groups, LANES};
use super::sweep::{SPAN, SPANS, Sweep};
use super::{BLOCK, Bounds, Level, Summary, scalar};
use crate::row::{Mask, Scores};

/// Reads the row once: sets `maxima` to the largest allowed score of every 64 tokens, -inf where there is none.
pub fn block_maxima(level: Level, scores: Scores<'_>, mask: Option<Mask<'_>>, maxima: &mut Vec<f64>) -> Summary {
    // All of it is overwritten.
    maxima.resize(scores.len().div_ceil(BLOCK), f64::NEG_INFINITY);
    narrow!(level, scores, scores => BlockMaxima { scores, mask, maxima }, wide => scalar::wide_block_maxima(wide, mask, maxima))
}

/// Appends the allowed tokens with a score of at least `least`, ascending: ids, and scores widened to f64. Looks only at blocks
/// whose maximum allows one. Of the tokens with that very score the first `bounds.limit` are wanted, and others may be left out.
pub(crate) fn collect_above(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    maxima: &[f64],
    bounds: Bounds,
    out: (&mut Vec<u32>, &mut Vec<f64>),
) {
    narrow!(
        level, scores,
        scores => CollectAbove { scores, mask, maxima, bounds, out },
        wide => scalar::wide_collect_above(wide, mask, maxima, bounds, out)
    )
}

struct BlockMaxima<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    maxima: &'a mut [f64],
}

impl<T: Narrow> Kernel for BlockMaxima<'_, T> {
    type Output = Summary;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> Summary {
        // SAFETY: passed on.
        unsafe { read_maxima::<T, L>(self.scores, self.mask, self.maxima) }
    }
}

struct CollectAbove<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    maxima: &'a [f64],
    bounds: Bounds,
    out: (&'a mut Vec<u32>, &'a mut Vec<f64>),
}

impl<T: Narrow> Kernel for CollectAbove<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // SAFETY: passed on.
        unsafe { collect::<T, L>(self.scores, self.mask, self.maxima, self.bounds, self.out) }
    }
}

/// How far ahead of the block at hand to fetch, in bytes: hardware prefetchers stop at pages and start late.
const AHEAD: usize = 4096;
const CACHE_LINE: usize = 64;

/// Asks for the block that comes `AHEAD` after one.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn prefetch<T, L: Lanes>(block: &[T; BLOCK]) {
    // SAFETY: a hint; the address need not be valid.
    unsafe {
        for line in 0..size_of_val(block) / CACHE_LINE {
            L::prefetch(block.as_ptr().cast::<u8>().wrapping_add(AHEAD + line * CACHE_LINE));
        }
    }
}

/// See [`block_maxima`]; `maxima` has one place a block.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn read_maxima<T: Element<L>, L: Lanes>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    maxima: &mut [f64],
) -> Summary {
    // SAFETY: `block_max` reads BLOCK scores, a chunk or the padded buffer; the rest needs the instruction set only.
    unsafe {
        let (mut best, mut nan) = (L::lowest(), L::flag());
        let (blocks, rest) = scores.as_chunks::<BLOCK>();
        for (block, (scores, maximum)) in blocks.iter().zip(maxima.iter_mut()).enumerate() {
            prefetch::<T, L>(scores);
            let top = block_max(scores.as_ptr(), allowed(mask, block), &mut nan);
            *maximum = top.reduce_max().into();
            best = best.max(top);
        }
        if let (false, Some(maximum)) = (rest.is_empty(), maxima.last_mut()) {
            let top = block_max(
                padded(rest).as_ptr(),
                allowed(mask, blocks.len()) & first(rest.len()),
                &mut nan,
            );
            *maximum = top.reduce_max().into();
            best = best.max(top);
        }
        Summary {
            max: best.reduce_max().into(),
            nan: L::is_raised(nan),
        }
    }
}

/// The largest allowed scores of a block, lane by lane; raises `nan` if an allowed one is NaN.
///
/// # Safety
///
/// The instruction set of `L` is present, and BLOCK scores can be read.
#[inline(always)]
unsafe fn block_max<T: Element<L>, L: Lanes>(scores: *const T, allowed: u64, nan: &mut L::Flag) -> L {
    // SAFETY: the last load starts at BLOCK - COUNT.
    unsafe {
        let mut best = L::lowest();
        let mut start = 0;
        while start < BLOCK {
            let middle = start + L::COUNT;
            let (mut a, mut b) = (T::load(scores.add(start)), T::load(scores.add(middle)));
            if allowed != u64::MAX {
                a = a.keep(allowed >> start);
                b = b.keep(allowed >> middle);
            }
            *nan = L::raise_if_nan(*nan, a, b);
            best = best.max(a.max(b));
            start = middle + L::COUNT;
        }
        best
    }
}

/// See [`collect_above`].
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn collect<T: Element<L>, L: Lanes>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    maxima: &[f64],
    bounds: Bounds,
    (ids, values): (&mut Vec<u32>, &mut Vec<f64>),
) {
    // SAFETY: `block_at_least` reads BLOCK scores, a chunk or the padded buffer.
    unsafe {
        let mut least = bounds.least;
        let mut lane_least = L::smallest_from(least);
        // Ties with the bound that are still wanted, and how many tokens were looked at for them.
        let (mut wanted, mut seen) = (bounds.limit, 0);
        let (blocks, rest) = scores.as_chunks::<BLOCK>();
        for (group, maxima) in maxima.chunks(64).enumerate() {
            let mut reached = at_least(maxima, least);
            while reached != 0 {
                let block = 64 * group + reached.trailing_zeros() as usize;
                reached &= reached - 1;
                let found = match blocks.get(block) {
                    Some(scores) => block_at_least(scores.as_ptr(), lane_least),
                    None => block_at_least(padded(rest).as_ptr(), lane_least) & first(rest.len()),
                };
                push_found(found & allowed(mask, block), block, scores, ids, values);
                if values.len() - seen >= wanted {
                    let tied = values[seen..].iter().filter(|&&x| x == bounds.least).count();
                    (wanted, seen) = (wanted.saturating_sub(tied), values.len());
                    if wanted == 0 {
                        (wanted, least) = (usize::MAX, bounds.least.next_up());
                        lane_least = L::smallest_from(least);
                    }
                }
            }
        }
    }
}

/// Appends the tokens of a block whose bits are set.
#[inline(always)]
pub(super) fn push_found<T: Element<L>, L: Lanes>(
    mut found: u64,
    block: usize,
    scores: &[T],
    ids: &mut Vec<u32>,
    values: &mut Vec<f64>,
) {
    if found == u64::MAX {
        let start = block * BLOCK;
        ids.extend((start..start + BLOCK).map(|id| id as u32));
        values.extend(scores[start..start + BLOCK].iter().map(|x| x.widen()));
        return;
    }
    while found != 0 {
        let id = block * BLOCK + found.trailing_zeros() as usize;
        found &= found - 1;
        ids.push(id as u32);
        values.push(scores[id].widen());
    }
}

/// Appends the allowed tokens with a score in `[bounds.least, below)`, ascending: ids, and scores widened to f32. Looks only
/// at blocks and groups whose largest scores, those of a [`Sweep`], allow one. False, and not all of them, if there are more
/// than `bounds.limit`. f64 rows have none.
pub(crate) fn collect_between(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    sweep: &Sweep,
    bounds: Bounds,
    below: f64,
    out: (&mut Vec<u32>, &mut Vec<f32>),
) -> bool {
    narrow!(
        level, scores,
        scores => CollectBetween { scores, mask, sweep, bounds, below, out },
        _wide => false
    )
}

struct CollectBetween<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    sweep: &'a Sweep,
    bounds: Bounds,
    below: f64,
    out: (&'a mut Vec<u32>, &'a mut Vec<f32>),
}

impl<T: Narrow> Kernel for CollectBetween<'_, T> {
    type Output = bool;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> bool {
        // SAFETY: the caller's; `block_at_least` reads BLOCK scores.
        unsafe {
            let (least, below) = (L::smallest_from(self.bounds.least), L::smallest_from(self.below));
            let (ids, values) = self.out;
            let groups = Groups::new(self.scores, self.mask);
            let tops = self.sweep.tops.as_chunks::<LANES>().0;
            let spans = self.sweep.maxima.as_chunks::<LANES>().0.as_chunks::<SPANS>().0;
            for (block, tops) in tops.iter().enumerate() {
                if !reaches(tops, least) {
                    continue;
                }
                // Spans that reach it, one bit a group.
                let mut reached = 0_u32;
                for (span, maxima) in spans[block].iter().enumerate() {
                    let all = if reaches(maxima, least) { (1 << SPAN) - 1 } else { 0 };
                    reached |= all << (span * SPAN);
                }
                for (offset, group) in groups.of_block(block).enumerate() {
                    if reached >> offset & 1 == 0 {
                        continue;
                    }
                    let (scores, allowed) = groups.get(group);
                    push_between(scores, allowed, [least, below], group, ids);
                }
                push_values(self.scores, ids, values);
                if ids.len() > self.bounds.limit {
                    return false;
                }
            }
            true
        }
    }
}

/// Whether one of the values is at least the bound.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
unsafe fn reaches<L: ExpLanes>(values: &[f32; LANES], least: L) -> bool {
    // SAFETY: the last load starts at LANES - COUNT.
    unsafe {
        let (mut reached, mut lane) = (0, 0);
        while lane < LANES {
            reached |= L::load_f32(values.as_ptr().add(lane)).at_least(least);
            lane += L::COUNT;
        }
        reached != 0
    }
}

/// Bit i says whether maximum i of at most 64 is at least `least`. Without branches, since the compiler vectorises that.
#[inline(always)]
pub(super) fn at_least(maxima: &[f64], least: f64) -> u64 {
    let mut bits = 0;
    for (i, &maximum) in maxima.iter().enumerate() {
        bits |= u64::from(maximum >= least) << i;
    }
    bits
}

/// Bit i says whether score i of a block is at least that of `least`.
///
/// # Safety
///
/// That of [`block_max`].
#[inline(always)]
pub(super) unsafe fn block_at_least<T: Element<L>, L: Lanes>(scores: *const T, least: L) -> u64 {
    // SAFETY: the last load starts at BLOCK - COUNT.
    unsafe {
        let (mut bits, mut start) = (0, 0);
        while start < BLOCK {
            bits |= T::load(scores.add(start)).at_least(least) << start;
            start += L::COUNT;
        }
        bits
    }
}

/// The last, shorter block with something behind it that `first` takes out again.
#[inline(always)]
pub(super) fn padded<T: Copy + Default>(rest: &[T]) -> [T; BLOCK] {
    let mut buffer = [T::default(); BLOCK];
    buffer[..rest.len()].copy_from_slice(rest);
    buffer
}

/// The lowest `count < 64` bits.
#[inline(always)]
pub(super) fn first(count: usize) -> u64 {
    (1 << count) - 1
}

/// Bit i says whether token i of a block is allowed; what is past the end of a mask is not.
#[inline(always)]
pub(super) fn allowed(mask: Option<Mask<'_>>, block: usize) -> u64 {
    match mask {
        None => u64::MAX,
        Some(Mask::Bits(words)) => {
            let word = |index| words.get(index).copied().unwrap_or(0);
            u64::from(word(2 * block)) | u64::from(word(2 * block + 1)) << 32
        }
        Some(Mask::Flags(flags)) => {
            let start = (block * BLOCK).min(flags.len());
            let flags = &flags[start..flags.len().min(start + BLOCK)];
            match flags.as_chunks::<8>() {
                (eights @ [_, _, _, _, _, _, _, _], []) => {
                    let mut bits = 0;
                    for (i, &eight) in eights.iter().enumerate() {
                        // Byte i of the word goes to bit 56 + i: factor 2^(56 - 7i).
                        let word = u64::from_le_bytes(eight.map(u8::from));
                        bits |= (word.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
                    }
                    bits
                }
                _ => flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u64::from(flag)),
            }
        }
    }
}
