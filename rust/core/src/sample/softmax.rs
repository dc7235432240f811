//! Draws by terms: from `q ~ exp(scale x)` over a cut of the row, or over tokens gathered from it, with no q computed.
//!
//! The terms `e_i` (see `arch`: the largest is within [0.7, 1.5]) of every 1024 tokens are summed already. A block has the integer
//! mass `M_b = round(2^40 sum e)`, M is their sum, and the product r M of a 64-bit uniform points at a block and at a
//! place inside. There the terms are computed once more, the same bits: a token has the mass `m_i = round(2^51 e_i)` of S in
//! the block, and the place, scaled from M_b to S, falls on one. A block with mass has a sum of at least 2^-41, hence
//! some e_i >= 2^-51, hence S > 0; no product exceeds 127 bits.
//!
//! Tokens below e_i = 2^-52 are never drawn, nor those of blocks without mass: an error of less than 2^-40 in q altogether for
//! each token. The others have relative errors of 9e-7 (e_i), 1e-6 (the sum over its block) and as much (the sum over all).

use super::categorical::{Draw, rounded};
use super::law::{Law, Span};
use crate::arch::{self, BLOCK, Exponential, Level, SUM_BLOCK};
use crate::math;
use crate::row::Row;
use crate::solve::Tail;
use crate::support::candidates::Candidates;
use crate::support::cut::Cut;

const BLOCK_SCALE: f64 = (1_u64 << 40) as f64;
const TOKEN_SCALE: f64 = (1_u64 << 51) as f64;
/// For tokens that were gathered, of which there are at most 2^15.
const GATHERED_SCALE: f64 = (1_u64 << 48) as f64;

/// Groups of 64 tokens in a block.
const GROUPS: usize = SUM_BLOCK / BLOCK;

/// Scratch of these draws; no value survives a call.
#[derive(Clone, Debug, Default)]
pub struct SoftmaxScratch {
    /// Cumulative masses of the blocks, or of gathered tokens.
    pub(super) ends: Vec<u64>,
    /// Which of the opened blocks each block is.
    places: Vec<Option<u32>>,
    /// Of the opened blocks, the terms of their tokens, one block after the other, and the cumulative masses of groups of 64.
    terms: Vec<f32>,
    group_ends: Vec<[u64; GROUPS]>,
    /// Of gathered tokens.
    gathered: Vec<f32>,
}

/// The distribution over tokens that were gathered.
pub(super) struct Gathered<'a> {
    ids: &'a [u32],
    terms: &'a [f32],
    ends: &'a [u64],
    z: f64,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(
        level: Level,
        exponential: &Exponential,
        candidates: &'a Candidates,
        scratch: &'a mut SoftmaxScratch,
    ) -> Self {
        let SoftmaxScratch { gathered, ends, .. } = scratch;
        arch::terms_of(level, exponential, &candidates.values, gathered);
        Self::weighed(&candidates.ids, gathered, ends)
    }

    /// From terms that are there already.
    pub(super) fn weighed(ids: &'a [u32], terms: &'a [f32], ends: &'a mut Vec<u64>) -> Self {
        let mut total = 0;
        ends.clear();
        ends.extend(terms.iter().map(|&term| {
            total += rounded(f64::from(term) * GATHERED_SCALE);
            total
        }));
        Gathered {
            ids,
            terms,
            ends,
            z: terms.iter().map(|&term| f64::from(term)).sum(),
        }
    }

    fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn find(&self, r: u64) -> usize {
        let target = ((u128::from(r) * u128::from(self.total())) >> 64) as u64;
        self.ends.partition_point(|&end| end <= target)
    }

    fn at(&self, index: usize) -> Draw {
        Draw {
            token: i64::from(self.ids[index]),
            log_prob: math::ln(f64::from(self.terms[index]) / self.z),
        }
    }
}

impl Law for Gathered<'_> {
    fn draw(&mut self, r: u64) -> Draw {
        self.at(self.find(r))
    }

    fn draw_with_span(&mut self, r: u64) -> Option<(Draw, Span)> {
        let index = self.find(r);
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let [from, to] = [start, self.ends[index]].map(|end| u128::from(end) << 64);
        Some((self.at(index), Span::between(from, to, self.total())))
    }
}

/// `round(2^51 term)`, ties to even, for terms below 2: the sum with 2^52 has no other place for it than its low bits.
fn token_mass(term: f32) -> u64 {
    const INTEGERS: f64 = (1_u64 << 52) as f64;
    (f64::from(term) * TOKEN_SCALE + INTEGERS).to_bits() - INTEGERS.to_bits()
}

/// What the terms of a block are.
#[derive(Clone, Copy)]
pub(super) enum Terms<'a> {
    /// Exponentials, of the tokens of a cut.
    Cut(Exponential, Cut),
    /// Probabilities: a series in exponentials, but for the tokens gathered.
    Tailed(Tail, &'a Candidates),
}

/// The distribution over the tokens of a row.
pub(super) struct Masses<'a> {
    row: Row<'a>,
    level: Level,
    law: Terms<'a>,
    /// Sum of all terms.
    z: f64,
    total: u64,
    /// Tokens of a block, in whole groups: a short row has fewer than SUM_BLOCK.
    width: usize,
    scratch: &'a mut SoftmaxScratch,
}

impl<'a> Masses<'a> {
    /// The sums are those of the terms of every block, forbidden tokens and those that the cut drops adding nothing that
    /// matters.
    pub(super) fn new(
        row: Row<'a>,
        level: Level,
        law: Terms<'a>,
        sums: &[f64],
        scratch: &'a mut SoftmaxScratch,
    ) -> Self {
        scratch.places.clear();
        scratch.places.resize(sums.len(), None);
        scratch.terms.clear();
        scratch.group_ends.clear();
        let mut total = 0;
        scratch.ends.clear();
        scratch.ends.extend(sums.iter().map(|sum| {
            total += rounded(sum * BLOCK_SCALE);
            total
        }));
        Masses {
            row,
            level,
            law,
            z: sums.iter().sum(),
            total,
            width: row.scores.len().next_multiple_of(BLOCK).min(SUM_BLOCK),
            scratch,
        }
    }

    /// The terms of a block.
    fn terms(&self, block: usize, terms: &mut [f32]) {
        let Row { scores, mask, .. } = self.row;
        let (Terms::Cut(exponential, _) | Terms::Tailed(Tail { exponential, .. }, _)) = &self.law;
        arch::block_terms(self.level, scores, mask, exponential, block, terms);
        let start = block * SUM_BLOCK;
        match self.law {
            // Ties at the end of the cut.
            Terms::Cut(_, cut) if start + SUM_BLOCK > cut.last as usize => {
                for (id, term) in (start..).zip(terms).filter(|(_, term)| **term > 0.0) {
                    if !cut.keeps(scores.at(id), id as u32) {
                        *term = 0.0;
                    }
                }
            }
            Terms::Cut(..) => {}
            Terms::Tailed(tail, head) => {
                terms.iter_mut().for_each(|term| *term = tail.q(*term));
                let from = head.ids.partition_point(|&id| (id as usize) < start);
                for (&id, &q) in head.ids[from..].iter().zip(&head.terms[from..]) {
                    match terms.get_mut(id as usize - start) {
                        Some(term) => *term = q,
                        None => break,
                    }
                }
            }
        }
    }

    /// What the uniform `r` falls on.
    fn find(&mut self, r: u64) -> Found {
        let product = u128::from(r) * u128::from(self.total);
        let target = (product >> 64) as u64;
        let ends = &self.scratch.ends;
        let block = ends.partition_point(|&end| end <= target);
        let start = if block == 0 { 0 } else { ends[block - 1] };
        let mass = ends[block] - start;
        // Of `mass << 64`; as a fraction of it, 51 of these bits are dropped.
        let inside = product - (u128::from(start) << 64);
        let place = self.open(block);
        let terms = &self.scratch.terms[place * self.width..];
        let group_ends = &self.scratch.group_ends[place];
        let sum = group_ends[GROUPS - 1];
        let target = ((inside >> DROPPED) * u128::from(sum) / scaled(mass)) as u64;
        let group = group_ends.partition_point(|&end| end <= target);
        let mut offset = group * BLOCK;
        let mut end = if group == 0 { 0 } else { group_ends[group - 1] };
        loop {
            end += token_mass(terms[offset]);
            if end > target {
                break;
            }
            offset += 1;
        }
        Found {
            token: block * SUM_BLOCK + offset,
            term: terms[offset],
            start,
            mass,
            sum,
            end,
        }
    }

    fn at(&self, found: &Found) -> Draw {
        Draw {
            token: found.token as i64,
            log_prob: math::ln(f64::from(found.term) / self.z),
        }
    }

    /// Makes sure that a block is opened, and says which one it is.
    fn open(&mut self, block: usize) -> usize {
        if let Some(place) = self.scratch.places[block] {
            return place as usize;
        }
        let place = self.scratch.group_ends.len();
        let mut terms = std::mem::take(&mut self.scratch.terms);
        terms.resize((place + 1) * self.width, 0.0);
        let opened = &mut terms[place * self.width..];
        self.terms(block, opened);
        let mut total = 0;
        let mut ends = [0; GROUPS];
        let mut groups = opened.as_chunks::<BLOCK>().0.iter();
        for end in &mut ends {
            let terms = groups.next().into_iter().flatten();
            total += terms.map(|&term| token_mass(term)).sum::<u64>();
            *end = total;
        }
        self.scratch.places[block] = Some(place as u32);
        self.scratch.terms = terms;
        self.scratch.group_ends.push(ends);
        place
    }
}

impl Law for Masses<'_> {
    fn draw(&mut self, r: u64) -> Draw {
        let found = self.find(r);
        self.at(&found)
    }

    fn draw_with_span(&mut self, r: u64) -> Option<(Draw, Span)> {
        let found = self.find(r);
        let (from, to) = (found.edge(found.end - token_mass(found.term)), found.edge(found.end));
        Some((self.at(&found), Span::between(from, to, self.total)))
    }
}

/// Bits of a place inside a block that are dropped before it is scaled.
const DROPPED: u32 = 51;

/// The mass of a block, in units of what is left of a place inside it.
fn scaled(mass: u64) -> u128 {
    u128::from(mass) << (64 - DROPPED)
}

/// A token of an opened block.
struct Found {
    token: usize,
    term: f32,
    /// Of its block: the masses before it, its own, and what those of its tokens add up to.
    start: u64,
    mass: u64,
    sum: u64,
    /// Masses of tokens up to the end of this one, in its block.
    end: u64,
}

impl Found {
    /// The least product r M whose place inside the block is at least `below`: [`Masses::find`] the other way round, exactly.
    fn edge(&self, below: u64) -> u128 {
        let inside = (u128::from(below) * scaled(self.mass)).div_ceil(u128::from(self.sum));
        (u128::from(self.start) << 64) + (inside << DROPPED)
    }
}

#[cfg(test)]
mod tests;
