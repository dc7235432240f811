//! Locally typical sampling: the tokens whose information is nearest to the entropy, up to a mass.
//!
//! With `-ln p_v = log z - s_v` and `H(p) = log z - sum p s`, `|-ln p_v - H(p)|` is the distance of a score from the mean score under p,
//! and the scores may be the logits as they are: the temperature is a common factor. So the set is a band of scores around the
//! mean, which is below the largest one; where it reaches that, what is nearest next is lower, in the order: then it is the nucleus
//! of that mass, and if not, it is within the scores above `2 mean - max`.

use std::cmp::Ordering;

use super::candidates::{Candidates, NARROW};
use super::cut::{Cut, CutScratch, Measure};
use super::nucleus::{self, SLACK};
use super::rank::{self, Ranked};
use super::weighed::{Weighed, WeighedScratch};
use super::{cutoff, rank::by_score};
use crate::arch;
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
    keys: Vec<f32>,
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
    let target = p * measure.z * (1.0 - SLACK);
    let mean = measure.max + measure.mean();
    // Above this a score is nearer to the mean than the largest one is.
    let nearer = (2.0 * mean - measure.max).next_up();
    let few = candidates.gather_few(measure, nearer, NARROW);
    let mass = if few {
        candidates.weigh(measure);
        candidates.terms.iter().map(|&term| f64::from(term)).sum()
    } else {
        candidates.sum_from(measure, nearer)
    };
    if mass < target {
        candidates.clear();
        return Typical::Cut(nucleus::top_p(p, Cut::ALL, measure, candidates, nucleus));
    }
    if !few {
        candidates.gather(measure, nearer, measure.row.scores.len());
        candidates.weigh(measure);
    }
    take_nearest(mean, target, measure.level, candidates, typical);
    Typical::Gathered
}

/// Drops all candidates but the nearest to the mean that reach the target.
fn take_nearest(mean: f64, target: f64, level: arch::Level, candidates: &mut Candidates, scratch: &mut TypicalScratch) {
    let TypicalScratch { keys, tied, weighed } = scratch;
    let Candidates { values, terms, .. } = &*candidates;
    let distance = |index: usize| (f64::from(values[index]) - mean).abs();
    keys.clear();
    keys.extend(values.iter().map(|&x| -(f64::from(x) - mean).abs() as f32));
    let nearness = Weighed {
        level,
        values: keys,
        terms,
    };
    let Some(found) = nearness.threshold((f32::MIN, 0.0), 0.0, target, weighed) else {
        // Sums in another order: it takes all of them.
        return;
    };
    // Those at the threshold one by one, on either side of the mean or with scores that differ by a rounding of the distance.
    tied.clear();
    tied.extend(
        (0..keys.len())
            .filter(|&index| keys[index] == found.least)
            .map(|index| Ranked {
                value: -distance(index),
                index: index as u32,
            }),
    );
    let mut taken = found.above;
    let count = rank::prefix_by(tied, nearest(|index| f64::from(values[index])), |items, fresh| {
        let [fresh @ .., last] = &items[fresh..] else {
            return false;
        };
        let term = |item: &Ranked| f64::from(terms[item.index as usize]);
        let before = taken + fresh.iter().map(term).sum::<f64>();
        let fits = before < target;
        if fits {
            taken = before + term(last);
        }
        fits
    });
    // Nearer than any.
    tied[..count].iter().for_each(|item| keys[item.index as usize] = 1.0);
    candidates.take(|index| keys[index] > found.least);
}
