//! Faces as cuts of the order, measured on sums over a row instead of on each token's probability.
//!
//! A support keeps the first so many tokens in the order (score descending, index ascending). So each is a score and an
//! index, and of several the one that comes first is their intersection. Typical sets that are no such prefix come beside the cut.

use super::candidates::Candidates;
use super::min_p_offset;
use super::nucleus::{self, NucleusScratch};
use super::rank::kth_largest;
use super::top_h::{self, TopHScratch};
use super::typical::{self, Typical, TypicalScratch};
use crate::arch::{self, Exponential, Level, Moments, Sweep};
use crate::math;
use crate::plan::{Plan, Rule, Support};
use crate::row::Row;

/// The tokens with `x > least`, and those with `x == least` up to the index `last`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) least: f64,
    pub(crate) last: u32,
}

impl Cut {
    /// Every allowed token.
    pub(crate) const ALL: Cut = Cut {
        least: f64::MIN,
        last: u32::MAX,
    };

    pub(crate) fn from(least: f64) -> Cut {
        Cut { least, last: u32::MAX }
    }

    /// The tokens of both.
    pub(crate) fn and(self, other: Cut) -> Cut {
        if other.least > self.least {
            other
        } else if other.least < self.least {
            self
        } else {
            Cut::from(self.least).until(self.last.min(other.last))
        }
    }

    pub(super) fn until(self, last: u32) -> Cut {
        Cut { last, ..self }
    }

    /// Whether the token is in it.
    pub(crate) fn keeps(&self, x: f64, id: u32) -> bool {
        (x > self.least) | ((x == self.least) & (id <= self.last))
    }
}

/// A row with the sums that rules are measured on.
pub(crate) struct Measure<'a> {
    pub(crate) row: &'a Row<'a>,
    pub(crate) level: Level,
    /// The largest score.
    pub(crate) max: f64,
    /// Largest scores.
    pub(crate) sweep: &'a Sweep,
    /// Of `p = term / z`.
    pub(crate) exponential: &'a Exponential,
    /// The sums of the terms of every block, and of all.
    pub(crate) sums: &'a [f64],
    pub(crate) z: f64,
}

/// Scratch; no value survives a call.
#[derive(Clone, Debug, Default)]
pub(crate) struct CutScratch {
    /// What is known of the tokens of the row that is measured.
    pub(crate) candidates: Candidates,
    pub(super) nucleus: NucleusScratch,
    pub(super) typical: TypicalScratch,
    sums: Vec<f64>,
    raw_sums: Vec<f64>,
    top_h: TopHScratch,
    selection: Vec<f32>,
}

/// The face of a plan, which has the best token, from a measure of p. `None` where a rule needs more than sums, or may drop the best
/// token: the whole distribution decides then.
pub(crate) fn intersect(plan: &Plan, tempered: &Measure<'_>, scratch: &mut CutScratch) -> Option<Cut> {
    plan.keeps_best().then(|| intersect_prefixes(plan, tempered, scratch))?
}

/// The face of a plan with at most one typical set, and that not in a chain: a cut, and whether it is of the candidates alone.
pub(crate) fn intersect_with_typical(
    plan: &Plan,
    tempered: &Measure<'_>,
    scratch: &mut CutScratch,
) -> Option<(Cut, bool)> {
    let mut typical = plan.supports.iter().filter(|support| !support.rule.keeps_best());
    let (first, others) = (typical.next(), typical.next().is_some());
    let cut = (!others).then(|| intersect_prefixes(plan, tempered, scratch))??;
    let Some(&Support {
        rule: Rule::Typical(p),
        raw,
    }) = first
    else {
        return Some((cut, false));
    };
    let found = tempered.as_measured(raw, plan.temperature, scratch, |measure, scratch| {
        Some(typical::measured(p, measure, scratch))
    });
    Some(match found? {
        Typical::Cut(other) => (cut.and(other), false),
        Typical::Gathered => (cut, true),
    })
}

/// What all rules but typical sets keep.
fn intersect_prefixes(plan: &Plan, tempered: &Measure<'_>, scratch: &mut CutScratch) -> Option<Cut> {
    scratch.candidates.clear();
    let mut cut = Cut::ALL;
    // What is dear comes last: it need not look beyond the others.
    let dear = |support: &&Support| matches!(support.rule, Rule::TopP(_) | Rule::TopH(_));
    let supports = || plan.supports.iter().filter(|support| support.rule.keeps_best());
    let ordered = supports()
        .filter(|support| !dear(support))
        .chain(supports().filter(dear));
    for &support in ordered {
        cut = tempered.narrow(support, plan.temperature, cut, Cut::ALL, scratch)?;
    }
    for chain in &plan.chains {
        let mut rest = Cut::ALL;
        for &support in chain {
            rest = tempered.narrow(support, plan.temperature, rest, rest, scratch)?;
        }
        cut = cut.and(rest);
    }
    Some(cut)
}

/// Whether a rule is about sums over all tokens.
pub(crate) fn needs_mass(rule: Rule) -> bool {
    match rule {
        Rule::TopP(p) | Rule::Typical(p) => p < 1.0,
        Rule::TopH(alpha) => alpha < 1.0,
        Rule::PLess | Rule::Epsilon(_) | Rule::Eta(_) | Rule::TopNSigma(_) => true,
        Rule::TopK(_) | Rule::MinP(_) => false,
    }
}

impl<'a> Measure<'a> {
    /// On what a sweep of the row left, as it left it.
    pub(crate) fn new(
        row: &'a Row<'a>,
        level: Level,
        max: f64,
        exponential: &'a Exponential,
        sweep: &'a Sweep,
    ) -> Measure<'a> {
        Measure {
            row,
            level,
            max,
            sweep,
            exponential,
            sums: &sweep.sums,
            z: sweep.sums.iter().sum(),
        }
    }
}

impl Measure<'_> {
    /// What a rule, measured on the renormalised `rest`, leaves of a cut.
    fn narrow(
        &self,
        Support { rule, raw }: Support,
        temperature: f64,
        within: Cut,
        rest: Cut,
        scratch: &mut CutScratch,
    ) -> Option<Cut> {
        let (raw_rule, degree) = (raw && needs_mass(rule), if raw { 1.0 } else { temperature });
        let found = self.as_measured(raw_rule, temperature, scratch, |measure, scratch| {
            measure.cut(rule, degree, within, rest, scratch)
        })?;
        // Rounding, and rules that ask for more than the best token has.
        Some(if found.least > self.max {
            Cut::from(self.max).until(self.best())
        } else {
            within.and(found)
        })
    }

    /// Calls with this measure, or with that of the softmax of the scores as they are.
    fn as_measured<R>(
        &self,
        raw: bool,
        temperature: f64,
        scratch: &mut CutScratch,
        call: impl FnOnce(&Measure<'_>, &mut CutScratch) -> Option<R>,
    ) -> Option<R> {
        if !raw || temperature == 1.0 {
            return call(self, scratch);
        }
        let exponential = Exponential::new(1.0, self.max)?;
        let mut sums = std::mem::take(&mut scratch.raw_sums);
        arch::block_sums(self.level, self.row.scores, self.row.mask, &exponential, &mut sums);
        let raw = Measure {
            exponential: &exponential,
            sums: &sums,
            z: sums.iter().sum(),
            ..*self
        };
        let found = call(&raw, scratch);
        scratch.raw_sums = sums;
        found
    }

    fn cut(&self, rule: Rule, temperature: f64, within: Cut, rest: Cut, scratch: &mut CutScratch) -> Option<Cut> {
        if rest != Cut::ALL && needs_mass(rule) {
            return self.cut_of_rest(rule, rest, scratch);
        }
        Some(match rule {
            Rule::TopK(k) => self.top_k(k.max(1), scratch)?,
            Rule::TopP(p) | Rule::Typical(p) | Rule::TopH(p) if p >= 1.0 => Cut::ALL,
            Rule::TopH(alpha) => top_h::measured(alpha, within, self, &mut scratch.candidates, &mut scratch.top_h)?,
            Rule::Typical(_) => return None,
            Rule::TopP(p) => nucleus::top_p(p, within, self, &mut scratch.candidates, &mut scratch.nucleus),
            Rule::MinP(rho) if rho <= 0.0 => Cut::ALL,
            // The very sum that the rule compares with.
            Rule::MinP(rho) => Cut::from(self.max + min_p_offset(rho, false, temperature)),
            Rule::TopNSigma(n) => self.top_n_sigma(n)?,
            Rule::PLess => self.p_less(scratch)?,
            Rule::Epsilon(eps) => self.probability(math::ln(eps)),
            Rule::Eta(eps) => {
                let log_eps = math::ln(eps);
                self.probability(log_eps.min(0.5 * log_eps - self.entropy()))
            }
        })
    }

    /// The same of a rest of the tokens, where p is larger by what the others have.
    fn cut_of_rest(&self, rule: Rule, rest: Cut, scratch: &mut CutScratch) -> Option<Cut> {
        let CutScratch {
            candidates, nucleus, ..
        } = scratch;
        let share = candidates.mass_of(rest, self) / self.z;
        match rule {
            Rule::TopP(p) => Some(nucleus::top_p(p * share, rest, self, candidates, nucleus)),
            Rule::Epsilon(eps) => Some(self.probability(math::ln(eps * share))),
            _ => None,
        }
    }

    /// The first token with the largest score.
    pub(super) fn best(&self) -> u32 {
        let reaches = |values: &[f32]| values.iter().any(|&x| f64::from(x) == self.max);
        let block = self.sweep.tops.chunks(arch::LANES).position(reaches).unwrap_or(0);
        let mut ids = block * arch::SUM_BLOCK..self.row.scores.len();
        ids.find(|&id| self.row.allowed_score(id) == Some(self.max))
            .unwrap_or(0) as u32
    }

    /// The tokens with `log p >= least`.
    fn probability(&self, least: f64) -> Cut {
        Cut::from((least + self.log_z()) / self.exponential.scale())
    }

    /// `p >= (1 - 1e-6) sum p^2`. The best token is at the threshold only if all that have mass are: then those that tie with
    /// it stay, and whether others do that are nearly as good is not for sums with errors of 1e-6 to say.
    fn p_less(&self, scratch: &mut CutScratch) -> Option<Cut> {
        let squares = Exponential::new(2.0 * self.exponential.scale(), self.max)?;
        arch::block_sums(self.level, self.row.scores, self.row.mask, &squares, &mut scratch.sums);
        let sum: f64 = scratch.sums.iter().sum();
        let least = math::ln(sum) + squares.offset() - 2.0 * self.log_z();
        if self.log_best() - least > 1e-5 {
            return Some(self.probability(least + math::ln_1p(-1e-6)));
        }
        let near = self.max - 3e-5 / self.exponential.scale();
        let others = scratch.candidates.gather_between(self, near, self.max, 0);
        scratch.candidates.clear();
        others.then(|| Cut::from(self.max))
    }

    /// The logarithm of the normaliser of p, for scores as they are.
    pub(crate) fn log_z(&self) -> f64 {
        math::ln(self.z) + self.exponential.offset()
    }

    /// `log p` of the best token.
    pub(crate) fn log_best(&self) -> f64 {
        self.exponential.scale() * self.max - self.log_z()
    }

    /// `-sum p log p`.
    fn entropy(&self) -> f64 {
        -self.log_best() - self.exponential.scale() * self.mean()
    }

    /// The mean of `x - max x` under p.
    pub(super) fn mean(&self) -> f64 {
        let moments = self.moments(self.exponential);
        moments.first / moments.weight
    }

    /// The moments of `x - max x` under terms.
    pub(super) fn moments(&self, exponential: &Exponential) -> Moments {
        let (scores, mask) = (self.row.scores, self.row.mask);
        arch::moments(self.level, scores, mask, Some(exponential), self.max as f32)
    }

    /// `x >= max x - n std(x)`: the variance around what is nearly the mean.
    fn top_n_sigma(&self, n: f64) -> Option<Cut> {
        let (scores, mask) = (self.row.scores, self.row.mask);
        let moments = |center: f64| arch::moments(self.level, scores, mask, None, center as f32);
        let rough = moments(self.max);
        let center = self.max as f32 + (rough.first / rough.weight) as f32;
        let around = moments(f64::from(center));
        let (mean, square) = (around.first / around.weight, around.second / around.weight);
        let deviation = (square - mean * mean).max(0.0).sqrt();
        // Squares of huge scores are out of the range of f32, those of tiny ones below it; differences that are 0 are no larger than that.
        let ordinary = rough.first == 0.0 || (1e-12..1e15).contains(&deviation);
        ordinary.then(|| Cut::from(self.max - n * deviation))
    }

    /// The first k in order.
    fn top_k(&self, k: usize, scratch: &mut CutScratch) -> Option<Cut> {
        let CutScratch {
            selection, candidates, ..
        } = scratch;
        let least = kth_largest(k, &self.sweep.tops, selection, f32::total_cmp)
            .or_else(|| kth_largest(k, &self.sweep.maxima, selection, f32::total_cmp))
            .filter(|&least| least > f32::NEG_INFINITY)?;
        let (few, many) = (k.saturating_mul(16).max(1 << 10), self.row.scores.len() / 4);
        if !candidates.gather(self, f64::from(least), few.min(many)) {
            // Of the thousands that tie with the bound, only the first can be among the k.
            let next = f64::from(least.next_up());
            if !candidates.gather(self, next, many) {
                return None;
            }
            candidates.keep(Cut::from(next));
            let above = candidates.ids.len();
            if above < k {
                let last = candidates.add_tied(self, least, k - above)?;
                return Some(Cut::from(f64::from(least)).until(last));
            }
        }
        let Candidates { ids, values, .. } = candidates;
        if ids.len() < k {
            // All that a smaller k left.
            return Some(Cut::ALL);
        }
        selection.clear();
        selection.extend_from_slice(values);
        let least = *selection.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
        let above = values.iter().filter(|&&x| x > least).count();
        let mut tied = ids.iter().zip(values.iter()).filter(|(_, x)| **x == least);
        let last = tied.nth(k - 1 - above).map(|(&id, _)| id)?;
        let last = if tied.next().is_some() { last } else { u32::MAX };
        Some(Cut::from(f64::from(least)).until(last))
    }

    /// Visits the first k in order, ascending in their ids; false, having visited none, where they cannot be gathered.
    pub(crate) fn first(&self, k: usize, scratch: &mut CutScratch, mut visit: impl FnMut(u32, f64)) -> bool {
        scratch.candidates.clear();
        let Some(cut) = self.top_k(k, scratch) else {
            return false;
        };
        let Candidates { ids, values, .. } = &scratch.candidates;
        let tokens = ids.iter().zip(values).map(|(&id, &x)| (id, f64::from(x)));
        tokens
            .filter(|&(id, x)| cut.keeps(x, id))
            .for_each(|(id, x)| visit(id, x));
        true
    }
}
