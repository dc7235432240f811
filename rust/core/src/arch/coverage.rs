//! Best-of-K over many tokens: sweeps of the joint Newton iteration, and sums over the tokens that need none.
//!
//! The equations are `u - g (1 - q)^(K-1) = c - nu`, `q = e^u`, for each token, and `sum q = 1` (`solve::coverage`).

use super::dispatch::{Kernel, narrow};
use super::exp::{Constants, Exponential, Powers};
use super::lanes::{ExpLanes, Narrow};
use super::maxima::prefetch;
use super::sums::{Groups, LANES, SUM_BLOCK, folded, load_lanes};
use super::{BLOCK, Level};
use crate::row::{Mask, Scores};

/// Tokens in the middle of a Newton iteration; all arrays have the same length, a multiple of 16.
#[derive(Clone, Debug, Default)]
pub(crate) struct Newton {
    /// c and g.
    pub(crate) score: Vec<f32>,
    pub(crate) gain: Vec<f32>,
    /// u, and q of the last sweep.
    pub(crate) log_q: Vec<f32>,
    pub(crate) q: Vec<f32>,
    /// By the last sweep: the residual and 1 over the slope h' of the left-hand side.
    residual: Vec<f32>,
    inverse: Vec<f32>,
}

/// What a sweep sums up over tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Swept {
    /// q.
    pub(crate) mass: f64,
    /// q times the residual over h'.
    pub(crate) residual: f64,
    /// q over h'.
    pub(crate) slope: f64,
    /// The largest change of u that began the sweep.
    pub(crate) moved: f32,
}

impl Newton {
    /// Starts without tokens.
    pub(crate) fn clear(&mut self) {
        for array in [&mut self.score, &mut self.gain, &mut self.log_q] {
            array.clear();
        }
    }

    /// Appends a token, with the start of its u.
    pub(crate) fn push(&mut self, score: f32, gain: f32, log_q: f32) {
        self.score.push(score);
        self.gain.push(gain);
        self.log_q.push(log_q);
    }

    /// Fills up with tokens of no mass, and leaves every u at its start for the first sweep.
    pub(crate) fn fill(&mut self) {
        let length = self.score.len().next_multiple_of(LANES);
        self.score.resize(length, LOWEST);
        self.gain.resize(length, 0.0);
        self.log_q.resize(length, LOWEST);
        for array in [&mut self.q, &mut self.residual, &mut self.inverse] {
            array.clear();
            array.resize(length, 0.0);
        }
    }

    /// Changes u by what the last sweep says for a change `step` of nu, which is `nu` now; K - 2 is `power`.
    pub(crate) fn sweep(&mut self, level: Level, nu: f32, step: f32, power: u32) -> Swept {
        level.run(NewtonSweep {
            tokens: self,
            nu,
            step,
            power,
        })
    }
}

/// Where u ends: `e^u` is as good as nothing.
pub(crate) const LOWEST: f32 = -70.0;

struct NewtonSweep<'a> {
    tokens: &'a mut Newton,
    nu: f32,
    step: f32,
    power: u32,
}

impl Kernel for NewtonSweep<'_> {
    type Output = Swept;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> Swept {
        // SAFETY: the caller's; all arrays are of one length, a multiple of LANES.
        unsafe {
            let equation = Equation::<L> {
                powers: Powers::new((16.0 * std::f64::consts::LOG2_E) as f32),
                nu: L::splat(self.nu),
                step: L::splat(self.step),
                draws: L::splat((self.power + 1) as f32),
                power: self.power,
            };
            let Newton {
                score,
                gain,
                log_q,
                q,
                residual,
                inverse,
            } = self.tokens;
            let mut swept = Swept::default();
            let mut moved = L::splat(0.0);
            let chunks = score.chunks(SUM_BLOCK).zip(gain.chunks(SUM_BLOCK));
            let state = log_q.chunks_mut(SUM_BLOCK).zip(q.chunks_mut(SUM_BLOCK));
            let last = residual.chunks_mut(SUM_BLOCK).zip(inverse.chunks_mut(SUM_BLOCK));
            for (((score, gain), (log_q, q)), (residual, inverse)) in chunks.zip(state).zip(last) {
                let mut sums = [[L::splat(0.0); LANES / 4]; 3];
                let mut lane = 0;
                while lane < score.len() {
                    let (residual, inverse) = (residual.as_mut_ptr().add(lane), inverse.as_mut_ptr().add(lane));
                    let old = L::load_f32(log_q.as_ptr().add(lane));
                    let change = equation.change(L::load_f32(residual), L::load_f32(inverse));
                    let u = equation.clamp(old.minus(change));
                    let (score, gain) = (score.as_ptr().add(lane), gain.as_ptr().add(lane));
                    let found = equation.at(u, L::load_f32(score), L::load_f32(gain));
                    u.store(log_q.as_mut_ptr().add(lane));
                    found.q.store(q.as_mut_ptr().add(lane));
                    found.residual.store(residual);
                    found.inverse.store(inverse);
                    let column = lane % LANES / L::COUNT;
                    let slope = found.q.times(found.inverse);
                    sums[0][column] = sums[0][column].plus(found.q);
                    sums[1][column] = slope.mul_add(found.residual, sums[1][column]);
                    sums[2][column] = sums[2][column].plus(slope);
                    moved = moved.max(u.minus(old)).max(old.minus(u));
                    lane += L::COUNT;
                }
                swept.mass += folded(&sums[0]);
                swept.residual += folded(&sums[1]);
                swept.slope += folded(&sums[2]);
            }
            swept.moved = moved.reduce_max();
            swept
        }
    }
}

/// An integer power, by squaring.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
pub(super) unsafe fn powered<L: ExpLanes>(base: L, exponent: u32) -> L {
    // SAFETY: the caller's.
    unsafe {
        let (mut power, mut square, mut left) = (L::splat(1.0), base, exponent);
        while left > 0 {
            if left & 1 == 1 {
                power = power.times(square);
            }
            square = square.times(square);
            left >>= 1;
        }
        power
    }
}

/// The equation of a token, in every lane.
struct Equation<L: ExpLanes> {
    powers: Powers<L>,
    nu: L,
    step: L,
    /// K - 1.
    draws: L,
    /// K - 2.
    power: u32,
}

/// What the equation says at some u.
struct Found<L> {
    q: L,
    residual: L,
    inverse: L,
}

impl<L: ExpLanes> Equation<L> {
    /// What Newton takes from u, the residual being one over h' already.
    ///
    /// # Safety
    ///
    /// The instruction set of `L` is present.
    #[inline(always)]
    unsafe fn change(&self, residual: L, inverse: L) -> L {
        // SAFETY: the caller's.
        unsafe { residual.plus(self.step).times(inverse) }
    }

    /// Probabilities are at most 1, and exponentials in range.
    ///
    /// # Safety
    ///
    /// As for `change`.
    #[inline(always)]
    unsafe fn clamp(&self, u: L) -> L {
        // SAFETY: the caller's.
        unsafe {
            let zero = L::splat(0.0);
            zero.minus(zero.minus(u.max(L::splat(LOWEST))).max(zero))
        }
    }

    /// # Safety
    ///
    /// As for `change`.
    #[inline(always)]
    unsafe fn at(&self, u: L, score: L, gain: L) -> Found<L> {
        // SAFETY: the caller's.
        unsafe {
            let one = L::splat(1.0);
            let q = self.powers.terms(u, Powers::<L>::rounder(0.0));
            let miss = one.minus(q).max(L::splat(0.0));
            let gained = gain.times(powered(miss, self.power));
            let slope = gained.times(self.draws).mul_add(q, one);
            // u - c + nu, the large numbers first, less g (1 - q)^(K-1).
            let residual = u.minus(score).plus(self.nu).minus(gained.times(miss));
            Found {
                q,
                residual,
                inverse: one.over(slope),
            }
        }
    }
}

/// Sets, for every block whose `sums[1]` is NaN, `sums[0]` to the sum of the terms of the tokens with a score below `head`,
/// `sums[1]` to that of their squares. f64 rows have none.
pub(crate) fn tail_sums(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    head: f64,
    [first, second]: [&mut [f64]; 2],
) {
    narrow!(level, scores, scores => TailSums { scores, mask, exponential, head, first, second }, _wide => {});
}

struct TailSums<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    exponential: &'a Exponential,
    head: f64,
    first: &'a mut [f64],
    second: &'a mut [f64],
}

impl<T: Narrow> Kernel for TailSums<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // SAFETY: the caller's.
        unsafe {
            let constants = Constants::<L>::new(self.exponential);
            let head = L::smallest_from(self.head);
            let groups = Groups::new(self.scores, self.mask);
            let sums = self.first.iter_mut().zip(self.second).enumerate();
            for (block, (first, second)) in sums.filter(|(_, (_, second))| second.is_nan()) {
                let mut sums = [[L::splat(0.0); LANES / 4]; 2];
                match groups.plain(groups.of_block(block)) {
                    Some(groups) => {
                        for scores in groups {
                            add_tail(scores, u64::MAX, &constants, head, &mut sums);
                        }
                    }
                    None => {
                        for group in groups.of_block(block) {
                            let (scores, allowed) = groups.get(group);
                            add_tail(scores, allowed, &constants, head, &mut sums);
                        }
                    }
                }
                (*first, *second) = (folded(&sums[0]), folded(&sums[1]));
            }
        }
    }
}

/// Adds the terms of a group, and their squares, lane by lane.
///
/// # Safety
///
/// The instruction set of `L` is present.
#[inline(always)]
unsafe fn add_tail<T: Narrow, L: ExpLanes>(
    scores: &[T; BLOCK],
    allowed: u64,
    constants: &Constants<L>,
    head: L,
    sums: &mut [[L; LANES / 4]; 2],
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
                let e = constants.terms(x[part]);
                let e = e.minus(e.zero_below(x[part], head));
                sums[0][column] = sums[0][column].plus(e);
                sums[1][column] = e.mul_add(e, sums[1][column]);
                part += 1;
            }
            lane += L::COUNT;
        }
    }
}

/// Sets `probs` to `w (1 - rho w)`, `w = omega term`, of every token, 0 of forbidden ones; of a length with `scores`. f64 rows have
/// none.
pub(crate) fn write_tail(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    exponential: &Exponential,
    [omega, rho]: [f64; 2],
    probs: &mut [f32],
) {
    let series = [omega as f32, rho as f32];
    narrow!(level, scores, scores => WriteTail { scores, mask, exponential, series, probs }, _wide => {});
}

struct WriteTail<'a, T> {
    scores: &'a [T],
    mask: Option<Mask<'a>>,
    exponential: &'a Exponential,
    series: [f32; 2],
    probs: &'a mut [f32],
}

impl<T: Narrow> Kernel for WriteTail<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) {
        // SAFETY: the caller's; the last load and the last store start at BLOCK - COUNT.
        unsafe {
            let constants = Constants::<L>::new(self.exponential);
            let [omega, rho] = [L::splat(self.series[0]), L::splat(self.series[1])];
            let groups = Groups::new(self.scores, self.mask);
            // From the end, which was read last.
            for (group, probs) in self.probs.chunks_mut(BLOCK).enumerate().rev() {
                let (scores, allowed) = groups.get(group);
                let mut buffer = [0.0; BLOCK];
                let mut lane = 0;
                while lane < BLOCK {
                    let x = T::load_narrow::<L>(scores.as_ptr().add(lane));
                    let x = if allowed == u64::MAX {
                        x
                    } else {
                        x.keep(allowed >> lane)
                    };
                    let w = constants.terms(x).times(omega);
                    let q = w.minus(w.times(rho).times(w));
                    match probs.len() {
                        BLOCK => q.store(probs.as_mut_ptr().add(lane)),
                        _ => q.store(buffer.as_mut_ptr().add(lane)),
                    }
                    lane += L::COUNT;
                }
                if probs.len() < BLOCK {
                    probs.copy_from_slice(&buffer[..probs.len()]);
                }
            }
        }
    }
}
