//! Sums of terms, each a sum over tokens: `max <q, l> - sum phi_i(q_i)` with `0 <= q_i <= cap`, by a scalar dual.
//!
//! For a multiplier nu of `sum q = 1` each token is on its own: `q_i(nu)` is where `phi_i'(q) = l_i - nu`, or 0 or the cap where that is
//! nowhere between. As phi_i' increases, `sum q(nu)` does not, and nu is where it is 1, between
//!
//! * the k-th largest `l_i - phi_i'(cap)`, k the number of full tokens that hold everything: k tokens are full there;
//! * the largest `l_i - phi_i'(1/n)`: no token has more than 1/n there.
//!
//! Tokens whose phi' is constant, those of a linear objective, have all or nothing, and are put in order (`flat`). Where phi' is nearly
//! so, the sum jumps between neighbouring floats, and the distributions at both are mixed.

mod flat;
mod terms;
mod token;

use super::face::{Answer, Face};
use super::{CoverageTerm, Scratch as Shared, Solved, fill, root};
use crate::math;
use crate::plan::{Anchor, Term, TermKind};
use crate::status::Status;
use crate::support::rank::Ranked;
use terms::{Law, Numbers};
pub(super) use terms::{hit, tsallis, value};
use token::{State, Token};

/// Scratch of this solver.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    law: Law,
    tokens: Vec<Token>,
    flats: Vec<Ranked>,
    values: Vec<f64>,
    zeros: Vec<f64>,
}

pub(super) fn solve(
    terms: &[Term],
    cap: f64,
    covering: CoverageTerm,
    face: &Face,
    scratch: &mut Shared,
    answer: &mut Answer,
) -> Solved {
    if (face.len() as f64) < fill::fewest(cap) {
        return Solved::INFEASIBLE;
    }
    let scratch = &mut scratch.separable;
    let solved = run(terms, cap, covering, face, &face.l, scratch, answer);
    let anchored = terms.iter().rev().find(|term| term.kind.anchor() != Anchor::None);
    let Some(Term { kind, .. }) = anchored.filter(|_| solved.status != Status::Ok) else {
        return solved;
    };
    // A distance from an anchor that leaves the numbers leaves nothing of the scores: every divergence alone, as KL does, comes
    // nearest with `min(cap, k r)`.
    let nearest = [Term {
        kind: TermKind::Kl(kind.anchor()),
        coefficient: 1.0,
    }];
    scratch.zeros.clear();
    scratch.zeros.resize(face.len(), 0.0);
    let zeros = std::mem::take(&mut scratch.zeros);
    run(&nearest, cap, CoverageTerm::NONE, face, &zeros, scratch, answer);
    scratch.zeros = zeros;
    Solved {
        threshold: f64::NEG_INFINITY,
        ..solved
    }
}

/// Solves with `linear` as the linear term.
fn run(
    terms: &[Term],
    cap: f64,
    covering: CoverageTerm,
    face: &Face,
    linear: &[f64],
    scratch: &mut Scratch,
    answer: &mut Answer,
) -> Solved {
    let Scratch {
        law,
        tokens,
        flats,
        values,
        ..
    } = scratch;
    let count = face.len();
    law.set(terms, covering.budget);
    tokens.clear();
    flats.clear();
    for (i, l) in linear.iter().enumerate() {
        let numbers = Numbers::of(face, i, covering);
        let a = l - law.constant(&numbers);
        match law.flat(&numbers) {
            Some(slope) => flats.push(Ranked {
                value: a - slope,
                index: i as u32,
            }),
            None => tokens.push(Token::new(i as u32, numbers, a)),
        }
    }
    if fill::fills_exactly(cap, count) {
        return full(law, tokens, flats, count, answer);
    }
    // So that differences of what is near the end of the full tokens are exact.
    values.clear();
    values.extend(tokens.iter().map(|token| token.a));
    let most = fill::fewest(cap).min(tokens.len() as f64);
    let shift = fill::nth_largest(values, most).unwrap_or(0.0);
    let mut dual = Dual {
        law,
        tokens,
        values,
        cap,
        log_cap: math::ln(cap),
        count,
    };
    dual.shift(shift);
    flats.iter_mut().for_each(|item| item.value -= shift);
    fill::keep_first(flats, fill::fewest(cap), &face.x);
    let found = flat::find(&mut dual, flats);
    dual.write(&found, flats, answer);
    let status = match found.root.settled {
        true => Status::Ok,
        false => Status::ReducedAccuracy,
    };
    Solved {
        iterations: found.root.iterations,
        status,
        ..Solved::closed(found.root.nu + shift)
    }
}

/// Every token has the cap; any smaller threshold would do.
fn full(law: &Law, tokens: &[Token], flats: &[Ranked], count: usize, answer: &mut Answer) -> Solved {
    let share = -math::ln(count as f64);
    answer.log_q.clear();
    answer.log_q.resize(count, share);
    answer.normalise_logs();
    let curved = tokens
        .iter()
        .map(|token| token.a - law.tangent(&token.numbers, share).value);
    let threshold = curved
        .chain(flats.iter().map(|item| item.value))
        .fold(f64::INFINITY, f64::min);
    Solved::closed(threshold)
}

/// The tokens with a curvature, and `sum q` over them as a function of nu.
struct Dual<'a> {
    law: &'a Law,
    tokens: &'a mut [Token],
    values: &'a mut Vec<f64>,
    cap: f64,
    log_cap: f64,
    /// Of all tokens of the face.
    count: usize,
}

/// A sum over tokens, in parts.
#[derive(Clone, Copy, Debug)]
struct Total {
    /// Of the tokens that have less than the cap, and of the others.
    free: f64,
    capped: f64,
    /// `-d/d nu` of the first; and of the second, as if there were no cap.
    slope: f64,
    capped_slope: f64,
}

/// Where `sum q` is what it should be.
#[derive(Clone, Copy, Debug)]
struct Root {
    nu: f64,
    iterations: u32,
    settled: bool,
    /// The share of the distribution at `nu`; that in `Dual::values` has the rest.
    share: f64,
}

/// A residual up to this is rounding.
const SETTLED: f64 = 1e-11;

impl Dual<'_> {
    /// Shifts the linear term, and prepares the tokens.
    fn shift(&mut self, shift: f64) {
        for token in self.tokens.iter_mut() {
            token.a -= shift;
            let tangent = self.law.tangent(&token.numbers, self.log_cap);
            (token.top, token.top_slope) = (tangent.value, tangent.slope);
        }
    }

    /// Moves all tokens to a multiplier.
    fn evaluate(&mut self, nu: f64) -> Total {
        let (mut free, mut slope) = (math::Sum::default(), math::Sum::default());
        let (mut full, mut capped_slope) = (0_u32, 0.0);
        for token in self.tokens.iter_mut().filter(|token| !token.dead) {
            token.evaluate(self.law, nu, self.log_cap);
            match token.state {
                State::Capped => {
                    full += 1;
                    capped_slope += self.cap / token.top_slope;
                }
                State::Free if token.q > 0.0 => {
                    free.add(token.q);
                    slope.add(token.q / token.slope);
                }
                _ => {}
            }
        }
        Total {
            free: free.value(),
            capped: f64::from(full) * self.cap,
            slope: slope.value(),
            capped_slope,
        }
    }

    /// A multiplier from which on up the sum is at most `goal`, which is at least 1 / n for each token.
    fn high(&self, goal: f64) -> f64 {
        let log_share = math::ln(goal / self.count as f64).min(self.log_cap);
        let tangent = |token: &Token| self.law.tangent(&token.numbers, log_share).value;
        math::max(self.tokens.iter().map(|token| token.a - tangent(token)))
    }

    /// A multiplier at which full tokens alone have `goal`, or as much as they can.
    fn low(&mut self, goal: f64) -> f64 {
        self.values.clear();
        self.values.extend(self.tokens.iter().map(|token| token.a - token.top));
        let count = (goal / self.cap).ceil().min(self.tokens.len() as f64);
        fill::nth_largest(self.values, count).unwrap_or(f64::NEG_INFINITY)
    }

    /// Where the sum is `goal`, between two multipliers where it is not less and not more.
    fn solve(&mut self, goal: f64, low: f64, high: f64) -> Root {
        if !(low.is_finite() && high.is_finite()) {
            return Root {
                nu: low,
                iterations: 0,
                settled: false,
                share: 1.0,
            };
        }
        // Beyond the end, so that a root at it is between.
        let high = high.max(low);
        let high = high + 1e-3 * (high - low) + 1e-12 * high.abs() + f64::MIN_POSITIVE;
        let rate = self.law.rate();
        self.revive();
        let mut residual = f64::INFINITY;
        let root = root::falling(low, high, low, |nu| {
            let total = self.evaluate(nu);
            residual = total.sum() - goal;
            if residual >= 0.0 {
                // Larger multipliers are all there is to come.
                for token in self.tokens.iter_mut() {
                    token.dead = token.dead || token.vanished();
                }
            }
            total.step(goal, nu, rate)
        });
        if residual.abs() <= SETTLED {
            return Root {
                nu: root.x,
                iterations: root.iterations,
                settled: true,
                share: 1.0,
            };
        }
        self.revive();
        let (low, high, iterations) = self.narrow(goal, (low, high), root.x);
        self.mix(goal, low, high, root.iterations + iterations)
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
        let above = self.evaluate(low).sum();
        self.values.clear();
        self.values.extend(self.tokens.iter().map(|token| token.u));
        let below = self.evaluate(high).sum();
        let passes = above >= goal && goal >= below && above > below;
        Root {
            nu: high,
            iterations,
            settled: passes || (above - goal).abs() <= SETTLED || (below - goal).abs() <= SETTLED,
            share: if passes { (above - goal) / (above - below) } else { 1.0 },
        }
    }

    /// Writes the distribution that was found.
    fn write(&mut self, found: &flat::Found, flats: &[Ranked], answer: &mut Answer) {
        let share = found.root.share;
        answer.zeros(self.count);
        answer.log_q.clear();
        answer.log_q.resize(self.count, f64::NEG_INFINITY);
        for (k, token) in self.tokens.iter_mut().enumerate() {
            if token.dead {
                token.evaluate(self.law, found.root.nu, self.log_cap);
            }
            let i = token.index as usize;
            (answer.log_q[i], answer.q[i]) = if share < 1.0 && self.values[k] != token.u {
                let parts = [math::ln(share) + token.u, math::ln_1p(-share) + self.values[k]];
                let log_q = math::log_sum_exp(parts.into_iter());
                (log_q, math::exp(log_q))
            } else {
                (token.u, token.q)
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
    fn sum(&self) -> f64 {
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
