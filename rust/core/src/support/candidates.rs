//! Tokens gathered from a row, in the order of their ids, for the rules that look at some of them one by one.

use super::cut::{Cut, Measure};
use super::nucleus::NARROW;
use crate::arch::{self, Bounds, Exponential, SUM_BLOCK};
use crate::row::Row;

/// The allowed tokens with scores in `[least, below)`.
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    pub(crate) least: f64,
    pub(crate) below: f64,
    pub(crate) ids: Vec<u32>,
    pub(crate) values: Vec<f32>,
    /// Their terms, once asked for.
    pub(crate) terms: Vec<f32>,
    /// If `below` is finite, the sums over blocks of the terms from there on.
    pub(crate) sums: Vec<f64>,
    /// Whose terms these are.
    summed: Option<Exponential>,
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
        };
        none.clear();
        none
    }
}

impl Candidates {
    /// Starts with a row: nothing is known of it.
    pub(crate) fn clear(&mut self) {
        (self.least, self.below) = (f64::INFINITY, f64::INFINITY);
    }

    /// Makes sure that all tokens from `least` on are there, and perhaps some more; false if there are more than `limit`.
    pub(crate) fn gather(&mut self, measure: &Measure<'_>, least: f64, limit: usize) -> bool {
        (self.below == f64::INFINITY && self.least <= least)
            || self.gather_between(measure, least, f64::INFINITY, limit)
    }

    /// Adds the first `count` tokens with the score `least`, those above it being here: what the first k in order are, and no
    /// more, so that cuts within them find all of theirs. The last one added; `None` if there are fewer.
    pub(crate) fn add_tied(&mut self, row: &Row<'_>, tops: &[f32], least: f32, count: usize) -> Option<u32> {
        let blocks = tops.chunks(arch::LANES).enumerate();
        let reached = blocks.filter(|(_, tops)| tops.iter().any(|&x| x >= least));
        let ids = reached.flat_map(|(block, _)| block * SUM_BLOCK..row.scores.len().min((block + 1) * SUM_BLOCK));
        let tied = ids.filter(|&id| row.allowed_score(id) == Some(f64::from(least)));
        let added: Vec<u32> = tied.take(count).map(|id| id as u32).collect();
        let last = added.last().copied().filter(|_| added.len() == count)?;
        let mut tokens: Vec<(u32, f32)> = self.ids.drain(..).zip(self.values.drain(..)).collect();
        tokens.extend(added.iter().map(|&id| (id, least)));
        tokens.sort_unstable_by_key(|&(id, _)| id);
        self.ids.extend(tokens.iter().map(|&(id, _)| id));
        self.values.extend(tokens.iter().map(|&(_, x)| x));
        self.least = f64::from(least);
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
        self.summed = Some(*measure.exponential);
        self.sums.iter().sum()
    }

    /// The sum of the terms of a cut.
    pub(crate) fn mass_of(&mut self, cut: Cut, measure: &Measure<'_>) -> f64 {
        if measure.may_be_few(cut.least) && self.gather(measure, cut.least, NARROW) {
            self.weigh(measure);
            let tokens = self.ids.iter().zip(&self.values).zip(&self.terms);
            let kept = tokens.filter(|&((&id, &x), _)| cut.keeps(f64::from(x), id));
            return kept.map(|(_, &term)| f64::from(term)).sum();
        }
        self.find_end_of(cut, measure);
        self.add_to_sums(cut);
        let mass = self.sums.iter().sum();
        // The sums are no longer those of the tokens above the ones here.
        self.clear();
        mass
    }

    /// Whether the tokens around the end of a cut are here, and those above it summed, under the terms of `exponential`.
    pub(crate) fn has_end_of(&self, cut: Cut, exponential: &Exponential) -> bool {
        let around = self.least <= cut.least && cut.least < self.below && self.below < f64::INFINITY;
        around && self.summed.as_ref() == Some(exponential)
    }

    /// Gathers the tokens that tie with the end of a cut, if some are not in it, and sums those above, under the terms of
    /// `measure`.
    pub(crate) fn find_end_of(&mut self, cut: Cut, measure: &Measure<'_>) {
        if cut.last == u32::MAX {
            self.ids.clear();
            self.values.clear();
            self.sum_from(measure, cut.least);
            self.below = cut.least;
        } else {
            let next = f64::from((cut.least as f32).next_up());
            self.sum_from(measure, next);
            self.gather_between(measure, cut.least, next, measure.row.scores.len());
        }
        self.weigh(measure);
    }

    /// How many of the tokens here lie at the end of a cut and are in it.
    pub(crate) fn at_end_of(&self, cut: Cut) -> usize {
        let at_end = |(&id, &x): (&u32, &f32)| f64::from(x) == cut.least && cut.keeps(f64::from(x), id);
        self.ids.iter().zip(&self.values).filter(|&token| at_end(token)).count()
    }

    /// Adds the terms of the tokens here that are in a cut to the sums of those above.
    pub(crate) fn add_to_sums(&mut self, cut: Cut) {
        let (mut block, mut sum) = (0, 0.0);
        for ((&id, &x), &term) in self.ids.iter().zip(&self.values).zip(&self.terms) {
            if block != id as usize / SUM_BLOCK {
                self.sums[block] += sum;
                (block, sum) = (id as usize / SUM_BLOCK, 0.0);
            }
            // Without a branch: which way it went could not be foreseen.
            sum += f64::from(if cut.keeps(f64::from(x), id) { term } else { 0.0 });
        }
        if let Some(last) = self.sums.get_mut(block) {
            *last += sum;
        }
    }

    /// Drops what a cut does not keep, if all that it keeps is here.
    pub(crate) fn keep(&mut self, cut: Cut) {
        if self.least == cut.least && cut.last == u32::MAX {
            return;
        }
        let mut kept = 0;
        for i in 0..self.ids.len() {
            (self.ids[kept], self.values[kept]) = (self.ids[i], self.values[i]);
            kept += usize::from(cut.keeps(f64::from(self.values[i]), self.ids[i]));
        }
        self.ids.truncate(kept);
        self.values.truncate(kept);
        self.least = cut.least;
    }
}
