//! Top-H: the longest prefix of the order with an entropy of at most alpha times that of p.
//!
//! The entropies H_k of the prefixes never fall as these grow, so that a greedy walk and a bisection find the same: with eps the
//! share of the new token in the prefix of k + 1, `H_(k+1) = h(eps) + (1 - eps) H_k`, h the entropy of (eps, 1 - eps). The new token is no
//! more probable than any of the k, so `eps <= (1 - eps) / k`, hence `H_k <= ln k <= ln((1 - eps) / eps) = -ln eps + ln(1 - eps)
//! <= -ln eps <= h(eps) / eps`, and `H_(k+1) - H_k = h(eps) - eps H_k >= 0`.

use super::candidates::{Candidates, NARROW};
use super::cut::{Cut, Measure};
use super::rank::{self, Ranked, kth_largest};
use super::weighed::{last_true, order, score};
use crate::arch::{self, Exponential};
use crate::math;

/// Of entropies: what a rounding of the sums could do, so that of equal tokens as many are kept as should be.
const ROUNDING: f64 = 1e-7;

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

/// Scratch; no value survives a call.
#[derive(Clone, Debug, Default)]
pub(super) struct TopHScratch {
    values: Vec<f32>,
    terms: Vec<f32>,
    /// The parts of tokens, but for a common factor.
    masses: Vec<f32>,
    bits: Vec<f32>,
}

/// So many sets of tokens, at least, have their best among those that are looked at one by one.
const LOOKS: [usize; 2] = [48, 768];

/// Standard deviations of the sampled threshold within which it is looked for.
const DEVIATIONS: [f64; 3] = [2.5, 16.0, 100.0];

/// The cut of `TopH(alpha)`, alpha < 1, or that of all tokens where it cannot be within another cut. `None` where sums do not tell.
///
/// Like a nucleus (see `nucleus`): among the best tokens, or from a bracket by a sample of the row below them.
pub(super) fn measured(
    alpha: f64,
    within: Cut,
    measure: &Measure<'_>,
    candidates: &mut Candidates,
    scratch: &mut TopHScratch,
) -> Option<Cut> {
    let terms = Terms::new(measure);
    let all = terms.parts(measure.exponential, measure.sums);
    // What is below the best token is below all terms, too.
    if all.mass < 1e-25 {
        return None;
    }
    let search = Search {
        most: alpha * all.entropy() * (1.0 + ROUNDING),
        all,
        terms,
    };
    if within != Cut::ALL && candidates.gather_few(measure, within.least, NARROW) {
        let found = search.among(candidates, Parts::default(), scratch);
        return Some(found.unwrap_or(Cut::ALL));
    }
    let mut head = (f32::INFINITY, Parts::default());
    for count in LOOKS {
        let least = kth_largest(count, &measure.sweep.tops, &mut scratch.values, f32::total_cmp);
        let least = least.unwrap_or(f32::MIN).max(f32::MIN);
        if !candidates.gather(measure, f64::from(least), NARROW) {
            break;
        }
        let found = search.among(candidates, Parts::default(), scratch);
        if found.is_some() {
            return found;
        }
        head = (least, search.terms.parts_from(f32::MIN, &candidates.values, scratch));
    }
    let mut looks = DEVIATIONS.into_iter();
    looks.find_map(|deviations| search.wide(head, deviations, candidates, scratch))
}

/// The longest prefix with an entropy of at most `most`.
struct Search<'a> {
    most: f64,
    all: Parts,
    terms: Terms<'a>,
}

impl Search<'_> {
    /// The lowest score from which on the tokens in the scratch fit, their parts times `weight`, with what is above; none if not even
    /// the highest does. Its ties all fit.
    fn lowest(&self, values: &[f32], above: Parts, weight: Parts, scratch: &TopHScratch) -> Option<f32> {
        let lowest = values.iter().copied().fold(f32::INFINITY, f32::min);
        let fits = |least: f32| {
            let Parts { mass, bits } = self.terms.parts_from(least, values, scratch);
            let parts = Parts {
                mass: weight.mass * mass,
                bits: weight.bits * bits,
            };
            above.plus(parts).entropy() <= self.most
        };
        let highest = self.terms.measure.max as f32;
        let found = last_true(-order(highest), -order(lowest), |falling| fits(score(-falling)));
        found.map(|falling| score(-falling))
    }

    /// The cut among candidates, tokens with higher scores having the parts `above`; none if it does not end among them.
    fn among(&self, candidates: &mut Candidates, above: Parts, scratch: &mut TopHScratch) -> Option<Cut> {
        candidates.weigh(self.terms.measure);
        let Candidates { ids, values, terms, .. } = &*candidates;
        if values.is_empty() || above.entropy() > self.most {
            return None;
        }
        self.terms.fill(values, terms, scratch);
        if let Ok(best) = ids.binary_search(&self.terms.best) {
            (scratch.masses[best], scratch.bits[best]) = (0.0, 0.0);
        }
        let one = Parts { mass: 1.0, bits: 1.0 };
        let least = self.lowest(values, above, one, scratch).unwrap_or(f32::INFINITY);
        // Of those that come next, which tie, some may fit, too.
        let next = values
            .iter()
            .copied()
            .filter(|&x| x < least)
            .fold(f32::NEG_INFINITY, f32::max);
        if next == f32::NEG_INFINITY {
            return None;
        }
        let mut sum = above.plus(self.terms.parts_from(least, values, scratch));
        let mut last = None;
        for i in (0..values.len()).filter(|&i| values[i] == next) {
            sum = sum.plus(self.terms.of_one(candidates, i));
            if sum.entropy() > self.most {
                break;
            }
            last = Some(ids[i]);
        }
        Some(match last {
            Some(last) => Cut::from(f64::from(next)).until(last),
            None => Cut::from(f64::from(least)),
        })
    }

    /// From a bracket by a sample of the row below its head, whose parts are known.
    fn wide(
        &self,
        (head, before): (f32, Parts),
        deviations: f64,
        candidates: &mut Candidates,
        scratch: &mut TopHScratch,
    ) -> Option<Cut> {
        let measure = self.terms.measure;
        let (low, middle, high) = self.sampled((head, before), deviations, scratch)?;
        if low < high {
            let (least, above) = (f64::from(low), high.next_up());
            let limit = measure.row.scores.len() / 4;
            let (_, complete) = candidates.split(measure, least, f64::from(above), limit);
            if complete {
                let parts = self
                    .terms
                    .parts(&measure.exponential.from(f64::from(above)), &candidates.sums);
                return self.among(candidates, parts, scratch);
            }
        }
        self.tied(middle, candidates)
    }

    /// A bracket of the threshold, and what the sample takes it for.
    fn sampled(
        &self,
        (head, before): (f32, Parts),
        deviations: f64,
        scratch: &mut TopHScratch,
    ) -> Option<(f32, f32, f32)> {
        let Measure { row, level, .. } = *self.terms.measure;
        let mut values = std::mem::take(&mut scratch.values);
        arch::sample_below(level, row.scores, row.mask, f64::from(head), &mut values);
        let found = self.sampled_threshold(&values, before, scratch);
        let bracket = found.map(|middle| {
            let count = arch::count_from(level, &values, middle);
            let spread = (deviations * (count as f64 + 16.0).sqrt()) as usize;
            let highest = (self.terms.measure.max as f32).min(head);
            // The score of a place in the sample.
            let at = |place: usize| {
                let reaches = |falling: i32| arch::count_from(level, &values, score(-falling)) <= place;
                let found = last_true(-order(highest), -order(f32::MIN), reaches);
                found.map_or(highest, |falling| score(-falling))
            };
            (at(count + spread), middle, at(count.saturating_sub(spread)))
        });
        scratch.values = values;
        bracket
    }

    /// Where the sample has the threshold.
    fn sampled_threshold(&self, values: &[f32], before: Parts, scratch: &mut TopHScratch) -> Option<f32> {
        let mut terms = std::mem::take(&mut scratch.terms);
        arch::terms_of(
            self.terms.measure.level,
            self.terms.measure.exponential,
            values,
            &mut terms,
        );
        self.terms.fill(values, &terms, scratch);
        scratch.terms = terms;
        // What the sample stands for, which is known.
        let sum = self.terms.parts_from(f32::MIN, values, scratch);
        let weight = Parts {
            mass: (self.all.mass - before.mass) / sum.mass,
            bits: (self.all.bits - before.bits) / sum.bits,
        };
        let ordinary = |weight: f64| weight > 0.0 && weight.is_finite();
        if !(ordinary(weight.mass) && ordinary(weight.bits)) {
            return None;
        }
        self.lowest(values, before, weight, scratch)
    }

    /// The cut at a score that many tokens have; none if it is elsewhere.
    fn tied(&self, score: f32, candidates: &mut Candidates) -> Option<Cut> {
        let measure = self.terms.measure;
        let above = f64::from(score.next_up());
        candidates.sum_from(measure, above);
        let parts = self.terms.parts(&measure.exponential.from(above), &candidates.sums);
        let tie = self.terms.part(score, arch::term_of(measure.exponential, score));
        // One of those that tie with the best token is that.
        let others = |count: usize| (count - usize::from(f64::from(score) == measure.max)) as f64;
        let fits = |count: usize| {
            let tied = Parts {
                mass: others(count) * tie.mass,
                bits: others(count) * tie.bits,
            };
            parts.plus(tied).entropy() <= self.most
        };
        let (mut count, mut beyond) = (0, measure.row.scores.len() + 1);
        while beyond - count > 1 {
            let middle = count + (beyond - count) / 2;
            (count, beyond) = if fits(middle) {
                (middle, beyond)
            } else {
                (count, middle)
            };
        }
        candidates.end_with_ties(measure, score, count).filter(|_| count > 0)
    }
}

/// The terms of a row, as parts of entropies.
struct Terms<'a> {
    measure: &'a Measure<'a>,
    /// The term of the best token, which has no part.
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

    /// Sets the parts of tokens, but for the unit.
    fn fill(&self, values: &[f32], terms: &[f32], scratch: &mut TopHScratch) {
        let TopHScratch { masses, bits, .. } = scratch;
        let (scale, max) = (self.measure.exponential.scale() as f32, self.measure.max as f32);
        masses.clear();
        masses.extend_from_slice(terms);
        bits.clear();
        let depth = |x: f32| scale * (max - x.max(f32::MIN));
        bits.extend(
            values
                .iter()
                .zip(terms)
                .map(|(&x, &e)| if e > 0.0 { e * depth(x) } else { 0.0 }),
        );
    }

    fn of_one(&self, candidates: &Candidates, index: usize) -> Parts {
        match candidates.ids[index] == self.best {
            true => Parts::default(),
            false => self.part(candidates.values[index], candidates.terms[index]),
        }
    }

    /// The parts of tokens in the scratch from a score on.
    fn parts_from(&self, least: f32, values: &[f32], scratch: &TopHScratch) -> Parts {
        let sum = |parts: &[f32]| arch::mass_from(self.measure.level, values, parts, least) / self.unit;
        Parts {
            mass: sum(&scratch.masses),
            bits: sum(&scratch.bits),
        }
    }

    /// The parts of the tokens that an exponential has terms for, from the sums of these: the block of the best token is summed
    /// again without it, so that what is left has its digits.
    fn parts(&self, exponential: &Exponential, sums: &[f64]) -> Parts {
        let Measure { row, level, .. } = *self.measure;
        let block = self.best as usize / arch::SUM_BLOCK;
        let mut terms = [0.0; arch::SUM_BLOCK];
        let width = row.scores.len().next_multiple_of(arch::BLOCK).min(arch::SUM_BLOCK);
        arch::block_terms(level, row.scores, row.mask, exponential, block, &mut terms[..width]);
        terms[self.best as usize % arch::SUM_BLOCK] = 0.0;
        let beside: f64 = terms.iter().map(|&term| f64::from(term)).sum();
        let others = sums.iter().enumerate().filter(|&(other, _)| other != block);
        Parts {
            mass: (beside + others.map(|(_, sum)| sum).sum::<f64>()) / self.unit,
            bits: -exponential.scale() * self.measure.moments(exponential).first / self.unit,
        }
    }
}
