//! Faces of the simplex: which of the allowed tokens each support keeps.
//!
//! Every rule is measured on all allowed tokens, whatever the other rules drop, so supports commute.

pub(crate) mod candidates;
pub(crate) mod cut;
mod cutoff;
pub(crate) mod nucleus;
pub(crate) mod rank;
mod weighed;

use crate::math;
use crate::plan::{Rule, Support};
use crate::prepare::Prepared;
use rank::Ranked;

/// Sets `keep` to the intersection of the supports; never empty, since every rule keeps the best token.
pub(crate) fn intersect(
    supports: &[Support],
    temperature: f64,
    prepared: &Prepared,
    ranked: &mut Vec<Ranked>,
    keep: &mut Vec<bool>,
) {
    keep.clear();
    keep.resize(prepared.x.len(), true);
    for &Support { rule, raw } in supports {
        let (x, p) = (&prepared.x, prepared.probs(raw));
        match rule {
            Rule::TopK(k) => rank::top_k(k, x, ranked, keep),
            Rule::TopP(mass) => rank::top_p(mass, x, p, ranked, keep),
            Rule::MinP(rho) if rho <= 0.0 => {}
            Rule::MinP(rho) => {
                let least = x[prepared.best] + min_p_offset(rho, raw, temperature);
                cutoff::at_least(least, x, keep);
            }
            Rule::TopNSigma(n) => cutoff::top_n_sigma(n, x, x[prepared.best], keep),
            Rule::PLess => cutoff::p_less(p, keep),
            Rule::Epsilon(eps) => cutoff::at_least(eps, p, keep),
            Rule::Eta(eps) => cutoff::eta(eps, p, keep),
        }
        // True of every rule in exact arithmetic; rounding (and rho > 1) must not break it.
        keep[prepared.best] = true;
    }
}

/// `T ln rho`, T = 1 if raw: how far below the best token `p >= rho max p` ends.
pub(crate) fn min_p_offset(rho: f64, raw: bool, temperature: f64) -> f64 {
    let temperature = if raw { 1.0 } else { temperature };
    temperature * math::ln(rho)
}
