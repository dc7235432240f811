//! One token of a separable problem: the root of `phi'(q) = l - nu` in `u = log q`.

use super::terms::{Law, Numbers};
use crate::math;

/// What a token has at the multiplier evaluated last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    /// Nothing.
    Zero,
    /// As much as it may have.
    Capped,
    /// Something between.
    Free,
}

/// A token with its root at the multiplier evaluated last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    /// Position on the face.
    pub(super) index: u32,
    pub(super) numbers: Numbers,
    /// The linear term less the constants of the terms, shifted.
    pub(super) a: f64,
    /// `phi'` at the cap, less the constants, and its slope there.
    pub(super) top: f64,
    pub(super) top_slope: f64,
    pub(super) state: State,
    /// Never again with probability, whatever multipliers may come.
    pub(super) dead: bool,
    /// `log q`, `q`, and the slope of `phi'` in u.
    pub(super) u: f64,
    pub(super) q: f64,
    pub(super) slope: f64,
    /// What `phi'` was to be.
    t: f64,
}

/// Log-probabilities that are as good as -inf, and whose products stay finite.
const LEAST: f64 = -1e250;

/// Below this q is 0 in f64.
const UNDERFLOW: f64 = -746.0;

/// More steps than halving takes.
const LIMIT: u32 = 2500;

impl Token {
    pub(super) fn new(index: u32, numbers: Numbers, a: f64) -> Self {
        Token {
            index,
            numbers,
            a,
            top: f64::NAN,
            top_slope: f64::NAN,
            state: State::Zero,
            dead: false,
            u: f64::NEG_INFINITY,
            q: 0.0,
            slope: f64::INFINITY,
            t: f64::NAN,
        }
    }

    /// Moves to a multiplier; `most` is the log of the cap.
    pub(super) fn evaluate(&mut self, law: &Law, nu: f64, most: f64) {
        let t = self.a - nu;
        if t >= self.top {
            (self.state, self.u) = (State::Capped, most);
        } else if t <= law.at_zero(&self.numbers) {
            (self.state, self.u) = (State::Zero, f64::NEG_INFINITY);
        } else {
            let (u, slope) = self.root(law, t, most);
            (self.state, self.u, self.slope, self.t) = (State::Free, u.clamp(LEAST, most), slope, t);
        }
        self.q = if self.u > UNDERFLOW { math::exp(self.u) } else { 0.0 };
    }

    fn root(&self, law: &Law, t: f64, most: f64) -> (f64, f64) {
        if let Some(closed) = law.closed(&self.numbers, t) {
            return closed;
        }
        // Newton from the root before, if it is near.
        let step = (t - self.t) / self.slope;
        let start = if self.state == State::Free && step.abs() < 0.5 {
            self.u + step
        } else {
            law.start(&self.numbers, t)
        };
        let start = if start < most { start.max(LEAST) } else { most };
        root(|u| law.tangent(&self.numbers, u), t, start, most)
    }

    /// Whether the token has nothing, nor will at any larger multiplier.
    pub(super) fn vanished(&self) -> bool {
        self.state == State::Zero || self.u <= UNDERFLOW
    }
}

/// The root of an increasing function with a value of `t` left of `high`, and its slope there: Newton's method while it stays in
/// what is left and halves the residual, else bisection; steps to the left that grow, until there is a bound on that side.
fn root(tangent: impl Fn(f64) -> super::terms::Tangent, t: f64, start: f64, mut high: f64) -> (f64, f64) {
    let (mut u, mut low) = (start, f64::NEG_INFINITY);
    let (mut last, mut stride, mut slope) = (f64::INFINITY, 1.0, f64::INFINITY);
    for _ in 0..LIMIT {
        let at = tangent(u);
        let residual = at.value - t;
        slope = at.slope;
        if residual <= 0.0 {
            low = low.max(u);
        } else {
            high = high.min(u);
        }
        let next = u - residual / slope;
        let moved = (next - u).abs();
        let inside = next.is_finite() && low <= next && next <= high;
        // The error after a step is half its square times the relative bend, if that is small.
        let settled = at.bend * moved * moved <= 1e-16 * slope && at.bend * moved <= 0.1 * slope;
        if inside && (settled || moved <= 2.0 * f64::EPSILON * u.abs()) {
            return (next, slope);
        }
        let slow = residual.abs() > 0.5 * last;
        // What no longer halves is rounding.
        if slow && residual.abs() <= 8.0 * f64::EPSILON * (t.abs() + at.value.abs()) {
            return (u, slope);
        }
        let next = if inside && !slow {
            last = residual.abs();
            next
        } else {
            last = f64::INFINITY;
            if low == f64::NEG_INFINITY {
                stride *= 2.0;
                u - stride
            } else {
                low + 0.5 * (high - low)
            }
        };
        if !(low < next && next < high) || next < LEAST {
            return (u, slope);
        }
        u = next;
    }
    (u, slope)
}
