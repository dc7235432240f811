//! Coverage without a KL term: `q_i = [1 - ((nu - l_i) / A_i)_+^(1/(K-1))]_+`, `A_i = beta_bar w_i K`.

use super::face::{Answer, Face};
use super::inner::Token;
use super::{CoverageTerm, Scratch, Solved, argmax, root};
use crate::math;

pub(super) fn solve(term: CoverageTerm, face: &Face, scratch: &mut Scratch, answer: &mut Answer) -> Solved {
    let gain = |i: usize| (term.beta_bar * term.budget * face.w[i]).min(f64::MAX);
    let weighted = |i: usize| gain(i) > 0.0;
    if term.budget == 1.0 {
        return argmax::solve(
            face,
            |i| if weighted(i) { face.l[i] + gain(i) } else { face.l[i] },
            answer,
        );
    }
    if !(0..face.len()).any(weighted) {
        return argmax::solve(face, |i| face.l[i], answer);
    }
    // max l = 0 (Face), so nu >= 0, and only tokens with l + A > 0 can be active.
    let draws = term.budget - 1.0;
    let tokens = &mut scratch.tokens;
    tokens.clear();
    let active = (0..face.len()).filter(|&i| weighted(i) && face.l[i] + gain(i) > 0.0);
    tokens.extend(active.map(|i| Token {
        index: i as u32,
        c: -face.l[i],
        gain: gain(i),
        u: 0.0,
    }));
    answer.zeros(face.len());
    let level = Level { draws, tokens };
    let flooded = level.fill(f64::NEG_INFINITY).0;
    let (log_depth, iterations) = if flooded <= 1.0 {
        // nu = 0: the best token, if it has no gain of its own, takes what is left. (If it has one it holds all.)
        (f64::NEG_INFINITY, 0)
    } else {
        level.surface()
    };
    for token in tokens.iter() {
        answer.q[token.index as usize] = -math::expm1(log_share(token, draws, log_depth).min(0.0));
    }
    if flooded < 1.0 {
        let best = face.best_by(|i| if weighted(i) { f64::NEG_INFINITY } else { face.l[i] });
        answer.q[best] += 1.0 - flooded;
    }
    let total = answer.normalise();
    Solved::iterated(math::exp(draws * log_depth), iterations, (total - 1.0).abs())
}

/// The sum of q as a function of nu = max l + v^(K-1), through log v: for large K, nu - max l underflows and log v is
/// an ordinary number.
struct Level<'t> {
    draws: f64,
    tokens: &'t [Token],
}

impl Level<'_> {
    /// `sum q` and `-v d/dv sum q`.
    fn fill(&self, log_v: f64) -> (f64, f64) {
        let (mut total, mut slope) = (math::Sum::default(), math::Sum::default());
        for token in self.tokens {
            let log_rest = log_share(token, self.draws, log_v);
            if log_rest < 0.0 {
                total.add(-math::expm1(log_rest));
                // d log(1 - q) / d log v is the share of v^(K-1) in the depth of the token.
                let share = if token.c > 0.0 {
                    1.0 / (1.0 + math::exp(math::ln(token.c) - self.draws * log_v))
                } else {
                    1.0
                };
                slope.add(math::exp(log_rest) * share);
            }
        }
        (total.value(), slope.value())
    }

    /// log v where `sum q = 1`, given that the sum exceeds 1 at v = 0; with the number of evaluations.
    fn surface(&self) -> (f64, u32) {
        // At nu = max (l + A) nothing is left.
        let high = math::ln(math::max(self.tokens.iter().map(|token| token.gain - token.c))) / self.draws;
        let mut expansions = 0;
        let mut step = 1.0 / self.draws;
        let mut low = high - step;
        while expansions < 60 && self.fill(low).0 < 1.0 {
            step *= 4.0;
            low -= step;
            expansions += 1;
        }
        let root = root::falling(low, high, low, |log_v| {
            let (total, slope) = self.fill(log_v);
            // Newton in v, written for log v.
            (total - 1.0, log_v + math::ln_1p(((total - 1.0) / slope).max(-1.0)))
        });
        (root.x, root.iterations + expansions)
    }
}

/// `log(1 - q)` before clipping, `log((c + v^(K-1)) / A) / (K-1)`.
fn log_share(token: &Token, draws: f64, log_v: f64) -> f64 {
    let ratio = token.c / token.gain;
    // Denormal score differences: the ratio underflows before the difference of the logarithms loses anything.
    let log_ratio = if ratio >= f64::MIN_POSITIVE {
        math::ln(ratio)
    } else {
        math::ln(token.c) - math::ln(token.gain)
    };
    let own = log_ratio / draws;
    let level = log_v - math::ln(token.gain) / draws;
    let (small, large) = if own < level { (own, level) } else { (level, own) };
    if small == f64::NEG_INFINITY {
        return large;
    }
    large + math::ln_1p(math::exp(draws * (small - large))) / draws
}
