//! The scalar dual of the tokens with a curvature.

use super::flat::Found;
use super::terms::Law;
use super::token::{Move, State, Token};
use crate::math;
use crate::solve::face::Answer;
use crate::solve::{fill, root};
use crate::support::rank::Ranked;

/// The tokens with a curvature, and `sum q` over them as a function of nu.
pub(super) struct Dual<'a> {
    pub(super) law: &'a Law,
    pub(super) tokens: &'a mut [Token],
    pub(super) values: &'a mut Vec<f64>,
    pub(super) selection: &'a mut Vec<f64>,
    pub(super) sample: &'a mut Vec<Token>,
    pub(super) cap: f64,
    pub(super) log_cap: f64,
    /// Of all tokens of the face.
    pub(super) count: usize,
    /// Where the tokens are.
    pub(super) nu: f64,
}

/// A sum over tokens, in parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Total {
    /// Of the tokens that have less than the cap, and of the others.
    free: f64,
    capped: f64,
    /// `-d/d nu` of the first; and of the second, as if there were no cap.
    slope: f64,
    capped_slope: f64,
}

/// Where `sum q` is what it should be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) nu: f64,
    pub(super) iterations: u32,
    pub(super) settled: bool,
    /// The share of the distribution at `nu`; that in `Dual::values` has the rest.
    pub(super) share: f64,
    /// By how much the sum changes between neighbouring floats.
    pub(super) unresolved: f64,
}

/// Tokens whose probabilities are summed up without compensation.
const BLOCK: usize = 64;

/// A residual up to this is rounding.
const SETTLED: f64 = 1e-11;

/// A tolerance that is none.
const FINE: f64 = 1e-15;

/// What the sum may change by between neighbouring multipliers.
const RESOLVED: f64 = 1e-12;

/// What Newton's method leaves of a residual is of the order of its square; errors need not be much smaller than that.
fn expected_error(residual: f64) -> f64 {
    1e-3 * (residual * residual).min(1.0)
}

impl Dual<'_> {
    /// Shifts the linear term, and forgets where the tokens were.
    pub(super) fn shift(&mut self, shift: f64) {
        for token in self.tokens.iter_mut() {
            (token.a, token.dead, token.state) = (token.a - shift, false, State::Zero);
        }
    }

    /// Finds out where the tokens are full.
    pub(super) fn prepare(&mut self) {
        for token in self.tokens.iter_mut() {
            token.top = self.law.tangent(&token.numbers, self.log_cap).value;
        }
    }

    /// The linear term of the largest token that is not full, if the root is much nearer to it than to 0, and needs to be.
    pub(super) fn nearer(&self, root: &Root) -> Option<f64> {
        let free = self.tokens.iter().filter(|token| token.state == State::Free);
        let largest = free.reduce(|a, b| if b.u > a.u { b } else { a })?;
        let apart = (root.nu - largest.a).abs();
        (root.unresolved > RESOLVED && root.nu.abs() > 4.0 * apart).then_some(largest.a)
    }

    /// Moves all tokens to a multiplier, as exactly as can be.
    pub(super) fn evaluate(&mut self, nu: f64) -> Total {
        self.go(nu, 0.0)
    }

    fn go(&mut self, nu: f64, tolerance: f64) -> Total {
        let to = Move {
            nu,
            from: std::mem::replace(&mut self.nu, nu),
            tolerance,
            log_cap: self.log_cap,
        };
        Total::of(self.law, self.tokens, &to)
    }

    /// A multiplier from which on up the sum is at most `goal`, which is at least 1 / n for each token.
    pub(super) fn high(&self, goal: f64) -> f64 {
        let log_share = math::ln(goal / self.count as f64).min(self.log_cap);
        let tangent = |token: &Token| self.law.tangent(&token.numbers, log_share).value;
        math::max(self.tokens.iter().map(|token| token.a - tangent(token)))
    }

    /// The largest multiplier at which full tokens alone have `goal`; none if there are too few.
    pub(super) fn low(&mut self, goal: f64) -> Option<f64> {
        self.values.clear();
        self.values.extend(self.tokens.iter().map(|token| token.a - token.top));
        let count = ((goal - fill::ROUNDING) / self.cap).ceil();
        fill::nth_largest(self.values, count, self.selection)
    }

    /// Where the sum is `goal`, between two multipliers where it is not less and not more.
    pub(super) fn solve(&mut self, goal: f64, low: f64, high: f64) -> Root {
        if !(low.is_finite() && high.is_finite()) {
            return Root {
                nu: low,
                iterations: 0,
                settled: false,
                share: 1.0,
                unresolved: 0.0,
            };
        }
        // Beyond the end, so that a root at it is between.
        let high = high.max(low);
        let high = high + 1e-3 * (high - low) + 1e-12 * high.abs() + f64::MIN_POSITIVE;
        let rate = self.law.rate();
        self.revive();
        let start = self.rough_start(goal, low, high);
        let (mut residual, mut tolerance, mut slope) = (1.0_f64, 0.0, 0.0);
        let root = root::falling(low, high, start, |nu| {
            tolerance = expected_error(residual);
            let total = self.go(nu, tolerance);
            residual = total.sum() - goal;
            slope = total.slope;
            if residual >= 0.0 {
                // Larger multipliers are all there is to come.
                for token in self.tokens.iter_mut() {
                    token.dead = token.dead || token.vanished();
                }
            }
            total.step(goal, nu, rate)
        });
        if tolerance > FINE {
            residual = self.evaluate(root.x).sum() - goal;
        }
        if residual.abs() <= SETTLED {
            return Root {
                nu: root.x,
                iterations: root.iterations,
                settled: true,
                share: 1.0,
                unresolved: f64::EPSILON * root.x.abs() * slope,
            };
        }
        self.revive();
        let (low, high, iterations) = self.narrow(goal, (low, high), root.x);
        self.mix(goal, low, high, root.iterations + iterations)
    }

    /// A multiplier near the root, from a sample of many tokens: the best, and of the others one in so many.
    fn rough_start(&mut self, goal: f64, low: f64, high: f64) -> f64 {
        const MANY: usize = 1 << 13;
        const BEST: f64 = 512.0;
        const STRIDE: usize = 16;
        if self.tokens.len() < MANY {
            return low;
        }
        self.values.clear();
        self.values.extend(self.tokens.iter().map(|token| token.a));
        let Some(least) = fill::nth_largest(self.values, BEST, self.selection) else {
            return low;
        };
        self.sample.clear();
        self.sample.extend(self.tokens.iter().filter(|token| token.a > least));
        let count = self.sample.len();
        let others = self.tokens.iter().filter(|token| token.a <= least);
        self.sample.extend(others.skip(STRIDE / 2).step_by(STRIDE));
        let (best, others) = self.sample.split_at_mut(count);
        let (mut residual, mut from) = (1.0, f64::NAN);
        let root = root::falling(low, high, low, |nu| {
            let to = Move {
                nu,
                from: std::mem::replace(&mut from, nu),
                tolerance: expected_error(residual),
                log_cap: self.log_cap,
            };
            let total = Total::of(self.law, best, &to).plus(&Total::of(self.law, others, &to), STRIDE as f64);
            residual = total.sum() - goal;
            let (found, next) = total.step(goal, nu, self.law.rate());
            // A sample need not be solved exactly.
            (if found.abs() < 1e-4 { 0.0 } else { found }, next)
        });
        root.x
    }

    fn revive(&mut self) {
        self.tokens.iter_mut().for_each(|token| token.dead = false);
    }

    /// Neighbouring floats near a multiplier between which the sum passes `goal`, and the number of evaluations.
    fn narrow(&mut self, goal: f64, (mut low, mut high): (f64, f64), near: f64) -> (f64, f64, u32) {
        let mut iterations = 1;
        let mut stride = (f64::EPSILON * near.abs()).max(f64::MIN_POSITIVE);
        let mut at = near.clamp(low, high);
        let is_low = self.evaluate(at).sum() >= goal;
        loop {
            let next = if is_low {
                (at + stride).min(high)
            } else {
                (at - stride).max(low)
            };
            if next == at {
                break;
            }
            iterations += 1;
            if (self.evaluate(next).sum() >= goal) != is_low {
                (low, high) = if is_low { (at, next) } else { (next, at) };
                break;
            }
            (at, stride) = (next, 4.0 * stride);
        }
        loop {
            let middle = low + 0.5 * (high - low);
            if !(low < middle && middle < high) {
                return (low, high, iterations);
            }
            iterations += 1;
            if self.evaluate(middle).sum() >= goal {
                low = middle;
            } else {
                high = middle;
            }
        }
    }

    /// The mixture of the distributions at two multipliers that has `goal`: the upper one stays with the tokens, log q of the
    /// lower one in `values`.
    fn mix(&mut self, goal: f64, low: f64, high: f64, iterations: u32) -> Root {
        let above = self.evaluate(low);
        self.values.clear();
        self.values.extend(self.tokens.iter().map(|token| token.u));
        let below = self.evaluate(high);
        // Sums that are steep in the multiplier are no better than its rounding, and need not fall between neighbours.
        let explained = |total: &Total, nu: f64| {
            let rounding = 8.0 * f64::EPSILON * nu.abs() * total.slope;
            (total.sum() - goal).abs() <= SETTLED.max(rounding)
        };
        let settled = explained(&above, low) || explained(&below, high);
        let (above, below) = (above.sum(), below.sum());
        let passes = above >= goal && goal >= below && above > below;
        Root {
            nu: high,
            iterations,
            settled: passes || settled,
            share: if passes { (above - goal) / (above - below) } else { 1.0 },
            unresolved: (above - below).abs().max((above - goal).abs()),
        }
    }

    /// Writes the distribution that was found.
    pub(super) fn write(&mut self, found: &Found, flats: &[Ranked], answer: &mut Answer) {
        let share = found.root.share;
        answer.zeros(self.count);
        answer.log_q.clear();
        answer.log_q.resize(self.count, f64::NEG_INFINITY);
        let to = Move {
            nu: found.root.nu,
            from: f64::NAN,
            tolerance: 0.0,
            log_cap: self.log_cap,
        };
        let (cap, log_cap) = (self.cap, self.log_cap);
        // Exactly the cap where log q says so.
        let probability = |log_q: f64| if log_q < log_cap { math::exp(log_q) } else { cap };
        for (k, token) in self.tokens.iter_mut().enumerate() {
            if token.dead {
                token.go(self.law, &to);
            }
            let i = token.index as usize;
            (answer.log_q[i], answer.q[i]) = if share < 1.0 && self.values[k] != token.u {
                let parts = [math::ln(share) + token.u, math::ln_1p(-share) + self.values[k]];
                let log_q = math::log_sum_exp(parts.into_iter());
                (log_q, probability(log_q))
            } else {
                (token.u, probability(token.u))
            };
        }
        for (k, item) in flats.iter().enumerate() {
            let q = match k.cmp(&found.full) {
                std::cmp::Ordering::Less => self.cap,
                std::cmp::Ordering::Equal => found.rest,
                std::cmp::Ordering::Greater => 0.0,
            };
            if q > 0.0 {
                (answer.log_q[item.index as usize], answer.q[item.index as usize]) = (math::ln(q), q);
            }
        }
        self.normalise(answer);
    }

    /// Takes what the root left over from the tokens that are not full.
    fn normalise(&self, answer: &mut Answer) {
        let (mut free, mut full) = (math::Sum::default(), math::Sum::default());
        for &q in &answer.q {
            if q < self.cap {
                free.add(q)
            } else {
                full.add(self.cap)
            };
        }
        let ratio = (1.0 - full.value()) / free.value();
        if !(ratio > 0.0 && ratio.is_finite()) {
            if (full.value() + free.value() - 1.0).abs() > SETTLED {
                answer.normalise_logs();
            }
            return;
        }
        let log_ratio = math::ln(ratio);
        for (q, log_q) in answer.q.iter_mut().zip(&mut answer.log_q) {
            if *q < self.cap {
                (*q, *log_q) = ((*q * ratio).min(self.cap), (*log_q + log_ratio).min(self.log_cap));
            } else {
                (*q, *log_q) = (self.cap, self.log_cap);
            }
        }
    }
}

impl Total {
    /// Of tokens moved to a multiplier.
    fn of(law: &Law, tokens: &mut [Token], to: &Move) -> Self {
        let (mut free, mut slope) = (math::Sum::default(), math::Sum::default());
        let (mut capped, mut capped_slope) = (0.0, 0.0);
        for block in tokens.chunks_mut(BLOCK) {
            let (mut sum, mut weight) = (0.0, 0.0);
            for token in block.iter_mut().filter(|token| !token.dead) {
                let q = token.go(law, to);
                if token.state == State::Capped {
                    capped += q;
                    capped_slope += q / law.tangent(&token.numbers, to.log_cap).slope;
                } else if q > 0.0 {
                    sum += q;
                    weight += q / token.slope;
                }
            }
            free.add(sum);
            slope.add(weight);
        }
        Total {
            free: free.value(),
            capped,
            slope: slope.value(),
            capped_slope,
        }
    }

    /// With `factor` times others.
    fn plus(&self, other: &Total, factor: f64) -> Self {
        Total {
            free: self.free + factor * other.free,
            capped: self.capped + factor * other.capped,
            slope: self.slope + factor * other.slope,
            capped_slope: self.capped_slope + factor * other.capped_slope,
        }
    }

    pub(super) fn sum(&self) -> f64 {
        self.free + self.capped
    }

    /// The residual, and where Newton's method goes, in `sum^rate` of the tokens that are not full; of all, if the full ones alone
    /// are too many. Not a number where there is nothing to go by.
    fn step(&self, goal: f64, nu: f64, rate: f64) -> (f64, f64) {
        let residual = math::ln(self.sum() / goal);
        let (sum, goal, slope) = if self.capped < goal {
            (self.free, goal - self.capped, self.slope)
        } else {
            (self.sum(), goal, self.slope + self.capped_slope)
        };
        let ratio = math::ln(sum / goal);
        let gain = match rate {
            0.0 => ratio,
            _ => -math::expm1(-rate * ratio) / rate,
        };
        let moved = sum * gain / slope;
        let stuck = moved == 0.0 && residual != 0.0;
        (residual, if stuck { f64::NAN } else { nu + moved })
    }
}
