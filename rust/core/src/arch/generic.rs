//! The algorithms, once for all instruction sets. Everything here is inlined into entry points that are compiled for one;
//! a closure over lanes would not be, so there are none.

use super::lanes::{Element, Lanes};
use super::{BLOCK, Bounds, Summary};
use crate::row::Mask;

/// How far ahead of the block at hand to fetch, in bytes: hardware prefetchers stop at pages and start late.
const AHEAD: usize = 1024;
const CACHE_LINE: usize = 64;

/// See [`super::block_maxima`]; `maxima` has one place a block.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn block_maxima<T: Element<L>, L: Lanes>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    maxima: &mut [f64],
) -> Summary {
    // SAFETY: `block_max` reads BLOCK scores, a chunk or the padded buffer; the rest needs the instruction set only.
    unsafe {
        let (mut best, mut nan) = (L::lowest(), L::flag());
        let (blocks, rest) = scores.as_chunks::<BLOCK>();
        for (block, (scores, maximum)) in blocks.iter().zip(maxima.iter_mut()).enumerate() {
            let here = scores.as_ptr();
            for line in 0..size_of_val(scores) / CACHE_LINE {
                L::prefetch(here.cast::<u8>().wrapping_add(AHEAD + line * CACHE_LINE));
            }
            let top = block_max(here, allowed(mask, block), &mut nan);
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

/// See [`super::collect_above`].
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn collect_above<T: Element<L>, L: Lanes>(
    scores: &[T],
    mask: Option<Mask<'_>>,
    maxima: &[f64],
    bounds: Bounds,
    (ids, values): (&mut Vec<u32>, &mut Vec<f64>),
) -> bool {
    // SAFETY: `block_at_least` reads BLOCK scores, a chunk or the padded buffer.
    unsafe {
        let least = L::smallest_from(bounds.least);
        let (blocks, rest) = scores.as_chunks::<BLOCK>();
        for (group, maxima) in maxima.chunks(64).enumerate() {
            let mut reached = at_least(maxima, bounds.least);
            while reached != 0 {
                let block = 64 * group + reached.trailing_zeros() as usize;
                reached &= reached - 1;
                let found = match blocks.get(block) {
                    Some(scores) => block_at_least(scores.as_ptr(), least),
                    None => block_at_least(padded(rest).as_ptr(), least) & first(rest.len()),
                };
                let mut found = found & allowed(mask, block);
                while found != 0 {
                    let id = block * BLOCK + found.trailing_zeros() as usize;
                    found &= found - 1;
                    ids.push(id as u32);
                    values.push(scores[id].widen());
                }
            }
            if ids.len() > bounds.limit {
                return false;
            }
        }
        true
    }
}

/// Bit i says whether maximum i of at most 64 is at least `least`. Without branches, since the compiler vectorises that.
#[inline(always)]
fn at_least(maxima: &[f64], least: f64) -> u64 {
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
unsafe fn block_at_least<T: Element<L>, L: Lanes>(scores: *const T, least: L) -> u64 {
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
