//! Top-p without sorting, on the terms of a row: the smallest prefix of the order whose mass reaches a target.
//!
//! The threshold is a score, found by bisection: the mass of the scores that reach it never falls as it does. What differs is
//! the scores that are looked at. A *narrow* nucleus lies among few: the largest ones of some thousand disjoint sets of
//! tokens are tokens themselves, so where those from a bound on have the mass, so have all tokens from there on. A *wide* one
//! has its threshold bracketed by that of a sample, one more sum over the row says what is above the bracket, and the
//! tokens inside decide. Should the sample mislead, the row itself is bisected.

use super::candidates::Candidates;
use super::cut::{Cut, Measure};
use super::rank::kth_largest;
use crate::arch;

/// More candidates than this are not worth gathering.
pub(crate) const NARROW: usize = 1 << 13;

/// Of mass: what a rounding of the sums could do, so that k of n equal tokens have mass k/n.
const SLACK: f64 = 6e-7;

/// Tokens, at least, whose mass is summed rather than sampled.
const HEAD: usize = 64;

/// Standard deviations of the sampled threshold within which it is looked for: fewer tokens, and now and then a second look.
const DEVIATIONS: [f64; 2] = [2.2, 6.0];

/// Scratch; no value survives a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct NucleusScratch {
    values: Vec<f32>,
    terms: Vec<f32>,
}

/// Scores and their terms.
#[derive(Clone, Copy)]
struct Weighed<'a> {
    measure: &'a Measure<'a>,
    values: &'a [f32],
    terms: &'a [f32],
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
    if within != Cut::ALL && measure.may_be_few(within.least) && candidates.gather(measure, within.least, NARROW) {
        candidates.weigh(measure);
        return cut(measure, candidates, 0.0, target).unwrap_or(Cut::ALL);
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
        measure,
        values: tops,
        terms: &scratch.terms,
    };
    let mass = weighed.mass(f32::MIN);
    let least = if mass >= target {
        weighed.rough(measure.max as f32, target, 0.01 * target)
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
    cut(measure, candidates, 0.0, target)
}

/// From a bracket by a sample of the row.
fn wide(
    measure: &Measure<'_>,
    target: f64,
    deviations: f64,
    candidates: &mut Candidates,
    scratch: &mut NucleusScratch,
) -> Option<Cut> {
    let (low, high) = bracket(measure, target, deviations, candidates, scratch)?;
    let above = candidates.sum_from(measure, high);
    if above >= target || !candidates.gather_between(measure, low, high, measure.row.scores.len() / 4) {
        return None;
    }
    candidates.weigh(measure);
    cut(measure, candidates, above, target)
}

/// Two scores between which the threshold lies, but for bad luck. The best tokens, which a sample may miss and which may have
/// nearly all of the mass, are summed themselves; the sample is of the rest.
fn bracket(
    measure: &Measure<'_>,
    target: f64,
    deviations: f64,
    candidates: &mut Candidates,
    scratch: &mut NucleusScratch,
) -> Option<(f64, f64)> {
    let NucleusScratch { values, terms } = scratch;
    let head = kth_largest(HEAD, &measure.sweep.tops, values, f32::total_cmp).filter(|x| x.is_finite())?;
    if !candidates.gather_between(measure, f64::from(head), f64::INFINITY, NARROW) {
        return None;
    }
    candidates.weigh(measure);
    let best: f64 = candidates.terms.iter().map(|&e| f64::from(e)).sum();
    let share = (target - best) / (measure.z - best);
    let (scores, mask) = (measure.row.scores, measure.row.mask);
    arch::sample_below(measure.level, scores, mask, f64::from(head), values);
    arch::terms_of(measure.level, measure.exponential, values, terms);
    let sample = Weighed { measure, values, terms };
    let mass = sample.mass(f32::MIN);
    let spread = deviations * (share * (1.0 - share) * squares(terms)).sqrt() / mass + 1e-4;
    if !spread.is_finite() {
        return None;
    }
    let high = match (share - spread) * mass {
        none if none <= 0.0 => head,
        target => sample.rough(head, target, 0.1 * spread * mass),
    };
    let low = match (share + spread) * mass {
        all if all >= mass => f32::MIN,
        target => sample.rough(head, target, 0.1 * spread * mass),
    };
    Some((f64::from(low), f64::from(high)))
}

/// The sum of squares, roughly.
fn squares(terms: &[f32]) -> f64 {
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
    let Some(least) = last_true(order(lowest), best, |least| {
        candidates.sum_from(measure, f64::from(score(least))) >= target
    }) else {
        candidates.clear();
        return Cut::ALL;
    };
    let (least, next) = (f64::from(score(least)), f64::from(score(least + 1)));
    let above = candidates.sum_from(measure, next);
    candidates.gather_between(measure, least, next, measure.row.scores.len());
    candidates.weigh(measure);
    cut(measure, candidates, above, target).unwrap_or(Cut { least, last: u32::MAX })
}

/// The cut among candidates, tokens with higher scores having the mass `above`; nothing if these are not enough.
fn cut(measure: &Measure<'_>, candidates: &Candidates, above: f64, target: f64) -> Option<Cut> {
    let Candidates { ids, values, terms, .. } = candidates;
    let weighed = Weighed { measure, values, terms };
    let highest = measure.max.min(candidates.below) as f32;
    let reaches = |least: i32| above + weighed.mass(score(least)) >= target;
    let least = score(last_true(
        order(candidates.least.max(f64::from(f32::MIN)) as f32),
        order(highest),
        reaches,
    )?);
    // The bound itself need not be a score.
    let missing = target - above - weighed.mass(least.next_up());
    // Tokens at the threshold have equal terms; the one that reaches the target is in.
    let mut tied = values.iter().zip(ids).zip(terms).filter(|((x, _), _)| **x == least);
    let ((_, &first), &term) = tied.next()?;
    let more = (missing / f64::from(term)).ceil() - 1.0;
    let last = if more >= 1.0 {
        tied.nth(more as usize - 1).map_or(u32::MAX, |((_, &id), _)| id)
    } else {
        first
    };
    let last = if tied.next().is_some() { last } else { u32::MAX };
    Some(Cut {
        least: f64::from(least),
        last,
    })
}

impl Weighed<'_> {
    fn mass(&self, least: f32) -> f64 {
        arch::mass_from(self.measure.level, self.values, self.terms, least)
    }

    /// A score from which on the mass reaches the target, by no more than `slack` if some steps get there, halving and false position in turn;
    /// the lowest of all if that has to be.
    fn rough(&self, highest: f32, target: f64, slack: f64) -> f32 {
        const STEPS: usize = 20;
        const RANGE: f64 = 20.0;
        let range = (RANGE / self.measure.exponential.scale()) as f32;
        let (mut low, mut high) = (highest - range, highest);
        let (mut over, mut under) = (self.mass(low) - target, self.mass(high) - target);
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
            match self.mass(middle) - target {
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
}

/// The last of the integers from `low` to `high` for which a test holds that holds up to some integer; none if not for `low`.
fn last_true(low: i32, high: i32, mut test: impl FnMut(i32) -> bool) -> Option<i32> {
    if low > high || !test(low) {
        return None;
    }
    let (mut low, mut beyond) = (i64::from(low), i64::from(high) + 1);
    while beyond - low > 1 {
        let middle = low + (beyond - low) / 2;
        if test(middle as i32) {
            low = middle;
        } else {
            beyond = middle;
        }
    }
    Some(low as i32)
}

/// Integers in the order of the scores; 0 and -0 are one.
fn order(x: f32) -> i32 {
    let bits = (x + 0.0).to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

/// The score of an integer.
fn score(order: i32) -> f32 {
    f32::from_bits((order ^ ((order >> 31) as u32 >> 1) as i32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_the_order_of_scores() {
        let scores = [f32::MIN, -1e30, -1.0, -1e-45, 0.0, 1e-45, 0.5, 1.0, f32::MAX];
        for pair in scores.windows(2) {
            assert!(order(pair[0]) < order(pair[1]));
        }
        for x in scores {
            assert_eq!(score(order(x)), x);
            assert_eq!(order(x.next_up()), order(x) + 1 + i32::from(x == -1e-45));
        }
        assert_eq!(order(-0.0), order(0.0));
    }

    #[test]
    fn the_last_integer_that_passes_is_found() {
        for last in [-7, 0, 3, 12] {
            assert_eq!(last_true(-7, 12, |x| x <= last), Some(last));
        }
        assert_eq!(last_true(-7, 12, |x| x <= -8), None);
        assert_eq!(last_true(i32::MIN, i32::MAX, |x| x <= 5), Some(5));
    }
}
