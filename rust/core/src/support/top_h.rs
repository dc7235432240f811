//! Top-H: the longest prefix of the order with an entropy of at most alpha times that of p.
//!
//! The entropies H_k of the prefixes never fall as these grow, so that a greedy walk and a bisection find the same: with eps the
//! share of the new token in the prefix of k + 1, `H_(k+1) = h(eps) + (1 - eps) H_k`, h the entropy of (eps, 1 - eps). The new token is no
//! more probable than any of the k, so `eps <= (1 - eps) / k`, hence `H_k <= ln k <= ln((1 - eps) / eps) = -ln eps + ln(1 - eps)
//! <= -ln eps <= h(eps) / eps`, and `H_(k+1) - H_k = h(eps) - eps H_k >= 0`.

use super::candidates::{Candidates, NARROW};
use super::cut::{Cut, CutScratch, Measure};
use super::rank::{self, Ranked, kth_largest};
use crate::arch;
use crate::math;

/// Sums in f32 may be off by so much.
const ROUNDING: f64 = 1e-6;

/// Drops all but that prefix, and tokens of p = 0; the best token stays at any rate.
pub(super) fn keep(alpha: f64, x: &[f64], p: &[f64], best: usize, ranked: &mut Vec<Ranked>, keep: &mut [bool]) {
    if alpha >= 1.0 {
        return;
    }
    let part = |index: usize| match p[index] / p[best] {
        ratio if ratio > 0.0 && index != best => Parts::of(ratio),
        _ => Parts::default(),
    };
    let all = (0..p.len()).map(part).fold(Parts::default(), Parts::plus);
    rank::rank(x, ranked);
    // Of equal tokens k have an entropy of alpha H, alpha = ln k / ln n, rounding notwithstanding.
    let most = alpha * all.entropy() * (1.0 + 1e-12);
    let count = prefix(most, Parts::default(), ranked, |item| part(item.index as usize));
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
}

/// The length of the longest prefix of the order that has, with what comes before it, an entropy of at most `most`, moved to the front
/// of `ranked`.
fn prefix(most: f64, before: Parts, ranked: &mut [Ranked], part: impl Fn(&Ranked) -> Parts) -> usize {
    let mut taken = before;
    rank::prefix(ranked, |items, fresh| {
        let sum = items[fresh..].iter().map(&part).fold(taken, Parts::plus);
        let fits = sum.entropy() <= most;
        if fits {
            taken = sum;
        }
        fits
    })
}

/// The cut of `TopH(alpha)`, alpha < 1, or that of all tokens where it cannot be within another cut. `None` where sums do not tell.
pub(super) fn measured(alpha: f64, within: Cut, measure: &Measure<'_>, scratch: &mut CutScratch) -> Option<Cut> {
    let CutScratch {
        candidates,
        selection,
        ranked,
        ..
    } = scratch;
    let terms = Terms::new(measure);
    let most = alpha * terms.all()?.entropy() * (1.0 + ROUNDING);
    if within != Cut::ALL && candidates.gather_few(measure, within.least, NARROW) {
        return Some(terms.cut_of(most, candidates, ranked).unwrap_or(Cut::ALL));
    }
    let tops = &measure.sweep.tops;
    for count in LOOKS {
        let least = kth_largest(count, tops, selection, f32::total_cmp).unwrap_or(f32::MIN);
        if !candidates.gather(measure, f64::from(least.max(f32::MIN)), NARROW) {
            break;
        }
        let cut = terms.cut_of(most, candidates, ranked);
        if cut.is_some() {
            return cut;
        }
    }
    None
}

/// So many sets of tokens, at least, have their best among those that are looked at.
const LOOKS: [usize; 2] = [48, 768];

/// The terms of a row, as parts of entropies.
struct Terms<'a> {
    measure: &'a Measure<'a>,
    /// The term of the best token.
    unit: f64,
    best: u32,
}

impl<'a> Terms<'a> {
    fn new(measure: &'a Measure<'a>) -> Self {
        Terms {
            measure,
            unit: f64::from(arch::term_of(measure.exponential, measure.max as f32)),
            best: measure.best(),
        }
    }

    /// The part of a token with a score and a term.
    fn part(&self, x: f32, term: f32) -> Parts {
        let ratio = f64::from(term) / self.unit;
        let depth = self.measure.exponential.scale() * (self.measure.max - f64::from(x));
        Parts {
            mass: ratio,
            bits: ratio * depth,
        }
    }

    /// The parts of all tokens: the block of the best one is summed without it, so that what is left has its digits.
    fn all(&self) -> Option<Parts> {
        let Measure { row, level, sums, .. } = *self.measure;
        let block = self.best as usize / arch::SUM_BLOCK;
        let mut terms = [0.0; arch::SUM_BLOCK];
        let width = row.scores.len().next_multiple_of(arch::BLOCK).min(arch::SUM_BLOCK);
        let exponential = self.measure.exponential;
        arch::block_terms(level, row.scores, row.mask, exponential, block, &mut terms[..width]);
        terms[self.best as usize % arch::SUM_BLOCK] = 0.0;
        let beside: f64 = terms.iter().map(|&term| f64::from(term)).sum();
        let others = sums.iter().enumerate().filter(|&(other, _)| other != block);
        let mass = beside + others.map(|(_, sum)| sum).sum::<f64>();
        // Terms do not reach below.
        const LEAST: f64 = 1e-25;
        (mass > LEAST * self.unit).then(|| Parts {
            mass: mass / self.unit,
            bits: -exponential.scale() * self.measure.moments(exponential).first / self.unit,
        })
    }

    /// The cut among candidates, if it ends among them.
    fn cut_of(&self, most: f64, candidates: &mut Candidates, ranked: &mut Vec<Ranked>) -> Option<Cut> {
        candidates.weigh(self.measure);
        let Candidates { ids, values, terms, .. } = &*candidates;
        ranked.clear();
        ranked.extend(values.iter().zip(0..).map(|(&x, index)| Ranked {
            value: f64::from(x),
            index,
        }));
        let count = prefix(most, Parts::default(), ranked, |item| match item.index as usize {
            index if ids[index] == self.best => Parts::default(),
            index => self.part(values[index], terms[index]),
        });
        let (kept, dropped) = ranked.split_at(count);
        let last = kept.iter().max_by(|a, b| a.order(b)).filter(|_| !dropped.is_empty())?;
        let cut = Cut::from(last.value);
        let is_tied = dropped.iter().any(|item| item.value == last.value);
        Some(if is_tied {
            cut.until(ids[last.index as usize])
        } else {
            cut
        })
    }
}
