//! Mirror ascent over the tokens that coverage bends: one step is one sweep over them.
//!
//! After some steps `log q = a d + b - nu`, d the distance to the best score and a the same for all tokens; the sweep takes b, what
//! coverage has added, one step further (`solve::ascent`).

use super::Level;
use super::coverage::{LOWEST, powered};
use super::dispatch::Kernel;
use super::exp::Powers;
use super::lanes::ExpLanes;
use super::sums::{LANES, SUM_BLOCK, folded};

/// Tokens in the middle of an ascent; all arrays have the same length, a multiple of 16.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ascent {
    /// d.
    distance: Vec<f32>,
    /// What a step adds to b where q is 0.
    gain: Vec<f32>,
    /// b.
    bent: Vec<f32>,
    /// `e^(a d + b)`.
    pub(crate) term: Vec<f32>,
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// 1 over the sum of all terms, as they are before it.
    pub(crate) inverse: f64,
    /// The factor of b.
    pub(crate) rate: f64,
    /// a, after it.
    pub(crate) scale: f64,
    /// K - 1.
    pub(crate) power: u32,
}

impl Ascent {
    /// Starts without tokens.
    pub(crate) fn clear(&mut self) {
        for array in [&mut self.distance, &mut self.gain, &mut self.term] {
            array.clear();
        }
    }

    /// Appends a token where nothing is bent yet.
    pub(crate) fn push(&mut self, distance: f32, gain: f32, term: f32) {
        self.distance.push(distance);
        self.gain.push(gain);
        self.term.push(term);
    }

    /// Fills up with tokens of no mass.
    pub(crate) fn fill(&mut self) {
        let length = self.distance.len().next_multiple_of(LANES);
        self.distance.resize(length, f32::MIN);
        self.gain.resize(length, 0.0);
        self.term.resize(length, 0.0);
        self.bent.clear();
        self.bent.resize(length, 0.0);
    }

    /// Goes one step further; the sum of the terms, which is no number if they are out of range.
    pub(crate) fn step(&mut self, level: Level, step: Step) -> f64 {
        level.run(Climb { tokens: self, step })
    }
}

struct Climb<'a> {
    tokens: &'a mut Ascent,
    step: Step,
}

impl Kernel for Climb<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> f64 {
        // SAFETY: the caller's; all arrays are of one length, a multiple of LANES.
        unsafe {
            let Step {
                inverse,
                rate,
                scale,
                power,
            } = self.step;
            let powers = Powers::<L>::new((16.0 * std::f64::consts::LOG2_E) as f32);
            let rounder = Powers::<L>::rounder(0.0);
            let [inverse, rate, scale] = [inverse, rate, scale].map(|value| L::splat(value as f32));
            let (one, zero, lowest) = (L::splat(1.0), L::splat(0.0), L::splat(LOWEST));
            let Ascent {
                distance,
                gain,
                bent,
                term,
            } = self.tokens;
            let mut total = 0.0;
            let tokens = distance.chunks(SUM_BLOCK).zip(gain.chunks(SUM_BLOCK));
            let state = bent.chunks_mut(SUM_BLOCK).zip(term.chunks_mut(SUM_BLOCK));
            for ((distance, gain), (bent, term)) in tokens.zip(state) {
                let mut sums = [L::splat(0.0); LANES / 4];
                let mut lane = 0;
                while lane < distance.len() {
                    let (bent, term) = (bent.as_mut_ptr().add(lane), term.as_mut_ptr().add(lane));
                    let q = L::load_f32(term).times(inverse);
                    let miss = powered(one.minus(q).max(zero), power);
                    let gain = L::load_f32(gain.as_ptr().add(lane));
                    let b = gain.mul_add(miss, L::load_f32(bent).times(rate));
                    let u = L::load_f32(distance.as_ptr().add(lane)).mul_add(scale, b);
                    let e = powers.terms(u.max(lowest), rounder);
                    b.store(bent);
                    e.store(term);
                    let column = lane % LANES / L::COUNT;
                    sums[column] = sums[column].plus(e);
                    lane += L::COUNT;
                }
                total += folded(&sums);
            }
            total
        }
    }
}
