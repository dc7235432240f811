//! Locally typical sampling: the tokens whose information is nearest to the entropy, up to a mass.
//!
//! With `-ln p_v = log z - s_v` and `H(p) = log z - sum p s`, `|-ln p_v - H(p)|` is the distance of a score from the mean score under p,
//! and the scores may be the logits as they are: the temperature is a common factor. So the set is a band of scores around the
//! mean, which is below the largest one; where it reaches that, what is nearest next is lower, in the order: then it is the nucleus
//! of that mass, and if not, it is within the scores above `2 mean - max`.

use std::cmp::Ordering;

use super::candidates::{Candidates, NARROW};
use super::cut::{Cut, CutScratch, Measure};
use super::cutoff;
use super::nucleus::{self, SLACK};
use super::rank::{self, Ranked, by_score};
use super::weighed::{Weighed, WeighedScratch};
use crate::arch::{self, Level};
use crate::math;

/// Drops all but the smallest set with mass at least `mass` of the tokens in ascending order of that distance, ties by (score
/// descending, index ascending).
pub(super) fn keep(mass: f64, x: &[f64], p: &[f64], best: usize, ranked: &mut Vec<Ranked>, keep: &mut [bool]) {
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
    rank::keep_mass(mass, p, ranked, nearest(|index| x[index]), keep);
}

/// The order of tokens with the distance, negated, for a value.
fn nearest(score: impl Fn(usize) -> f64) -> impl Fn(&Ranked, &Ranked) -> Ordering {
    move |a, b| {
        let by_distance = b.value.total_cmp(&a.value);
        let key = |item: &Ranked| (score(item.index as usize), item.index);
        by_distance.then_with(|| by_score(key(a), key(b)))
    }
}

/// Scratch; no value survives a call.
#[derive(Clone, Debug, Default)]
pub(super) struct TypicalScratch {
    /// Distances from the mean, negated.
    keys: Vec<f32>,
    /// Of a sample.
    values: Vec<f32>,
    terms: Vec<f32>,
    tied: Vec<Ranked>,
    weighed: WeighedScratch,
}

/// A typical set as sums over the row tell it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Typical {
    /// The best token is in it.
    Cut(Cut),
    /// It is what the candidates are.
    Gathered,
}

/// The typical set of mass `p` < 1.
pub(super) fn measured(p: f64, measure: &Measure<'_>, scratch: &mut CutScratch) -> Typical {
    let CutScratch {
        candidates,
        nucleus,
        typical,
        ..
    } = scratch;
    candidates.clear();
    let center = Center {
        mean: measure.max + measure.mean(),
        target: p * measure.z * (1.0 - SLACK),
    };
    // Above this a score is nearer to the mean than the largest one is.
    let nearer = (2.0 * center.mean - measure.max).next_up();
    let few = candidates.gather_few(measure, nearer, NARROW);
    if !few && typical.gather_sampled(p, center, measure, candidates) {
        typical.take_nearest(center, measure.level, candidates);
        return Typical::Gathered;
    }
    let mass = match few {
        true => weigh(measure, candidates),
        false => candidates.sum_from(measure, nearer),
    };
    if mass < center.target {
        candidates.clear();
        return Typical::Cut(nucleus::top_p(p, Cut::ALL, measure, candidates, nucleus));
    }
    if !few {
        candidates.gather(measure, nearer, measure.row.scores.len());
        candidates.weigh(measure);
    }
    typical.take_nearest(center, measure.level, candidates);
    Typical::Gathered
}

/// Computes the terms of the candidates; their sum.
fn weigh(measure: &Measure<'_>, candidates: &mut Candidates) -> f64 {
    candidates.weigh(measure);
    candidates.terms.iter().map(|&term| f64::from(term)).sum()
}

/// What the nearest to the mean are taken for.
#[derive(Clone, Copy)]
struct Center {
    mean: f64,
    target: f64,
}

impl Center {
    fn distance(&self, x: f32) -> f64 {
        (f64::from(x) - self.mean).abs()
    }
}

impl TypicalScratch {
    /// Gathers the tokens within a distance of the mean that is a little too large, as a sample of the row says; false if it is not, or
    /// if the largest score may be as near.
    fn gather_sampled(&mut self, p: f64, center: Center, measure: &Measure<'_>, candidates: &mut Candidates) -> bool {
        /// Of the sampled mass.
        const DEVIATIONS: f64 = 4.0;
        let Measure { row, level, max, .. } = *measure;
        arch::sample_below(level, row.scores, row.mask, f64::INFINITY, &mut self.values);
        arch::terms_of(level, measure.exponential, &self.values, &mut self.terms);
        let values = std::mem::take(&mut self.values);
        self.set_keys(center, &values);
        self.values = values;
        let nearness = Weighed {
            level,
            values: &self.keys,
            terms: &self.terms,
        };
        let mass = nearness.mass(f32::MIN);
        let spread = DEVIATIONS * (p * (1.0 - p) * nucleus::squares(&self.terms)).sqrt() / mass + 1e-4;
        let found = nearness.threshold((f32::MIN, 0.0), 0.0, (p + spread) * mass, &mut self.weighed);
        let Some(radius) = found.map(|found| -f64::from(found.least)) else {
            return false;
        };
        let beyond = (center.mean + radius).next_up();
        if beyond > max {
            return false;
        }
        candidates.gather_between(measure, center.mean - radius, beyond, row.scores.len());
        weigh(measure, candidates) >= center.target
    }

    fn set_keys(&mut self, center: Center, values: &[f32]) {
        self.keys.clear();
        self.keys.extend(values.iter().map(|&x| -center.distance(x) as f32));
    }

    /// Drops all candidates but the nearest to the mean that reach the target.
    fn take_nearest(&mut self, center: Center, level: Level, candidates: &mut Candidates) {
        let Candidates { values, terms, .. } = &*candidates;
        self.set_keys(center, values);
        let Self {
            keys, tied, weighed, ..
        } = self;
        let nearness = Weighed {
            level,
            values: keys,
            terms,
        };
        let Some(found) = nearness.threshold((f32::MIN, 0.0), 0.0, center.target, weighed) else {
            // Sums in another order: it takes all of them.
            return;
        };
        // Those at the threshold one by one: they are on either side of the mean, or their distances differ by a rounding.
        tied.clear();
        let at_threshold = (0..keys.len()).filter(|&index| keys[index] == found.least);
        tied.extend(at_threshold.map(|index| Ranked {
            value: -center.distance(values[index]),
            index: index as u32,
        }));
        let mut taken = found.above;
        let count = rank::prefix_by(tied, nearest(|index| f64::from(values[index])), |items, fresh| {
            let [fresh @ .., last] = &items[fresh..] else {
                return false;
            };
            let term = |item: &Ranked| f64::from(terms[item.index as usize]);
            let before = taken + fresh.iter().map(term).sum::<f64>();
            let fits = before < center.target;
            if fits {
                taken = before + term(last);
            }
            fits
        });
        // Nearer than any.
        tied[..count].iter().for_each(|item| keys[item.index as usize] = 1.0);
        candidates.take(|index| keys[index] > found.least);
    }
}
