//! Algorithm 1 of arXiv:2602.18292: mirror ascent with the entropy as mirror map, in log space.

use super::face::{Answer, Face};
use super::{CoverageTerm, Solved};
use crate::math::{self, FLOOR};

pub(super) fn solve(
    lam: f64,
    term: CoverageTerm,
    steps: u32,
    eta: Option<f64>,
    face: &Face,
    answer: &mut Answer,
) -> Solved {
    answer.set_softmax(face.log_r.iter().copied());
    let eta = eta.unwrap_or_else(|| guaranteed_step(lam, term, math::max(face.w.iter().copied())));
    for _ in 0..steps {
        for i in 0..face.len() {
            let moved = answer.log_q[i] + eta * gradient(lam, term, face, answer, i);
            // A step far too long must not leave the finite numbers, or the next one would subtract infinities.
            answer.log_q[i] = moved.clamp(FLOOR, -FLOOR);
        }
        answer.normalise_logs();
        answer.log_q.iter_mut().for_each(|log_q| *log_q = log_q.max(FLOOR));
    }
    let threshold = math::sum((0..face.len()).map(|i| match answer.q[i] {
        0.0 => 0.0,
        q => q * gradient(lam, term, face, answer, i),
    }));
    Solved {
        iterations: steps,
        ..Solved::closed(threshold)
    }
}

/// `l - lam (log(q / r) + 1) + beta_bar w K (1 - q)^(K-1)`.
fn gradient(lam: f64, term: CoverageTerm, face: &Face, answer: &Answer, i: usize) -> f64 {
    let coverage = term.beta_bar * face.w[i] * term.budget * math::pow_1m(answer.q[i], term.budget - 1.0);
    let divergence = if lam > 0.0 {
        lam * (answer.log_q[i] - face.log_r[i] + 1.0)
    } else {
        0.0
    };
    face.l[i] - divergence + coverage
}

/// 1 / L with L the smoothness of the objective relative to the entropy, on a face with weights up to `w_max`; 1 if the objective is
/// linear.
pub(super) fn guaranteed_step(lam: f64, term: CoverageTerm, w_max: f64) -> f64 {
    let smoothness = lam + term.beta_bar * w_max * curvature(term.budget);
    if smoothness > 0.0 { 1.0 / smoothness } else { 1.0 }
}

/// The maximum of K (K-1) q (1-q)^(K-2), at q = 1 / (K-1).
pub(super) fn curvature(budget: f64) -> f64 {
    match budget {
        1.0 => 0.0,
        2.0 => 2.0,
        _ => budget * math::powf((budget - 2.0) / (budget - 1.0), budget - 2.0),
    }
}
