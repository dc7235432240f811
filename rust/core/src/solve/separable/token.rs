//! One token of a separable problem: the root of `phi'(q) = l - nu` in `u = log q`.

use super::terms::{Law, Numbers, Tangent};
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
    pub(super) state: State,
    /// Never again with probability, whatever multipliers may come.
    pub(super) dead: bool,
    pub(super) numbers: Numbers,
    /// The linear term less the constants of the terms, shifted.
    pub(super) a: f64,
    /// `phi'` at the cap, less the constants.
    pub(super) top: f64,
    /// `log q`, and the slope of `phi'` in it.
    pub(super) u: f64,
    pub(super) slope: f64,
}

/// A multiplier to go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) nu: f64,
    /// Where the token is; NaN before the first move.
    pub(super) from: f64,
    /// The relative error that q may have; exact if 0.
    pub(super) tolerance: f64,
    /// The logarithm of the cap.
    pub(super) log_cap: f64,
}

/// A root: log q, q but for the tolerance, and the slope.
#[derive(Clone, Copy, Debug)]
struct Root {
    u: f64,
    q: f64,
    slope: f64,
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
            state: State::Zero,
            dead: false,
            numbers,
            a,
            top: f64::NAN,
            u: f64::NEG_INFINITY,
            slope: f64::NAN,
        }
    }

    /// Moves to a multiplier; returns q.
    pub(super) fn go(&mut self, law: &Law, to: &Move) -> f64 {
        let t = self.a - to.nu;
        if t >= self.top {
            (self.state, self.u) = (State::Capped, to.log_cap);
            return math::exp(to.log_cap);
        }
        if t <= law.at_zero(&self.numbers) {
            (self.state, self.u) = (State::Zero, f64::NEG_INFINITY);
            return 0.0;
        }
        let Root { u, q, slope } = self.root(law, t, to);
        let u = if u > to.log_cap { to.log_cap } else { u.max(LEAST) };
        (self.state, self.u, self.slope) = (State::Free, u, slope);
        if u <= UNDERFLOW {
            0.0
        } else if to.tolerance == 0.0 || q.is_nan() {
            math::exp(u)
        } else {
            q
        }
    }

    fn root(&self, law: &Law, t: f64, to: &Move) -> Root {
        if let Some((u, slope)) = law.closed(&self.numbers, t) {
            let q = f64::NAN;
            return Root { u, q, slope };
        }
        // Newton from the root before, if it is near.
        let step = (to.from - to.nu) / self.slope;
        let near = self.state == State::Free && (step * law.fastest(&self.numbers)).abs() < 2.0;
        let start = if near {
            self.u + step
        } else {
            law.start(&self.numbers, t)
        };
        let high = to.log_cap;
        let start = if start < high { start.max(LEAST) } else { high };
        root(|u| law.tangent(&self.numbers, u), t, start, high, to.tolerance)
    }

    /// Whether the token has nothing, nor will at any larger multiplier.
    pub(super) fn vanished(&self) -> bool {
        self.state == State::Zero || self.u <= UNDERFLOW
    }
}

/// The root of an increasing function with a value of `t` left of `high`: Newton's method while it stays in what is left and halves
/// the residual, else bisection; steps to the left that grow, until there is a bound on that side, which may be far away.
fn root(tangent: impl Fn(f64) -> Tangent, t: f64, start: f64, mut high: f64, tolerance: f64) -> Root {
    let tolerance = tolerance.max(1e-16);
    let (mut u, mut low) = (start, LEAST);
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
        let step = next - u;
        let moved = step.abs();
        let inside = low < next && next <= high;
        // The error after a step is half its square times the relative bend, where that hardly changes on the way.
        let settled = at.rate * moved <= 0.1 && at.bend * moved * moved <= tolerance * slope;
        if inside && (settled || moved <= 2.0 * f64::EPSILON * u.abs()) {
            let small = moved < 1e-3;
            let q = if small {
                at.q * (1.0 + step * (1.0 + step * (0.5 + step / 6.0)))
            } else {
                f64::NAN
            };
            return Root { u: next, q, slope };
        }
        let slow = residual.abs() > 0.5 * last;
        // What no longer halves is rounding.
        if slow && residual.is_finite() && residual.abs() <= 8.0 * f64::EPSILON * (t.abs() + at.value.abs()) {
            break;
        }
        let next = if inside && !slow {
            last = residual.abs();
            next
        } else {
            last = f64::INFINITY;
            if low == LEAST {
                stride *= 2.0;
                u - stride
            } else if low < 16.0 * high.min(-4.0) {
                -(-low).sqrt() * (-high.min(-1.0)).sqrt()
            } else {
                low + 0.5 * (high - low)
            }
        };
        if !(low < next && next < high) {
            break;
        }
        u = next;
    }
    let q = f64::NAN;
    Root { u, q, slope }
}
