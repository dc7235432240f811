//! A softmax over the tokens of a cut, written out: probabilities, their logarithms and flags, in one more pass over a row.

use super::dispatch::{Kernel, narrow};
use super::exp::{Constants, Exponential};
use super::lanes::{ExpLanes, Narrow, f32_from};
use super::maxima::block_at_least;
use super::sums::Groups;
use super::{BLOCK, Level};
use crate::row::{Mask, Scores};

/// What is to be written: `q = term / z`, and `log q = scale (x - max) - depth` of the scores themselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Density {
    pub(crate) exponential: Exponential,
    /// The sum of the terms.
    pub(crate) z: f64,
    /// The factor of the scores, which the terms have but for a rounding.
    pub(crate) scale: f64,
    /// The largest score.
    pub(crate) max: f64,
    /// `-log q` of the best token.
    pub(crate) depth: f64,
    /// The end of the cut: tokens with `x > least`, and those with `x == least` up to the index `last`.
    pub(crate) least: f64,
    pub(crate) last: u32,
    /// Terms, and what of them log q has besides.
    pub(crate) bend: Option<(Exponential, f64)>,
}

impl Density {
    /// For the face of all tokens, and nothing else.
    pub(crate) const FLAT: Density = Density {
        exponential: Exponential::LEVEL,
        z: 1.0,
        scale: 1.0,
        max: 0.0,
        depth: 0.0,
        least: f64::MIN,
        last: u32::MAX,
        bend: None,
    };
}

/// Where to write, one place a token.
#[derive(Debug, Default)]
pub(crate) struct Columns<'a> {
    /// q; 0 where it is below 2^-114.
    pub(crate) probs: Option<&'a mut [f32]>,
    /// log q; -inf where it, or the distance to the best score, is beyond the range of f32.
    pub(crate) log_probs: Option<&'a mut [f32]>,
    /// Whether the token is in the cut.
    pub(crate) face: Option<&'a mut [bool]>,
}

/// Writes the columns of a row: 0, -inf and false for tokens that are forbidden or outside of the cut. q has the errors of the
/// terms and of z, and 2^-22; log q an error of 1e-6 and 2^-24 of itself, and that of the depth. f64 rows have none.
pub(crate) fn write_columns(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    density: &Density,
    columns: Columns<'_>,
) {
    narrow!(level, scores, scores => Write { scores, mask, density, columns }, _wide => {});
}

struct Write<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    density: &'a Density,
    columns: Columns<'a>,
}

impl<T: Narrow> Kernel for Write<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // From the end of the row, which was read last and is nearest.
        // SAFETY: the caller's.
        unsafe {
            let density = self.density;
            let groups = Groups::new(self.scores, self.mask);
            let mut columns = self.columns;
            // Ties at the end of the cut belong to it in the groups up to that of `last`, and not after it.
            let (turn, next) = match density.last {
                u32::MAX => (groups.count(), density.least),
                last => (
                    (last as usize / BLOCK + 1).min(groups.count()),
                    f64::from(f32_from(density.least).next_up()),
                ),
            };
            for (range, least) in [(turn..groups.count(), next), (0..turn, density.least)] {
                let writers = Writers::<L>::new(density, least);
                for group in range.rev() {
                    let (scores, mut allowed) = groups.get(group);
                    if group == density.last as usize / BLOCK {
                        let behind = !(u64::MAX >> (BLOCK - 1 - density.last as usize % BLOCK));
                        allowed &= !behind | block_at_least(scores.as_ptr(), L::smallest_from(next));
                    }
                    writers.write(group, scores, allowed, &mut columns);
                }
            }
        }
    }
}

/// Writes one kind of value for groups of 64 tokens.
trait Writer<L: ExpLanes> {
    type Value: Copy + Default;

    /// # Safety
    ///
    /// The instruction set of `L` is present.
    unsafe fn write<T: Narrow>(&self, scores: &[T; BLOCK], allowed: u64, out: &mut [Self::Value; BLOCK]);

    /// The same into the places of a group in a column, of which the last group may have fewer than 64.
    ///
    /// # Safety
    ///
    /// As for `write`.
    #[inline(always)]
    unsafe fn write_group<T: Narrow>(
        &self,
        group: usize,
        scores: &[T; BLOCK],
        allowed: u64,
        column: &mut [Self::Value],
    ) {
        let (whole, rest) = column.as_chunks_mut::<BLOCK>();
        // SAFETY: passed on.
        unsafe {
            match whole.get_mut(group) {
                Some(out) => self.write(scores, allowed, out),
                None => {
                    let mut out = [Self::Value::default(); BLOCK];
                    self.write(scores, allowed, &mut out);
                    rest.copy_from_slice(&out[..rest.len()]);
                }
            }
        }
    }
}

/// One for each column, for tokens from a score on.
struct Writers<L: ExpLanes> {
    probs: Probs<L>,
    logs: Logs<L>,
    flags: Flags<L>,
}

impl<L: ExpLanes> Writers<L> {
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn new(density: &Density, least: f64) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Writers {
                probs: Probs::new(density, least),
                logs: Logs::new(density, least),
                flags: Flags {
                    least: L::smallest_from(least),
                },
            }
        }
    }

    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    unsafe fn write<T: Narrow>(&self, group: usize, scores: &[T; BLOCK], allowed: u64, columns: &mut Columns<'_>) {
        // SAFETY: the caller's.
        unsafe {
            if let Some(probs) = &mut columns.probs {
                self.probs.write_group(group, scores, allowed, probs);
            }
            if let Some(log_probs) = &mut columns.log_probs {
                self.logs.write_group(group, scores, allowed, log_probs);
            }
            if let Some(face) = &mut columns.face {
                self.flags.write_group(group, scores, allowed, face);
            }
        }
    }
}

/// `term / z`.
struct Probs<L: ExpLanes> {
    constants: Constants<L>,
    /// Whether scores need no shift, as nearly always.
    fused: bool,
}

impl<L: ExpLanes> Probs<L> {
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn new(density: &Density, least: f64) -> Self {
        let lowest = density.max - (114.0 * std::f64::consts::LN_2 - density.depth) / density.scale;
        let exponential = density.exponential.from(least.max(lowest));
        // SAFETY: the caller's.
        unsafe {
            Probs {
                constants: Constants::scaled(&exponential, 1.0 / density.z),
                fused: exponential.is_fused(),
            }
        }
    }
}

impl<L: ExpLanes> Writer<L> for Probs<L> {
    type Value = f32;

    #[inline(always)]
    unsafe fn write<T: Narrow>(&self, scores: &[T; BLOCK], allowed: u64, out: &mut [f32; BLOCK]) {
        // SAFETY: passed on.
        unsafe {
            match self.fused {
                true => self.write_terms::<T, true>(scores, allowed, out),
                false => self.write_terms::<T, false>(scores, allowed, out),
            }
        }
    }
}

impl<L: ExpLanes> Probs<L> {
    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    unsafe fn write_terms<T: Narrow, const FUSED: bool>(
        &self,
        scores: &[T; BLOCK],
        allowed: u64,
        out: &mut [f32; BLOCK],
    ) {
        // SAFETY: the caller's; the last load and the last store start at BLOCK - COUNT.
        unsafe {
            let mut lane = 0;
            while lane < BLOCK {
                let x = load::<T, L>(scores, lane, allowed);
                let q = match FUSED {
                    true => self.constants.fused_terms(x),
                    false => self.constants.terms(x),
                };
                q.store(out.as_mut_ptr().add(lane));
                lane += L::COUNT;
            }
        }
    }
}

/// `scale (x - max) - depth`, rounded little more than once: the difference has its rounding error beside it, and the scale is
/// in two parts.
struct Logs<L: ExpLanes> {
    max: L,
    scale: L,
    scale_rest: L,
    depth: L,
    least: L,
    terms: Constants<L>,
    /// The factor of the terms, if they are wanted.
    bend: L,
    bent: bool,
}

impl<L: ExpLanes> Logs<L> {
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn new(density: &Density, least: f64) -> Self {
        // Beyond these, differences or logarithms are out of range.
        const LARGEST: f64 = f32::MAX as f64 * (1.0 - 1e-6);
        let furthest = LARGEST.min((LARGEST - density.depth) / density.scale);
        let scale = density.scale as f32;
        let (terms, factor) = density.bend.unwrap_or((Exponential::LEVEL, 0.0));
        // SAFETY: the caller's.
        unsafe {
            Logs {
                max: L::splat(density.max as f32),
                scale: L::splat(scale),
                scale_rest: L::splat((density.scale - f64::from(scale)) as f32),
                depth: L::splat(density.depth as f32),
                least: L::smallest_from(least.max(density.max - furthest)),
                terms: Constants::new(&terms),
                bend: L::splat(factor as f32),
                bent: density.bend.is_some(),
            }
        }
    }

    /// # Safety
    ///
    /// As for `new`.
    #[inline(always)]
    unsafe fn write_logs<T: Narrow, const BENT: bool>(
        &self,
        scores: &[T; BLOCK],
        allowed: u64,
        out: &mut [f32; BLOCK],
    ) {
        // SAFETY: the caller's; the last load and the last store start at BLOCK - COUNT.
        unsafe {
            let mut lane = 0;
            while lane < BLOCK {
                let x = load::<T, L>(scores, lane, allowed);
                let d = x.minus(self.max);
                // x - max = d + error, exactly.
                let back = d.minus(x);
                let error = x.minus(d.minus(back)).minus(self.max.plus(back));
                let mut rest = d.mul_add(self.scale_rest, error.mul_minus(self.scale, self.depth));
                if BENT {
                    rest = self.terms.terms(x).mul_add(self.bend, rest);
                }
                let log_q = d.mul_add(self.scale, rest).keep(x.at_least(self.least));
                log_q.store(out.as_mut_ptr().add(lane));
                lane += L::COUNT;
            }
        }
    }
}

impl<L: ExpLanes> Writer<L> for Logs<L> {
    type Value = f32;

    #[inline(always)]
    unsafe fn write<T: Narrow>(&self, scores: &[T; BLOCK], allowed: u64, out: &mut [f32; BLOCK]) {
        // SAFETY: passed on.
        unsafe {
            match self.bent {
                true => self.write_logs::<T, true>(scores, allowed, out),
                false => self.write_logs::<T, false>(scores, allowed, out),
            }
        }
    }
}

/// Whether a token is in the cut.
struct Flags<L: ExpLanes> {
    least: L,
}

impl<L: ExpLanes> Writer<L> for Flags<L> {
    type Value = bool;

    #[inline(always)]
    unsafe fn write<T: Narrow>(&self, scores: &[T; BLOCK], allowed: u64, out: &mut [bool; BLOCK]) {
        // SAFETY: the caller's; a group has BLOCK scores.
        let kept = unsafe { block_at_least::<T, L>(scores.as_ptr(), self.least) } & allowed;
        for (byte, flags) in kept.to_le_bytes().into_iter().zip(out.as_chunks_mut::<8>().0) {
            // A copy of the byte in each of eight, of which byte i keeps bit i, and a carry from there to the top bit.
            let bits = (u64::from(byte) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
            let ones = (bits + 0x7F7F_7F7F_7F7F_7F7F) >> 7 & 0x0101_0101_0101_0101;
            *flags = ones.to_le_bytes().map(|flag| flag == 1);
        }
    }
}

/// The allowed scores of a group from a lane on; -inf for the others.
///
/// # Safety
///
/// The instruction set of `L` is present, and `lane` is at most BLOCK - COUNT.
#[inline(always)]
unsafe fn load<T: Narrow, L: ExpLanes>(scores: &[T; BLOCK], lane: usize, allowed: u64) -> L {
    // SAFETY: the caller's.
    unsafe {
        let x = T::load_narrow::<L>(scores.as_ptr().add(lane));
        match allowed {
            u64::MAX => x,
            _ => x.keep(allowed >> lane),
        }
    }
}

#[cfg(test)]
mod tests;
