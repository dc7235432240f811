//! Top-p without sorting, on the terms of a row: the smallest prefix of the order whose mass reaches a target.
//!
//! The threshold is a score, found by bisection: the mass of the scores that reach it never falls as it does. What differs is
//! the scores that are looked at. A *narrow* nucleus lies among few: the largest ones of some thousand disjoint sets of
//! tokens are tokens themselves, so where those from a bound on have the mass, so have all tokens from there on. A *wide* one
//! has its threshold bracketed by that of a sample, one more pass over the row sums what is above the bracket and gathers
//! what is inside, and that decides; or it lies among ties, which are counted. Should the sample mislead, the row itself is bisected.

use super::candidates::{Candidates, NARROW};
use super::cut::{Cut, Measure};
use super::rank::kth_largest;
use super::weighed::{Threshold, Weighed, WeighedScratch, last_true, order, score};
use crate::arch::{self, Level};

/// Of mass: what a rounding of the sums could do, so that k of n equal tokens have mass k/n.
pub(super) const SLACK: f64 = 6e-7;

/// Tokens, at least, whose mass is summed rather than sampled.
const HEAD: usize = 64;

/// Standard deviations of the sampled threshold within which it is looked for: fewer tokens, and now and then a second look.
const DEVIATIONS: [f64; 2] = [2.2, 6.0];

/// Scratch; no value survives a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct NucleusScratch {
    values: Vec<f32>,
    terms: Vec<f32>,
    weighed: WeighedScratch,
}

/// The cut of `TopP(p)`, p < 1, or that of all tokens where it cannot be within another cut.
pub(super) fn top_p(
    p: f64,
    within: Cut,
    measure: &Measure<'_>,
    candidates: &mut Candidates,
    scratch: &mut NucleusScratch,
) -> Cut {
    let target = p * measure.z * (1.0 - SLACK);
    // A few tokens: either they have the mass, or the nucleus has all of them.
    if within != Cut::ALL && candidates.gather_few(measure, within.least, NARROW) {
        candidates.weigh(measure);
        return cut(measure, candidates, 0.0, target, &mut scratch.weighed).unwrap_or(Cut::ALL);
    }
    narrow(measure, target, candidates, scratch)
        .or_else(|| {
            let mut looks = DEVIATIONS.into_iter();
            looks.find_map(|deviations| wide(measure, target, deviations, candidates, scratch))
        })
        .unwrap_or_else(|| bisected(measure, target, candidates))
}

/// From the largest scores of sets of tokens, if these have the mass or nearly.
fn narrow(
    measure: &Measure<'_>,
    target: f64,
    candidates: &mut Candidates,
    scratch: &mut NucleusScratch,
) -> Option<Cut> {
    let tops = &measure.sweep.tops;
    arch::terms_of(measure.level, measure.exponential, tops, &mut scratch.terms);
    let weighed = Weighed {
        level: measure.level,
        values: tops,
        terms: &scratch.terms,
    };
    let mass = weighed.mass(f32::MIN);
    let least = if mass >= target {
        rough(&weighed, measure, target, 0.01 * target)
    } else if mass > 0.75 * target {
        // Some sets hide a token or two behind their best.
        kth_largest(tops.len() / 2, tops, &mut scratch.values, f32::total_cmp).filter(|x| x.is_finite())?
    } else {
        return None;
    };
    if !candidates.gather(measure, f64::from(least), NARROW) {
        return None;
    }
    candidates.weigh(measure);
    cut(measure, candidates, 0.0, target, &mut scratch.weighed)
}

/// From a bracket by a sample of the row.
fn wide(
    measure: &Measure<'_>,
    target: f64,
    deviations: f64,
    candidates: &mut Candidates,
    scratch: &mut NucleusScratch,
) -> Option<Cut> {
    let head = gather_head(measure, candidates, &mut scratch.values)?;
    candidates.weigh(measure);
    if let Some(cut) = cut(measure, candidates, 0.0, target, &mut scratch.weighed) {
        return Some(cut);
    }
    let sample = sample_rest(measure, target, deviations, (head, candidates), scratch)?;
    let low = sample.threshold(measure.level, sample.share + sample.spread, scratch);
    let high = sample.threshold(measure.level, sample.share - sample.spread, scratch);
    if low < high {
        let (above, complete) = candidates.split(
            measure,
            f64::from(low),
            f64::from(high.next_up()),
            measure.row.scores.len() / 4,
        );
        if above >= target {
            return None;
        }
        if complete {
            candidates.weigh(measure);
            return cut(measure, candidates, above, target, &mut scratch.weighed);
        }
    }
    // Too many for so narrow a bracket, or nothing between its ends: ties.
    let middle = sample.threshold(measure.level, sample.share, scratch);
    tied(measure, middle, target, candidates)
}

/// A sample of the tokens below the head, which is in the scratch.
struct Sample {
    head: f32,
    mass: f64,
    /// Of its mass, above the threshold.
    share: f64,
    /// Within which the share is known.
    spread: f64,
}

impl Sample {
    /// The score from which on the sample has a share of its mass.
    fn threshold(&self, level: Level, share: f64, scratch: &mut NucleusScratch) -> f32 {
        let NucleusScratch { values, terms, weighed } = scratch;
        let target = share * self.mass;
        if target <= 0.0 {
            return self.head;
        }
        let found = Weighed { level, values, terms }.threshold((f32::MIN, self.head), 0.0, target, weighed);
        found.map_or(f32::MIN, |found| found.least)
    }
}

/// Gathers the best tokens, which a sample may miss and which may have nearly all of the mass; the bound that they reach.
fn gather_head(measure: &Measure<'_>, candidates: &mut Candidates, values: &mut Vec<f32>) -> Option<f32> {
    let head = kth_largest(HEAD, &measure.sweep.tops, values, f32::total_cmp).filter(|x| x.is_finite())?;
    // Where thousands tie with it, a sample does not miss them.
    let mut heads = [head, head.next_up()].into_iter();
    heads.find(|&head| candidates.gather_between(measure, f64::from(head), f64::INFINITY, NARROW))
}

/// Samples the rest of a row whose head is summed itself. The threshold lies within the spread of the share, but for bad luck.
fn sample_rest(
    measure: &Measure<'_>,
    target: f64,
    deviations: f64,
    (head, candidates): (f32, &Candidates),
    scratch: &mut NucleusScratch,
) -> Option<Sample> {
    let NucleusScratch { values, terms, .. } = scratch;
    let best: f64 = candidates.terms.iter().map(|&e| f64::from(e)).sum();
    let share = (target - best) / (measure.z - best);
    let (scores, mask) = (measure.row.scores, measure.row.mask);
    arch::sample_below(measure.level, scores, mask, f64::from(head), values);
    arch::terms_of(measure.level, measure.exponential, values, terms);
    let mass = arch::mass_from(measure.level, values, terms, f32::MIN);
    let spread = deviations * (share * (1.0 - share) * squares(terms)).sqrt() / mass + 1e-4;
    spread.is_finite().then_some(Sample {
        head,
        mass,
        share,
        spread,
    })
}

/// The sum of squares, roughly.
pub(super) fn squares(terms: &[f32]) -> f64 {
    let mut lanes = [0.0_f32; 16];
    for terms in terms.as_chunks::<16>().0 {
        for (sum, e) in lanes.iter_mut().zip(terms) {
            *sum += e * e;
        }
    }
    lanes.into_iter().map(f64::from).sum()
}

/// From the row itself, once for each bit of a score.
fn bisected(measure: &Measure<'_>, target: f64, candidates: &mut Candidates) -> Cut {
    let best = order(measure.max as f32);
    // Below, terms are 0.
    let lowest = (measure.max - 80.0 / measure.exponential.scale()).max(f64::from(f32::MIN)) as f32;
    let least = last_true(order(lowest), best, |least| {
        candidates.sum_from(measure, f64::from(score(least))) >= target
    });
    candidates.clear();
    match least.map(score) {
        Some(least) => tied(measure, least, target, candidates).unwrap_or(Cut::from(f64::from(least))),
        None => Cut::ALL,
    }
}

/// The cut at a score that many tokens have; `None` if it is elsewhere.
fn tied(measure: &Measure<'_>, least: f32, target: f64, candidates: &mut Candidates) -> Option<Cut> {
    let above = candidates.sum_from(measure, f64::from(least.next_up()));
    let term = f64::from(arch::term_of(measure.exponential, least));
    if above >= target || term == 0.0 {
        return None;
    }
    let count = ((target - above) / term).ceil().max(1.0);
    candidates.end_with_ties(measure, least, count as usize)
}

/// The cut among candidates, tokens with higher scores having the mass `above`; nothing if these are not enough.
fn cut(
    measure: &Measure<'_>,
    candidates: &Candidates,
    above: f64,
    target: f64,
    scratch: &mut WeighedScratch,
) -> Option<Cut> {
    let Candidates { ids, values, terms, .. } = candidates;
    let weighed = Weighed {
        level: measure.level,
        values,
        terms,
    };
    let low = candidates.least.max(f64::from(f32::MIN)) as f32;
    let high = measure.max.min(candidates.below) as f32;
    let Threshold { least, above } = weighed.threshold((low, high), above, target, scratch)?;
    let at_least = |least| arch::count_from(measure.level, values, least);
    let ties = at_least(least) - at_least(least.next_up());
    // Tokens at the threshold have equal terms; the one that reaches the target is in.
    let mut tied = values
        .iter()
        .zip(0..)
        .filter(|(x, _)| **x == least)
        .map(|(_, index)| index);
    let term = match ties {
        // The bound itself need not be a score.
        0 => return None,
        1 => return Some(Cut::from(f64::from(least))),
        _ => terms[tied.clone().next()?],
    };
    let kept = ((target - above) / f64::from(term)).ceil().max(1.0) as usize;
    Some(match kept < ties {
        true => Cut::from(f64::from(least)).until(ids[tied.nth(kept - 1)?]),
        false => Cut::from(f64::from(least)),
    })
}

/// A score from which on the mass reaches the target, by no more than `slack` if some steps get there, halving and false position in
/// turn; the lowest of all if that has to be.
fn rough(weighed: &Weighed<'_>, measure: &Measure<'_>, target: f64, slack: f64) -> f32 {
    const STEPS: usize = 20;
    const RANGE: f64 = 20.0;
    let range = (RANGE / measure.exponential.scale()) as f32;
    let highest = measure.max as f32;
    let (mut low, mut high) = (highest - range, highest);
    let (mut over, mut under) = (weighed.mass(low) - target, weighed.mass(high) - target);
    if under >= 0.0 {
        return high;
    }
    if !(low.is_finite() && over >= 0.0) {
        return f32::MIN;
    }
    // An end that stays twice has its weight halved. Far from straight as the mass is at first, the range is halved, too.
    let mut weights = [1.0, 1.0];
    for step in 0..STEPS {
        if over <= slack {
            break;
        }
        let [a, b] = [over * weights[0], under * weights[1]];
        let share = if step % 2 == 0 { 0.5 } else { a / (a - b) };
        let middle = low + (high - low) * share as f32;
        if !(middle > low && middle < high) {
            break;
        }
        match weighed.mass(middle) - target {
            found if found >= 0.0 => {
                (low, over) = (middle, found);
                weights = [1.0, 0.5 * weights[1]];
            }
            found => {
                (high, under) = (middle, found);
                weights = [0.5 * weights[0], 1.0];
            }
        }
    }
    low
}
