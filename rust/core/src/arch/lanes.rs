//! What the kernels ask of an instruction set, and of a row.

use half::{bf16, f16};

/// A vector of scores.
///
/// # Safety
///
/// Every function may be called only where the instruction set of the implementation is present.
pub(super) trait Lanes: Copy {
    /// How many; divides 32.
    const COUNT: usize;

    /// What a lane holds.
    type Value: Copy + Into<f64>;

    /// Remembers a condition over several vectors.
    type Flag: Copy;

    /// -inf everywhere.
    unsafe fn lowest() -> Self;

    /// In every lane the smallest value not below `bound`, so that `x >= lane` says the same as `x >= bound`.
    unsafe fn smallest_from(bound: f64) -> Self;

    /// The larger of both; where one is NaN, anything.
    unsafe fn max(self, other: Self) -> Self;

    /// The largest lane; if one is NaN, anything.
    unsafe fn reduce_max(self) -> Self::Value;

    /// Keeps lane i where bit i is set, -inf elsewhere.
    unsafe fn keep(self, bits: u64) -> Self;

    /// Bit i says whether lane i is at least that of `least`; NaN is not.
    unsafe fn at_least(self, least: Self) -> u64;

    /// A flag that is down.
    unsafe fn flag() -> Self::Flag;

    /// Raises the flag if a lane of either is NaN.
    unsafe fn raise_if_nan(flag: Self::Flag, a: Self, b: Self) -> Self::Flag;

    /// Whether it is up.
    unsafe fn is_raised(flag: Self::Flag) -> bool;

    /// Asks for the cache line at an address, which need not be valid.
    unsafe fn prefetch(_address: *const u8) {}
}

/// Lanes of f32, into which narrower scores widen exactly. For safety see [`Lanes`]; pointers must be valid for reads of
/// `COUNT` scores, and need no more alignment than these.
pub(super) trait NarrowLanes: Lanes<Value = f32> {
    unsafe fn load_f32(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;

    /// Of twice `COUNT` scores, those at even places and those at odd ones.
    unsafe fn load_bf16_pairs(from: *const bf16) -> [Self; 2];
}

/// What exponentials ask of lanes, besides. For safety see [`Lanes`].
pub(super) trait ExpLanes: NarrowLanes {
    /// Sixteen words in registers.
    type Table: Copy;

    unsafe fn table(words: &[u32; 16]) -> Self::Table;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;
    unsafe fn times(self, other: Self) -> Self;
    unsafe fn over(self, other: Self) -> Self;

    /// `self * factor + term`, rounded once.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;

    /// `self * factor - term`, rounded once.
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self;

    /// For k the integer in the low bits of each lane, the entry `k % 16` of the table plus `k << 19`, wrapping.
    unsafe fn sixteenths(self, table: Self::Table) -> Self;

    /// The larger bits of both, as unsigned integers: below zero, those of the lower score.
    unsafe fn larger_bits(self, other: Self) -> Self;

    /// Whether the bits of a lane, as an unsigned integer, are larger than `least`.
    unsafe fn has_larger_bits(self, least: u32) -> bool;

    /// +0 where `x < least` or NaN, `self` elsewhere.
    unsafe fn zero_below(self, x: Self, least: Self) -> Self;

    /// To an address that is valid for writes of `COUNT` values, however aligned.
    unsafe fn store(self, to: *mut f32);

    /// Writes the lanes whose bits are set, side by side, and behind them anything; no higher bit is set, and `to` is as for
    /// `store`.
    unsafe fn compress(self, bits: u64, to: *mut f32);
}

/// Scores that lanes can be loaded from.
pub(super) trait Element<L: Lanes>: Copy + Default {
    /// Exactly.
    fn widen(self) -> f64;

    /// # Safety
    ///
    /// The instruction set of `L` is present, and `from` is valid for reads of `L::COUNT` scores.
    unsafe fn load(from: *const Self) -> L;
}

/// Scores that fit into f32.
///
/// Of the four parts of a group of 64 tokens, sixteen lanes each, part j has tokens 16j to 16j + 15: or what is quicker to load.
pub(super) trait Narrow: Copy + Default + Into<f64> {
    /// # Safety
    ///
    /// That of [`Element::load`].
    unsafe fn load_narrow<L: NarrowLanes>(from: *const Self) -> L;

    /// `COUNT` lanes of each part of a group, from a lane on.
    ///
    /// # Safety
    ///
    /// The instruction set of `L` is present, 64 scores can be read, and `lane` is at most 16 - COUNT.
    #[inline(always)]
    unsafe fn load_parts<L: NarrowLanes>(group: *const Self, lane: usize) -> [L; 4] {
        // SAFETY: the caller's.
        unsafe {
            let from = group.add(lane);
            [
                Self::load_narrow(from),
                Self::load_narrow(from.add(16)),
                Self::load_narrow(from.add(32)),
                Self::load_narrow(from.add(48)),
            ]
        }
    }

    /// Bit i of each part: that of the token in lane i.
    #[inline(always)]
    fn parts(bits: u64) -> [u64; 4] {
        [bits, bits >> 16, bits >> 32, bits >> 48]
    }
}

impl<T: Narrow, L: NarrowLanes> Element<L> for T {
    #[inline(always)]
    fn widen(self) -> f64 {
        self.into()
    }

    #[inline(always)]
    unsafe fn load(from: *const Self) -> L {
        // SAFETY: passed on.
        unsafe { T::load_narrow(from) }
    }
}

impl Narrow for f32 {
    #[inline(always)]
    unsafe fn load_narrow<L: NarrowLanes>(from: *const Self) -> L {
        // SAFETY: passed on.
        unsafe { L::load_f32(from) }
    }
}

impl Narrow for f16 {
    #[inline(always)]
    unsafe fn load_narrow<L: NarrowLanes>(from: *const Self) -> L {
        // SAFETY: passed on.
        unsafe { L::load_f16(from) }
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    unsafe fn load_narrow<L: NarrowLanes>(from: *const Self) -> L {
        // SAFETY: passed on.
        unsafe { L::load_bf16(from) }
    }

    /// Tokens at even places, and at odd ones, of either half: these are widened by one operation each.
    #[inline(always)]
    unsafe fn load_parts<L: NarrowLanes>(group: *const Self, lane: usize) -> [L; 4] {
        // SAFETY: the caller's; the last load starts at 64 - 2 COUNT.
        unsafe {
            let [a, b] = L::load_bf16_pairs(group.add(2 * lane));
            let [c, d] = L::load_bf16_pairs(group.add(32 + 2 * lane));
            [a, b, c, d]
        }
    }

    #[inline(always)]
    fn parts(bits: u64) -> [u64; 4] {
        [evens(bits), evens(bits >> 1), evens(bits >> 32), evens(bits >> 33)]
    }
}

/// Bits 0, 2, .. 30, side by side.
#[inline(always)]
fn evens(bits: u64) -> u64 {
    let mut bits = bits & 0x5555_5555;
    for (shift, mask) in [(1, 0x3333_3333), (2, 0x0F0F_0F0F), (4, 0x00FF_00FF), (8, 0x0000_FFFF)] {
        bits = (bits | bits >> shift) & mask;
    }
    bits
}

/// The smallest f32 not below `bound`.
pub(super) fn f32_from(bound: f64) -> f32 {
    let rounded = bound as f32;
    if f64::from(rounded) < bound {
        rounded.next_up()
    } else {
        rounded
    }
}

/// For every set of lanes, the places of its members, ascending, and behind them 0.
pub(super) const fn members<const LANES: usize, const SETS: usize>() -> [[u8; LANES]; SETS] {
    let mut table = [[0; LANES]; SETS];
    let mut set = 0;
    while set < SETS {
        let (mut lane, mut count) = (0, 0);
        while lane < LANES {
            if set >> lane & 1 == 1 {
                table[set][count] = lane as u8;
                count += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    table
}
