//! Tokens gathered from a row, in the order of their ids, for the rules that look at some of them one by one.

use super::cut::{Cut, Measure};
use crate::arch::{self, Bounds, Exponential, Level, SUM_BLOCK};
use crate::row::Row;

/// More candidates than this are not worth gathering.
pub(super) const NARROW: usize = 1 << 13;

/// The allowed tokens with scores in `[least, below)`.
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    pub(crate) least: f64,
    pub(crate) below: f64,
    pub(crate) ids: Vec<u32>,
    pub(crate) values: Vec<f32>,
    /// Their terms, once asked for.
    pub(crate) terms: Vec<f32>,
    /// Sums of terms over blocks.
    pub(crate) sums: Vec<f64>,
    /// Whose terms these are, and of which tokens.
    summed: Option<(Exponential, Cut)>,
    /// Of ties, by blocks.
    counts: Vec<u32>,
    /// Scratch of [`Candidates::add_tied`].
    above: Vec<u32>,
    above_values: Vec<f32>,
}

impl Default for Candidates {
    fn default() -> Self {
        let mut none = Candidates {
            least: 0.0,
            below: 0.0,
            ids: vec![],
            values: vec![],
            terms: vec![],
            sums: vec![],
            summed: None,
            counts: vec![],
            above: vec![],
            above_values: vec![],
        };
        none.clear();
        none
    }
}

impl Candidates {
    /// Starts with a row: nothing is known of it.
    pub(crate) fn clear(&mut self) {
        (self.least, self.below) = (f64::INFINITY, f64::INFINITY);
        self.summed = None;
    }

    /// Makes sure that all tokens from `least` on are there, and perhaps some more; false if there are more than `limit`.
    pub(crate) fn gather(&mut self, measure: &Measure<'_>, least: f64, limit: usize) -> bool {
        self.has(least) || self.gather_between(measure, least, f64::INFINITY, limit)
    }

    /// The same, where it is worth trying: not if nearly every set of tokens has one.
    pub(crate) fn gather_few(&mut self, measure: &Measure<'_>, least: f64, limit: usize) -> bool {
        let tops = &measure.sweep.tops;
        let may_be_few = || arch::count_from(measure.level, tops, least as f32) <= tops.len() / 8 * 7;
        self.has(least) || may_be_few() && self.gather_between(measure, least, f64::INFINITY, limit)
    }

    /// Whether all tokens from a score on are here, as far as some cut keeps them.
    fn has(&self, least: f64) -> bool {
        self.below == f64::INFINITY && self.least <= least
    }

    /// Adds the first `count` tokens with the score `least`, those above it being here: what the first k in order are, and no
    /// more, so that cuts within them find all of theirs. The last one added; `None` if there are fewer.
    pub(crate) fn add_tied(&mut self, measure: &Measure<'_>, least: f32, count: usize) -> Option<u32> {
        let (above, values) = (&mut self.above, &mut self.values);
        std::mem::swap(above, &mut self.ids);
        std::mem::swap(&mut self.above_values, values);
        // Ascending, so that it may end early.
        self.gather_between(measure, f64::from(least), f64::from(least.next_up()), count - 1);
        self.ids.truncate(count);
        self.values.truncate(count);
        let last = self.ids.last().copied().filter(|_| self.ids.len() == count)?;
        let Candidates {
            ids,
            values,
            above,
            above_values,
            ..
        } = self;
        // Merged from the end, where there is room.
        let (mut tied, mut place) = (ids.len(), ids.len() + above.len());
        ids.resize(place, 0);
        values.resize(place, least);
        while let (Some(&id), Some(&value)) = (above.last(), above_values.last()) {
            place -= 1;
            if tied > 0 && ids[tied - 1] > id {
                tied -= 1;
                (ids[place], values[place]) = (ids[tied], least);
            } else {
                (ids[place], values[place]) = (id, value);
                above.pop();
                above_values.pop();
            }
        }
        (self.least, self.below) = (f64::from(least), f64::INFINITY);
        Some(last)
    }

    /// Gathers the tokens in `[least, below)`; false if there are more than `limit`.
    pub(crate) fn gather_between(&mut self, measure: &Measure<'_>, least: f64, below: f64, limit: usize) -> bool {
        self.ids.clear();
        self.values.clear();
        let (scores, mask) = (measure.row.scores, measure.row.mask);
        let bounds = Bounds { least, limit };
        let out = (&mut self.ids, &mut self.values);
        let complete = arch::collect_between(measure.level, scores, mask, measure.sweep, bounds, below, out);
        (self.least, self.below) = if complete {
            (least, below)
        } else {
            (f64::INFINITY, f64::INFINITY)
        };
        complete
    }

    /// Computes the terms.
    pub(crate) fn weigh(&mut self, measure: &Measure<'_>) {
        arch::terms_of(measure.level, measure.exponential, &self.values, &mut self.terms);
    }

    /// Sums the terms of the tokens from `least` on, block by block, and in all.
    pub(crate) fn sum_from(&mut self, measure: &Measure<'_>, least: f64) -> f64 {
        let exponential = measure.exponential.from(least);
        let (scores, mask) = (measure.row.scores, measure.row.mask);
        arch::block_sums(measure.level, scores, mask, &exponential, &mut self.sums);
        self.summed = Some((*measure.exponential, Cut::from(least)));
        self.sums.iter().sum()
    }

    /// The sum of the terms of a cut.
    pub(super) fn mass_of(&mut self, cut: Cut, measure: &Measure<'_>) -> f64 {
        if self.gather_few(measure, cut.least, NARROW) {
            self.weigh(measure);
            let tokens = self.ids.iter().zip(&self.values).zip(&self.terms);
            let kept = tokens.filter(|&((&id, &x), _)| cut.keeps(f64::from(x), id));
            return kept.map(|(_, &term)| f64::from(term)).sum();
        }
        self.sum_cut(measure, cut);
        self.sums.iter().sum()
    }

    /// Both in one pass: the sum from `below` on, and whether the tokens in `[least, below)` were gathered, being no more than
    /// `limit`.
    pub(crate) fn split(&mut self, measure: &Measure<'_>, least: f64, below: f64, limit: usize) -> (f64, bool) {
        self.clear();
        self.ids.clear();
        self.values.clear();
        let (scores, mask) = (measure.row.scores, measure.row.mask);
        let window = (Bounds { least, limit }, below);
        let out = (&mut self.ids, &mut self.values);
        let (exponential, sums) = (measure.exponential, &mut self.sums);
        let complete = arch::split(measure.level, scores, mask, exponential, window, sums, out);
        if complete {
            (self.least, self.below) = (least, below);
        }
        self.summed = Some((*exponential, Cut::from(below)));
        (self.sums.iter().sum(), complete)
    }

    /// The cut that ends with the first `count` tokens that have a score, those above it being summed: adds these to the
    /// sums. `None` if there are not so many.
    pub(super) fn end_with_ties(&mut self, measure: &Measure<'_>, score: f32, count: usize) -> Option<Cut> {
        let (row, cut) = (measure.row, Cut::from(f64::from(score)));
        let total = self.count_ties(measure.level, row, cut);
        if count >= total {
            return (count == total).then(|| self.add_ties(measure, cut));
        }
        let mut left = count;
        let inside = |&count: &u32| match left.checked_sub(count as usize) {
            Some(rest @ 1..) => {
                left = rest;
                false
            }
            _ => true,
        };
        let block = self.counts.iter().position(inside)?;
        let mut ids = block * SUM_BLOCK..row.scores.len();
        let mut tied = ids.by_ref().filter(|&id| row.allowed_score(id) == Some(cut.least));
        let cut = cut.until(tied.nth(left - 1)? as u32);
        self.count_ties(measure.level, row, cut);
        Some(self.add_ties(measure, cut))
    }

    /// Counts the tokens at the end of a cut that are in it, block by block, and in all.
    pub(crate) fn count_ties(&mut self, level: Level, row: &Row<'_>, cut: Cut) -> usize {
        arch::count_ties(
            level,
            row.scores,
            row.mask,
            cut.least as f32,
            cut.last,
            &mut self.counts,
        );
        self.counts.iter().map(|&count| count as usize).sum()
    }

    /// Adds the terms of the tokens at the end of a cut, which are counted, to the sums of those above.
    fn add_ties(&mut self, measure: &Measure<'_>, cut: Cut) -> Cut {
        let term = f64::from(arch::term_of(measure.exponential, cut.least as f32));
        for (sum, &count) in self.sums.iter_mut().zip(&self.counts) {
            *sum += f64::from(count) * term;
        }
        self.summed = Some((*measure.exponential, cut));
        cut
    }

    /// Makes the sums those of the tokens of a cut, under the terms of `measure`.
    pub(crate) fn sum_cut(&mut self, measure: &Measure<'_>, cut: Cut) {
        let summed = |cut| Some((*measure.exponential, cut));
        if self.summed == summed(cut) {
            return;
        }
        // Those around its end may be here, and those above summed.
        let around = self.least <= cut.least && cut.least < self.below && self.below < f64::INFINITY;
        if around && self.summed == summed(Cut::from(self.below)) {
            self.weigh(measure);
            self.add_to_sums(cut);
        } else if cut.last == u32::MAX {
            self.sum_from(measure, cut.least);
        } else {
            self.sum_from(measure, f64::from((cut.least as f32).next_up()));
            self.count_ties(measure.level, measure.row, cut);
            self.add_ties(measure, cut);
        }
        self.summed = summed(cut);
    }

    /// Adds the terms of the tokens here that are in a cut to the sums of those above.
    fn add_to_sums(&mut self, cut: Cut) {
        let mut start = 0;
        while let Some(&id) = self.ids.get(start) {
            let block = id as usize / SUM_BLOCK;
            let inside = |&id: &u32| id as usize / SUM_BLOCK == block;
            let end = start + self.ids[start..].partition_point(inside);
            let tokens = (&self.ids[start..end], &self.values[start..end], &self.terms[start..end]);
            self.sums[block] += kept_terms(cut, tokens);
            start = end;
        }
    }

    /// Drops those that do not pass, by place, id and score: what is left need not be all from some score on.
    fn retain(&mut self, keep: impl Fn(usize, u32, f32) -> bool) {
        let mut kept = 0;
        for i in 0..self.ids.len() {
            let (id, x) = (self.ids[i], self.values[i]);
            (self.ids[kept], self.values[kept]) = (id, x);
            kept += usize::from(keep(i, id, x));
        }
        self.ids.truncate(kept);
        self.values.truncate(kept);
    }

    /// Drops those whose place does not pass, for good.
    pub(super) fn take(&mut self, keep: impl Fn(usize) -> bool) {
        self.retain(|place, _, _| keep(place));
        self.clear();
    }

    /// Drops what a cut does not keep, for good.
    pub(crate) fn take_cut(&mut self, cut: Cut) {
        self.retain(|_, id, x| cut.keeps(f64::from(x), id));
        self.clear();
    }

    /// Drops what a cut does not keep, if all that it keeps is here.
    pub(crate) fn keep(&mut self, cut: Cut) {
        if self.least == cut.least && cut.last == u32::MAX {
            return;
        }
        self.retain(|_, id, x| cut.keeps(f64::from(x), id));
        self.least = cut.least;
    }
}

/// The sum of the terms of those tokens that are in a cut: without branches, whose ways could not be foreseen, and in lanes, as one sum
/// would wait for each addition.
fn kept_terms(cut: Cut, (ids, values, terms): (&[u32], &[f32], &[f32])) -> f64 {
    const SUMS: usize = 4;
    let mut sums = [0.0; SUMS];
    for (i, ((&id, &x), &term)) in ids.iter().zip(values).zip(terms).enumerate() {
        sums[i % SUMS] += f64::from(if cut.keeps(f64::from(x), id) { term } else { 0.0 });
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}
