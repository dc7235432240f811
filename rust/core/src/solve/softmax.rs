//! Entropy and KL regularisers: closed forms.

use super::Solved;
use super::face::{Answer, Face};

/// `q = softmax(l / lam)`.
pub(super) fn entropic(lam: f64, face: &Face, answer: &mut Answer) -> Solved {
    let log_sum = answer.set_softmax(face.l.iter().map(|l| l / lam));
    Solved::closed(lam * (log_sum - 1.0))
}

/// `q = softmax(l / lam + log r)`.
pub(super) fn anchored(lam: f64, face: &Face, answer: &mut Answer) -> Solved {
    shifted(lam, face, |_| 0.0, answer)
}

/// `q = softmax((l + gain) / lam + log r)`, with `gain / lam` given.
pub(super) fn shifted(lam: f64, face: &Face, gain: impl Fn(usize) -> f64, answer: &mut Answer) -> Solved {
    let log_sum = answer.set_softmax((0..face.len()).map(|i| face.l[i] / lam + gain(i) + face.log_r[i]));
    Solved::closed(lam * (log_sum - 1.0))
}
