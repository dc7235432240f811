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

    /// `self * factor + term`, rounded once.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;

    /// `self * factor - term`, rounded once.
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self;

    /// For k the integer in the low bits of each lane, the entry `k % 16` of the table plus `k << 19`, wrapping.
    unsafe fn sixteenths(self, table: Self::Table) -> Self;

    /// +0 where `x < least` or NaN, `self` elsewhere.
    unsafe fn zero_below(self, x: Self, least: Self) -> Self;

    /// To an address that is valid for writes of `COUNT` values, however aligned.
    unsafe fn store(self, to: *mut f32);
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
pub(super) trait Narrow: Copy + Default + Into<f64> {
    /// # Safety
    ///
    /// That of [`Element::load`].
    unsafe fn load_narrow<L: NarrowLanes>(from: *const Self) -> L;
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
