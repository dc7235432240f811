//! A price a token: the optimum of a base objective on the k best tokens, for the k that pays.
//!
//! The tokens kept are the first k in order for some k, and what a token more adds to the optimum falls along the order: so k
//! ends before the first token that adds no more than its price.

use super::face::{Answer, Face};
use super::{CoverageTerm, Scratch as Shared, Solved, dispatch, stats};
use crate::math;
use crate::plan::{Objective, Term, TermKind};
use crate::support::rank::{self, Ranked};

/// Scratch of this solver: the problem on some of the best tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    face: Face,
    answer: Answer,
    ranked: Vec<Ranked>,
    keep: Vec<bool>,
}

/// Narrows the face to the tokens that pay, and solves on them.
pub(super) fn solve(base: Term, price: f64, face: &mut Face, shared: &mut Shared, answer: &mut Answer) -> Solved {
    let Some(objective) = objective(base) else {
        return Solved::INFEASIBLE;
    };
    let mut own = std::mem::take(&mut shared.adaptive);
    rank::rank(&face.x, &mut own.ranked);
    let c = base.coefficient;
    let count = match base.kind {
        TermKind::Quadratic => by_distance(c, price, face, &mut own.ranked),
        TermKind::Tsallis { .. } => by_value(&objective, price, face, &mut own, shared),
        _ => by_log_sum(c, price, face, matches!(base.kind, TermKind::Kl(_)), &mut own.ranked),
    };
    own.keep.clear();
    own.keep.resize(face.len(), false);
    for item in &own.ranked[..count.max(1)] {
        own.keep[item.index as usize] = true;
    }
    face.narrow(&own.keep);
    shared.adaptive = own;
    dispatch(&objective, 1.0, face, CoverageTerm::NONE, shared, answer)
}

/// The objective without the price.
fn objective(base: Term) -> Option<Objective> {
    let lam = base.coefficient;
    Some(match base.kind {
        TermKind::Entropy => Objective::Softmax { lam },
        TermKind::Kl(_) => Objective::AnchoredSoftmax { lam },
        TermKind::Quadratic => Objective::Quadratic { lam },
        TermKind::Tsallis { alpha } => Objective::Tsallis { lam, alpha },
        _ => return None,
    })
}

/// Entropies: with `z = l / c` (plus log r) a token adds `c log(1 + e^z / Z)`, Z the sum over those before it.
fn by_log_sum(c: f64, price: f64, face: &Face, anchored: bool, ranked: &mut [Ranked]) -> usize {
    let z = |i: usize| face.l[i] / c + if anchored { face.log_r[i] } else { 0.0 };
    let top = math::max((0..face.len()).map(z));
    // log(e^(price / c) - 1)
    let ratio = price / c;
    let least = if ratio > 1.0 {
        ratio + math::ln(-math::expm1(-ratio))
    } else {
        math::ln(math::expm1(ratio))
    };
    let mut sum = math::Sum::default();
    rank::prefix(ranked, |items, fresh| {
        let [fresh @ .., last] = &items[fresh..] else {
            return false;
        };
        let weight = |item: &Ranked| math::exp(z(item.index as usize) - top);
        let mut before = sum;
        fresh.iter().for_each(|item| before.add(weight(item)));
        let total = before.value();
        // The first token always pays.
        let pays = total == 0.0 || z(last.index as usize) - top - math::ln(total) > least;
        if pays {
            sum = before;
            sum.add(weight(last));
        }
        pays
    })
}

/// Quadratic: above the threshold of the k tokens before it, `mu = (sum z - 1) / k` with `z = l / c`, a token adds
/// `c / 2 k / (k + 1) (z - mu)^2`.
fn by_distance(c: f64, price: f64, face: &Face, ranked: &mut [Ranked]) -> usize {
    let z = |item: &Ranked| face.l[item.index as usize] / c;
    let mut sum = math::Sum::default();
    rank::prefix(ranked, |items, fresh| {
        let count = (items.len() - 1) as f64;
        let [fresh @ .., last] = &items[fresh..] else {
            return false;
        };
        let mut before = sum;
        fresh.iter().for_each(|item| before.add(z(item)));
        let above = z(last) - (before.value() - 1.0) / count;
        let pays = count == 0.0 || (above > 0.0 && 0.5 * c * (count / (count + 1.0)) * above * above > price);
        if pays {
            sum = before;
            sum.add(z(last));
        }
        pays
    })
}

/// Any other base, by its optimum with the token and without.
fn by_value(objective: &Objective, price: f64, face: &Face, own: &mut Scratch, shared: &mut Shared) -> usize {
    let Scratch {
        face: some,
        answer,
        ranked,
        ..
    } = own;
    rank::prefix(ranked, |items, _| {
        let [before @ .., _] = items else {
            return false;
        };
        if before.is_empty() {
            return true;
        }
        let mut value = |items: &[Ranked]| {
            some.pick(face, items.iter().map(|item| item.index));
            let solved = dispatch(objective, 1.0, some, CoverageTerm::NONE, shared, answer);
            stats::outcome(objective, some, CoverageTerm::NONE, answer, &solved).objective
        };
        value(items) - value(before) > price
    })
}
