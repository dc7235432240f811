//! The inner root of the coverage dual: `u - a (1 - e^u)^(K-1) = d` for one token, `u = log q`, `K >= 2`.

use super::wright;
use crate::math;

/// A weighted token of the coverage dual; `u`, `q` and `slope` belong to the last dual variable evaluated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    /// Position on the face.
    pub(super) index: u32,
    /// Anchored score `l / lam + log r`, shifted.
    pub(super) c: f64,
    /// `beta_bar w K / lam`, positive.
    pub(super) gain: f64,
    /// `log q`; NaN before the first evaluation.
    pub(super) u: f64,
}

/// The equation for one budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner {
    /// K - 1.
    draws: f64,
    /// The inflection of the left-hand side, `e^u = 1 / (K - 1)`: convex left of it, concave right of it.
    knee: f64,
    /// `(1 - e^knee)^(K-1)`.
    knee_power: f64,
}

/// A root and the derivative of the left-hand side there (at least 1).
#[derive(Clone, Copy, Debug)]
pub(super) struct InnerRoot {
    pub(super) u: f64,
    pub(super) q: f64,
    pub(super) slope: f64,
}

/// Newton steps; the start rules need fewer than half.
const LIMIT: u32 = 80;

impl Inner {
    pub(super) fn new(budget: f64) -> Self {
        let draws = budget - 1.0;
        Inner {
            draws,
            knee: -math::ln(draws),
            knee_power: math::pow_1m(1.0 / draws, draws),
        }
    }

    /// The root for `d <= 0`. `warm` is a guess or NaN; it affects the speed only.
    pub(super) fn root(&self, d: f64, gain: f64, warm: f64) -> InnerRoot {
        let top = d + gain; // u <= top, since (1 - q)^(K-1) <= 1
        let rate = gain * self.draws;
        if top < 0.0 {
            let x = math::exp(top);
            if rate * x < 1e-6 && self.draws * x < 1e-5 {
                return self.series(top, x, rate);
            }
        }
        if self.draws == 1.0 {
            return linear_power(top, gain);
        }
        let convex = self.knee - gain * self.knee_power >= d;
        let (low, high) = if convex {
            (f64::NEG_INFINITY, self.knee.min(top))
        } else {
            (self.knee, 0.0)
        };
        let start = match (warm.is_finite(), convex) {
            (true, _) => warm,
            // The root of u + rate e^u = top, a lower bound since (1 - q)^(K-1) >= 1 - (K-1) q; also where K = 2 is exact.
            (false, true) => lower_bound(top, rate),
            // From (1 - q)^(K-1) = (u - d) / a <= -d / a, a lower bound too.
            (false, false) => math::ln(-math::expm1(math::ln(-d / gain) / self.draws)),
        };
        // f64::max drops a NaN start; clamping keeps the start in the region where Newton is monotone from the first
        // step on.
        self.newton(d, gain, start.max(low).min(high), low, high)
    }

    /// Newton in one region. Convex: every step lands right of the root; concave: left of it. So after the first step
    /// the iterates are monotone, and a clipped step is still on the right side.
    fn newton(&self, d: f64, gain: f64, start: f64, low: f64, high: f64) -> InnerRoot {
        let rate = gain * self.draws;
        let mut u = start;
        let mut slope = 1.0;
        for step in 0..LIMIT {
            let q = math::exp(u);
            let rest = -math::expm1(u);
            let power = math::exp((self.draws - 1.0) * math::ln_1m_exp(u));
            slope = 1.0 + rate * q * power;
            let next = (u - (u - gain * power * rest - d) / slope).max(low).min(high);
            let moved = next - u;
            let turned = step > 1 && (moved > 0.0) == (low == f64::NEG_INFINITY);
            u = next;
            // After a step `moved` the error is about moved^2 / 2 times the second derivative over the first, and moved^3 / 6
            // times the third: all there is of a step from the inflection. With c the second over (slope - 1), the third is
            // (slope - 1) (c^2 + dc/du).
            let rest = rest.max(f64::MIN_POSITIVE);
            let c = (1.0 - self.draws * q).abs() / rest;
            let bend = c + moved.abs() * (c * c + (self.draws - 1.0) * q / (rest * rest));
            let small = moved * moved * (slope - 1.0) / slope * bend <= 1e-17 && moved.abs() < 0.1;
            if small || turned || moved.abs() <= 2.0 * f64::EPSILON * u.abs() {
                break;
            }
        }
        InnerRoot {
            u,
            q: math::exp(u),
            slope,
        }
    }

    /// `x = e^top` so small that three terms of the Lagrange series have relative error below 1e-15.
    fn series(&self, top: f64, x: f64, rate: f64) -> InnerRoot {
        let drop = rate * x * (1.0 - rate * x - 0.5 * (self.draws - 1.0) * x);
        let q = x * (1.0 - drop * (1.0 - 0.5 * drop));
        InnerRoot {
            u: top - drop,
            q,
            slope: 1.0 + rate * q * (1.0 - (self.draws - 1.0) * q),
        }
    }
}

/// K = 2: `u + a e^u = top` by the Wright function.
fn linear_power(top: f64, gain: f64) -> InnerRoot {
    let omega = wright::omega(top + math::ln(gain));
    // omega + log omega is known: take the form that does not cancel.
    let u = if omega < 1.0 {
        top - omega
    } else {
        math::ln(omega / gain)
    };
    let u = u.min(0.0);
    InnerRoot {
        u,
        q: math::exp(u),
        slope: 1.0 + omega,
    }
}

/// The root of `u + rate e^u = top`.
fn lower_bound(top: f64, rate: f64) -> f64 {
    let omega = wright::omega(top + math::ln(rate));
    if omega < 1.0 {
        top - omega
    } else {
        math::ln(omega / rate)
    }
}
