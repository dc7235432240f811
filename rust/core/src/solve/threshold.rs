//! Sparsemax (quadratic, alpha = 2) and 1.5-entmax: exact finite forms.
//!
//! The support is a prefix of the order of `l`, and whether a token belongs to it is decided by sums of powers of the
//! tokens before it, so a selection with running sums finds it in linear time.

use super::face::{Answer, Face};
use super::{Scratch, Solved};
use crate::math;
use crate::support::rank::{self, Ranked};

/// `q = [l / lam - tau]_+`.
pub(super) fn quadratic(lam: f64, face: &Face, scratch: &mut Scratch, answer: &mut Answer) -> Solved {
    let z = &mut scratch.ranked;
    candidates(face, |l| l / lam, -1.0, z);
    let mut moments = Moments::default();
    let count = rank::prefix(z, |items, fresh| {
        moments.accept(&items[fresh..], |sums, last| sums.first - sums.count * last < 1.0)
    });
    let tau = mean(&z[..count]) - 1.0 / count as f64;
    answer.zeros(face.len());
    for item in &z[..count] {
        answer.q[item.index as usize] = (item.value - tau).max(0.0);
    }
    answer.normalise();
    Solved::closed(lam * tau)
}

/// `q = [l / (2 lam) - tau]_+^2`.
pub(super) fn entmax15(lam: f64, face: &Face, scratch: &mut Scratch, answer: &mut Answer) -> Solved {
    let z = &mut scratch.ranked;
    candidates(face, |l| 0.5 * (l / lam), -1.0, z);
    let mut moments = Moments::default();
    let count = rank::prefix(z, |items, fresh| {
        moments.accept(&items[fresh..], |sums, last| {
            sums.second - 2.0 * last * sums.first + sums.count * last * last < 1.0
        })
    });
    let mean = mean(&z[..count]);
    let spread = math::sum(z[..count].iter().map(|item| (item.value - mean) * (item.value - mean)));
    let tau = mean - ((1.0 - spread).max(0.0) / count as f64).sqrt();
    answer.zeros(face.len());
    for item in &z[..count] {
        let root = (item.value - tau).max(0.0);
        answer.q[item.index as usize] = root * root;
    }
    answer.normalise();
    Solved::closed(lam * (2.0 * tau + 4.0 / 3.0))
}

/// The tokens that can be in the support: `scaled(l) > least`. The best one has `l = 0` and always is.
pub(super) fn candidates(face: &Face, scaled: impl Fn(f64) -> f64, least: f64, out: &mut Vec<Ranked>) {
    out.clear();
    let all = face.l.iter().zip(0..).map(|(&l, index)| Ranked {
        value: scaled(l),
        index,
    });
    out.extend(all.filter(|item| item.value > least));
}

fn mean(items: &[Ranked]) -> f64 {
    math::sum(items.iter().map(|item| item.value)) / items.len() as f64
}

/// Power sums of a prefix.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    first: f64,
    second: f64,
}

impl Moments {
    /// Extends the prefix by `fresh` if its last item then `belongs`.
    fn accept(&mut self, fresh: &[Ranked], belongs: impl Fn(&Moments, f64) -> bool) -> bool {
        let Some(last) = fresh.last() else { return false };
        let mut sums = *self;
        sums.count += fresh.len() as f64;
        sums.first += math::sum(fresh.iter().map(|item| item.value));
        sums.second += math::sum(fresh.iter().map(|item| item.value * item.value));
        let fits = belongs(&sums, last.value);
        if fits {
            *self = sums;
        }
        fits
    }
}
