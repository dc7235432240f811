//! Chains, the ordered truncation of the engines: each rule is measured on the renormalised rest of the one before it.
//!
//! Every rule keeps some token of those that it is measured on, so a chain is never without any.

use super::apply;
use super::rank::Ranked;
use crate::math::FLOOR;
use crate::plan::{Rule, Support};
use crate::prepare::{Prepared, log_softmax};

/// What a chain has left so far; no value survives a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rest {
    /// Positions in the compact set, ascending.
    indices: Vec<u32>,
    x: Vec<f64>,
    p: Vec<f64>,
    log_p: Vec<f64>,
    keep: Vec<bool>,
}

/// Narrows `keep` to what a chain leaves of all allowed tokens.
pub(super) fn narrow(
    chain: &[Support],
    temperature: f64,
    prepared: &Prepared,
    ranked: &mut Vec<Ranked>,
    rest: &mut Rest,
    keep: &mut [bool],
) {
    let Some((&first, later)) = chain.split_first() else {
        return;
    };
    rest.keep.clear();
    rest.keep.resize(prepared.x.len(), true);
    let p = prepared.probs(first.raw);
    apply(
        first,
        &prepared.x,
        p,
        prepared.best,
        temperature,
        ranked,
        &mut rest.keep,
    );
    rest.indices.clear();
    rest.indices.extend(0..prepared.x.len() as u32);
    rest.x.clear();
    rest.x.extend_from_slice(&prepared.x);
    for &support in later {
        rest.drop_tokens();
        let best = rest.measure(support, temperature);
        apply(support, &rest.x, &rest.p, best, temperature, ranked, &mut rest.keep);
    }
    rest.drop_tokens();
    let mut left = rest.indices.iter().peekable();
    for (keep, index) in keep.iter_mut().zip(0_u32..) {
        *keep &= left.next_if_eq(&&index).is_some();
    }
}

impl Rest {
    /// Takes out what the last rule dropped.
    fn drop_tokens(&mut self) {
        let Self { indices, x, keep, .. } = self;
        let mut flags = keep.iter();
        indices.retain(|_| flags.next().is_some_and(|keep| *keep));
        let mut flags = keep.iter();
        x.retain(|_| flags.next().is_some_and(|keep| *keep));
        keep.retain(|keep| *keep);
    }

    /// Renormalises for a rule on probabilities; the position of the best token.
    fn measure(&mut self, Support { rule, raw }: Support, temperature: f64) -> usize {
        let Self { x, p, log_p, .. } = self;
        let best = (1..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best });
        if !matches!(rule, Rule::TopK(_) | Rule::MinP(_) | Rule::TopNSigma(_)) {
            let temperature = if raw { 1.0 } else { temperature };
            let scores = x.iter().map(|score| ((score - x[best]) / temperature).max(FLOOR));
            log_softmax(scores, log_p, p);
        }
        best
    }
}
