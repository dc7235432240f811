//! The scalars that are reported with every distribution.

use super::face::{Answer, Face};
use super::{CoverageTerm, Outcome, Solved, separable};
use crate::math::{self, Sum};
use crate::plan::Objective;

pub(super) fn outcome(
    objective: &Objective,
    face: &Face,
    term: CoverageTerm,
    answer: &Answer,
    solved: &Solved,
) -> Outcome {
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
        Objective::Tsallis { lam, alpha } => {
            let tokens = answer.q.iter().zip(&answer.log_q);
            lam * math::sum(tokens.map(|(&q, &log_q)| separable::tsallis(alpha, q, log_q)))
        }
        Objective::Coverage { lam, .. } | Objective::Mirror { lam, .. } => {
            let divergence = if lam > 0.0 { lam * kl } else { 0.0 };
            divergence
                - if term.beta_bar > 0.0 {
                    term.beta_bar * covered(term, face, answer)
                } else {
                    0.0
                }
        }
        Objective::Separable { ref terms, .. } => {
            math::sum(terms.iter().map(|of| separable::value(of, term, face, answer)))
        }
        Objective::GreedyFill => 0.0,
        Objective::AdaptiveK { base, price } => separable::value(&base, term, face, answer) + price * face.len() as f64,
    };
    let multiplied = match solved.multiplier {
        0.0 => 0.0,
        multiplier => multiplier * regulariser,
    };
    Outcome {
        status: solved.status,
        threshold: solved.threshold + face.offset,
        objective: linear.value() - multiplied + face.offset,
        entropy: entropy.max(0.0),
        kl: kl.max(0.0),
        kept_mass: kept.value(),
        multiplier: solved.multiplier,
        iterations: solved.iterations,
    }
}

/// `sum w (1 - (1 - q)^K)`.
fn covered(term: CoverageTerm, face: &Face, answer: &Answer) -> f64 {
    math::sum(
        face.w
            .iter()
            .zip(&answer.q)
            .map(|(w, &q)| w * separable::hit(term.budget, q)),
    )
}
