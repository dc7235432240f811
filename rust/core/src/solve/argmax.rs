//! `Omega = 0`: a vertex.

use super::Solved;
use super::face::{Answer, Face};

/// All mass on the best token by (value descending, logit descending, id ascending); the threshold is its value.
pub(super) fn solve(face: &Face, value: impl Fn(usize) -> f64, answer: &mut Answer) -> Solved {
    let best = face.best_by(&value);
    answer.zeros(face.len());
    answer.q[best] = 1.0;
    answer.normalise();
    Solved::closed(value(best))
}
