//! Best-of-K exactly: a scalar dual root over one inner root a token.
//!
//! Divided by lam, with c = l / lam + log r and a = beta_bar w K / lam, the optimum has
//! `u_i - a_i (1 - e^(u_i))^(K-1) = c_i - nu`, and nu is where `sum e^(u_i) = 1`. Tokens with a = 0 enter as one
//! log-sum-exp.

use super::face::{Answer, Face};
use super::inner::{Inner, InnerRoot, Token};
use super::{CoverageTerm, Scratch, Solved, root, softmax};
use crate::math;

/// Gains beyond this are as good as infinite, and their products stay finite.
const LARGEST_GAIN: f64 = 1e120;

pub(super) fn solve(lam: f64, term: CoverageTerm, face: &Face, scratch: &mut Scratch, answer: &mut Answer) -> Solved {
    let gain = |i: usize| (term.beta_bar * term.budget / lam * face.w[i]).min(LARGEST_GAIN);
    if term.budget == 1.0 {
        // The coverage of one draw is linear.
        return softmax::shifted(lam, face, gain, answer);
    }
    // `not > 0` also where 0 * inf is NaN.
    let weighted = |i: &usize| gain(*i) > 0.0;
    if !(0..face.len()).any(|i| weighted(&i)) {
        return softmax::anchored(lam, face, answer);
    }
    let score = |i: usize| face.l[i] / lam + face.log_r[i];
    let shift = math::max((0..face.len()).map(score));
    let tokens = &mut scratch.tokens;
    tokens.clear();
    tokens.extend((0..face.len()).filter(weighted).map(|i| Token {
        index: i as u32,
        c: score(i) - shift,
        gain: gain(i),
        u: f64::NAN,
    }));
    let free = math::log_sum_exp((0..face.len()).filter(|i| !weighted(i)).map(|i| score(i) - shift));
    let nu = dual(term.budget, free, tokens);
    answer.log_q.clear();
    answer.log_q.extend((0..face.len()).map(|i| score(i) - shift - nu.x));
    for token in tokens.iter() {
        answer.log_q[token.index as usize] = token.u;
    }
    let log_total = answer.normalise_logs();
    Solved::iterated(lam * (nu.x + shift - 1.0), nu.iterations, math::expm1(log_total).abs())
}

/// The root of `log sum q(nu)`, bracketed by two softmax normalisers; leaves `u` of each token there.
fn dual(budget: f64, free: f64, tokens: &mut [Token]) -> root::Root {
    let normaliser = |with_gain: f64| {
        let weighted = math::log_sum_exp(tokens.iter().map(|token| token.c + with_gain * token.gain));
        math::log_sum_exp([free, weighted].into_iter())
    };
    let (low, high) = (normaliser(0.0), normaliser(1.0));
    let inner = Inner::new(budget);
    root::falling(low, high, high, |nu| {
        let mut total = math::Sum::default();
        let mut weight = math::Sum::default();
        let q = math::exp(free - nu);
        total.add(q);
        weight.add(q);
        for token in tokens.iter_mut() {
            // d <= 0 for every nu of the bracket; rounding must not say otherwise.
            let InnerRoot { u, q, slope } = inner.root((token.c - nu).min(0.0), token.gain, token.u);
            token.u = u;
            total.add(q);
            weight.add(q / slope);
        }
        let total = total.value();
        let log_total = math::ln(total);
        (log_total, nu + log_total * total / weight.value())
    })
}
