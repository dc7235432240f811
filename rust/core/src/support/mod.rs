//! Faces of the simplex: which of the allowed tokens each support keeps.
//!
//! Every rule is measured on all allowed tokens, whatever the other rules drop, so supports commute. A chain of rules is ordered
//! in itself, and commutes with what is beside it.

pub(crate) mod candidates;
mod chain;
pub(crate) mod cut;
mod cutoff;
pub(crate) mod nucleus;
pub(crate) mod rank;
mod top_h;
pub(crate) mod typical;
mod weighed;

use crate::math;
use crate::plan::{Plan, Rule, Support};
use crate::prepare::Prepared;
pub(crate) use chain::Rest;
use rank::Ranked;

/// Sets `keep` to the face of a plan: what its supports and its chains keep. Empty only where a rule drops the best token, since
/// each support and each chain keeps some token, and otherwise that one.
pub(crate) fn face(plan: &Plan, prepared: &Prepared, ranked: &mut Vec<Ranked>, rest: &mut Rest, keep: &mut Vec<bool>) {
    intersect(&plan.supports, plan.temperature, prepared, ranked, keep);
    for chain in &plan.chains {
        chain::narrow(chain, plan.temperature, prepared, ranked, rest, keep);
    }
}

/// Sets `keep` to the intersection of the supports.
pub(crate) fn intersect(
    supports: &[Support],
    temperature: f64,
    prepared: &Prepared,
    ranked: &mut Vec<Ranked>,
    keep: &mut Vec<bool>,
) {
    keep.clear();
    keep.resize(prepared.x.len(), true);
    for &support in supports {
        let p = prepared.probs(support.raw);
        apply(support, &prepared.x, p, prepared.best, temperature, ranked, keep);
    }
}

/// Narrows `keep` to what one rule keeps of tokens with scores x and probabilities p, if the rule is about these.
fn apply(
    Support { rule, raw }: Support,
    x: &[f64],
    p: &[f64],
    best: usize,
    temperature: f64,
    ranked: &mut Vec<Ranked>,
    keep: &mut [bool],
) {
    let had_best = keep[best];
    match rule {
        Rule::TopK(k) => rank::top_k(k, x, ranked, keep),
        Rule::TopP(mass) => rank::top_p(mass, x, p, ranked, keep),
        Rule::MinP(rho) if rho <= 0.0 => {}
        Rule::MinP(rho) => cutoff::at_least(x[best] + min_p_offset(rho, raw, temperature), x, keep),
        Rule::TopNSigma(n) => cutoff::top_n_sigma(n, x, x[best], keep),
        Rule::PLess => cutoff::p_less(p, keep),
        Rule::Epsilon(eps) => cutoff::at_least(eps, p, keep),
        Rule::Eta(eps) => cutoff::eta(eps, p, keep),
        Rule::Typical(mass) => typical::keep(mass, x, p, best, ranked, keep),
        Rule::TopH(alpha) => top_h::keep(alpha, x, p, best, ranked, keep),
    }
    // In exact arithmetic it stays anyway; rounding (and rho > 1) must not change that. What an earlier rule dropped stays dropped.
    keep[best] = had_best && (keep[best] || rule.keeps_best());
}

/// `T ln rho`, T = 1 if raw: how far below the best token `p >= rho max p` ends.
pub(crate) fn min_p_offset(rho: f64, raw: bool, temperature: f64) -> f64 {
    let temperature = if raw { 1.0 } else { temperature };
    temperature * math::ln(rho)
}
