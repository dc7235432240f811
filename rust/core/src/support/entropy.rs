//! Rules about the entropy of p: the typical set, and top-H.

use super::cutoff;
use super::rank::{self, Ranked};
use crate::math;

/// The smallest set with mass at least `mass` of the tokens in ascending order of `|-ln p - H(p)|`, ties by (score descending, index
/// ascending).
///
/// With `-ln p_v = log z - s_v` and `H(p) = log z - sum p s` the distance is that of a score from the mean score under p, and the
/// scores may be the logits as they are: the temperature is a common factor, and log z, which rounds, is gone.
pub(super) fn typical(mass: f64, x: &[f64], p: &[f64], best: usize, ranked: &mut Vec<Ranked>, keep: &mut [bool]) {
    if mass >= 1.0 {
        return;
    }
    let scaled = cutoff::scaled(x, x[best]);
    let mean = math::sum(x.iter().zip(p).map(|(x, p)| p * scaled(x)));
    ranked.clear();
    ranked.extend(x.iter().zip(0..).map(|(x, index)| Ranked {
        value: -(scaled(x) - mean).abs(),
        index,
    }));
    let score = |item: &Ranked| x[item.index as usize];
    let nearest = |a: &Ranked, b: &Ranked| {
        let by_distance = b.value.total_cmp(&a.value);
        by_distance.then_with(|| rank::by_score((score(a), a.index), (score(b), b.index)))
    };
    rank::keep_mass(mass, p, ranked, nearest, keep);
}

/// The longest prefix of the order on which p, renormalised, has an entropy of at most `alpha H(p)`, without tokens of p = 0; the best
/// token at any rate.
///
/// The entropies H_k of the prefixes never fall as these grow, so that a greedy walk and a bisection find the same: with eps the
/// share of the new token in the prefix of k + 1, `H_(k+1) = h(eps) + (1 - eps) H_k`, h the entropy of (eps, 1 - eps). The new token is no
/// more probable than any of the k, so `eps <= (1 - eps) / k`, hence `H_k <= ln k <= ln((1 - eps) / eps) = -ln eps + ln(1 - eps)
/// <= -ln eps <= h(eps) / eps`, and `H_(k+1) - H_k = h(eps) - eps H_k >= 0`.
pub(super) fn top_h(alpha: f64, x: &[f64], p: &[f64], best: usize, ranked: &mut Vec<Ranked>, keep: &mut [bool]) {
    if alpha >= 1.0 {
        return;
    }
    let part = |index: usize| match p[index] / p[best] {
        ratio if ratio > 0.0 && index != best => Parts::of(ratio),
        _ => Parts::default(),
    };
    let all = (0..p.len()).map(part).fold(Parts::default(), Parts::plus);
    rank::rank(x, ranked);
    let count = all.prefix(alpha, ranked, |item| part(item.index as usize));
    let dropped = ranked[count..].iter().map(|item| item.index as usize);
    dropped.for_each(|index| keep[index] = false);
    (keep.iter_mut().zip(p)).for_each(|(keep, &p)| *keep &= p > 0.0);
}

/// What the entropy of a set with the best token follows from: sums over the others, of their ratio r to it and of `-r ln r`.
///
/// `H = ln(1 + sum r) - sum r ln r / (1 + sum r)`: two terms that are not negative, so H has its digits however little there is
/// beside the best token.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    pub(super) mass: f64,
    pub(super) bits: f64,
}

impl Parts {
    /// Of equal tokens k have an entropy of at most `alpha H`, alpha = ln k / ln n, rounding notwithstanding.
    const SLACK: f64 = 1e-12;

    fn of(ratio: f64) -> Parts {
        Parts {
            mass: ratio,
            bits: -ratio * math::ln(ratio),
        }
    }

    pub(super) fn plus(self, other: Parts) -> Parts {
        Parts {
            mass: self.mass + other.mass,
            bits: self.bits + other.bits,
        }
    }

    pub(super) fn entropy(self) -> f64 {
        math::ln_1p(self.mass) + self.bits / (1.0 + self.mass)
    }

    /// The length of the longest prefix of the order with an entropy of at most alpha times this one, moved to the front of `ranked`.
    /// The best token has no part.
    fn prefix(self, alpha: f64, ranked: &mut [Ranked], part: impl Fn(&Ranked) -> Parts) -> usize {
        let most = alpha * self.entropy() * (1.0 + Self::SLACK);
        let mut taken = Parts::default();
        rank::prefix(ranked, |items, fresh| {
            let sum = items[fresh..].iter().map(&part).fold(taken, Parts::plus);
            let fits = sum.entropy() <= most;
            if fits {
                taken = sum;
            }
            fits
        })
    }
}
