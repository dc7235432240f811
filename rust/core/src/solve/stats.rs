//! The scalars that are reported with every distribution.

use super::face::{Answer, Face};
use super::{Outcome, Solved, Term};
use crate::math::{self, Sum};
use crate::plan::Objective;

pub(super) fn outcome(objective: &Objective, face: &Face, term: Term, answer: &Answer, solved: &Solved) -> Outcome {
    let (mut linear, mut entropy, mut kl, mut kept) = (Sum::default(), Sum::default(), Sum::default(), Sum::default());
    for (i, (&q, &log_q)) in answer.q.iter().zip(&answer.log_q).enumerate() {
        if log_q > f64::NEG_INFINITY {
            kept.add(face.p[i]);
        }
        // What has underflowed contributes nothing.
        if q > 0.0 {
            linear.add(q * face.l[i]);
            entropy.add(-q * log_q);
            kl.add(q * (log_q - face.log_r[i]));
        }
    }
    let (entropy, kl) = (entropy.value(), kl.value());
    let regulariser = match *objective {
        Objective::Argmax => 0.0,
        Objective::Softmax { lam } => -lam * entropy,
        Objective::AnchoredSoftmax { lam } => lam * kl,
        Objective::Quadratic { lam } => 0.5 * lam * math::sum(answer.q.iter().map(|q| q * q)),
        Objective::Tsallis { lam, alpha } => lam * tsallis(alpha, answer),
        Objective::Coverage { lam, .. } | Objective::Mirror { lam, .. } => {
            let divergence = if lam > 0.0 { lam * kl } else { 0.0 };
            divergence
                - if term.beta_bar > 0.0 {
                    term.beta_bar * covered(term, face, answer)
                } else {
                    0.0
                }
        }
    };
    Outcome {
        status: solved.status,
        threshold: solved.threshold + face.offset,
        objective: linear.value() - regulariser + face.offset,
        entropy: entropy.max(0.0),
        kl: kl.max(0.0),
        kept_mass: kept.value(),
        multiplier: 1.0,
        iterations: solved.iterations,
    }
}

/// `sum (q^alpha - q) / (alpha (alpha - 1))`, which does not cancel as alpha approaches 1.
fn tsallis(alpha: f64, answer: &Answer) -> f64 {
    let power = alpha - 1.0;
    let terms = answer.q.iter().zip(&answer.log_q).filter(|(q, _)| **q > 0.0);
    math::sum(terms.map(|(q, log_q)| q * math::expm1(power * log_q))) / (alpha * power)
}

/// `sum w (1 - (1 - q)^K)`.
fn covered(term: Term, face: &Face, answer: &Answer) -> f64 {
    let hit = |q: f64| {
        if q < 1.0 {
            -math::expm1(term.budget * math::ln_1p(-q))
        } else {
            1.0
        }
    };
    math::sum(face.w.iter().zip(&answer.q).map(|(w, &q)| w * hit(q)))
}
