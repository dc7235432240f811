//! `Omega = 0` under a cap: the best tokens in order, each filled up to it.

use std::cmp::Ordering;

use super::Solved;
use super::face::{Answer, Face};
use crate::support::rank::{self, Ranked};

/// How far off a sum of caps may be from 1.
pub(super) const ROUNDING: f64 = 1e-12;

/// How many tokens under a cap hold all probability: the smallest count with `count * cap >= 1`, but for rounding.
pub(super) fn fewest(cap: f64) -> f64 {
    ((1.0 - ROUNDING) / cap).ceil()
}

/// Fills the best tokens of the face.
pub(super) fn solve(cap: f64, face: &Face, order: &mut Vec<Ranked>, answer: &mut Answer) -> Solved {
    if (face.len() as f64) < fewest(cap) {
        return Solved::INFEASIBLE;
    }
    order.clear();
    order.extend(face.l.iter().zip(0..).map(|(&value, index)| Ranked { value, index }));
    keep_first(order, fewest(cap), &face.x);
    answer.zeros(face.len());
    let mut rest = 1.0_f64;
    for item in order.iter() {
        answer.q[item.index as usize] = rest.min(cap);
        rest -= rest.min(cap);
    }
    answer.normalise();
    Solved::closed(order.last().map_or(f64::NAN, |last| last.value))
}

/// Keeps the first `count` items in the order (value descending, logit descending, id ascending), sorted.
pub(super) fn keep_first(items: &mut Vec<Ranked>, count: f64, x: &[f64]) {
    let order = |a: &Ranked, b: &Ranked| {
        let by = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
        by(a.value, b.value)
            .then(by(x[a.index as usize], x[b.index as usize]))
            .then(a.index.cmp(&b.index))
    };
    if count < items.len() as f64 {
        items.select_nth_unstable_by(count as usize, order);
        items.truncate(count as usize);
    }
    items.sort_unstable_by(order);
}

/// The `count`-th largest value, if there are so many; the values are thinned out, and `selection` is overwritten.
pub(super) fn nth_largest(values: &mut Vec<f64>, count: f64, selection: &mut Vec<f64>) -> Option<f64> {
    if !(1.0..=values.len() as f64).contains(&count) {
        return None;
    }
    let count = count as usize;
    if let Some(least) = rank::kth_largest(count, values, selection, f64::total_cmp) {
        values.retain(|&value| value >= least);
    }
    Some(*values.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1)
}

/// Whether so many tokens are just enough: then all have the cap.
pub(super) fn fills_exactly(cap: f64, count: usize) -> bool {
    cap * count as f64 <= 1.0 + ROUNDING
}
