//! Draws from `softmax(scale x)` over a row of f32 or narrower: two reads of the row, and nothing stored for each token.
//!
//! The first read finds the maximum, the second sums the terms `e_i` (see `arch`: the largest is within [0.7, 1.5]) of every 1024
//! tokens. A block has the integer mass `M_b = round(2^40 sum e)`, M is their sum, and the product r M of a 64-bit uniform
//! points at a block and at a place inside. There the terms are computed once more, the same bits: a token has the mass
//! `m_i = round(2^52 e_i)` of S in the block, and the place, scaled from M_b to S, falls on one. A block with mass has
//! a sum of at least 2^-41, hence some e_i >= 2^-51, hence S > 0; no product exceeds 127 bits.
//!
//! Tokens below e_i = 2^-53 are never drawn, nor those of blocks without mass: an error of less than 2^-40 in q altogether for
//! each token. The others have relative errors of 3e-7 (e_i), 1e-6 (the sum over its block) and as much (the sum over all).

use super::categorical::{Coupling, Draw, draw_each, rounded};
use crate::arch::{self, Exponential, Level, SUM_BLOCK};
use crate::math;
use crate::plan::{Anchor, Objective, Plan};
use crate::row::{Row, Scores};
use crate::status::Status;

const BLOCK_SCALE: f64 = (1_u64 << 40) as f64;
const TOKEN_SCALE: f64 = (1_u64 << 52) as f64;

/// As many tokens can have the largest term before M takes more than 63 bits.
const LONGEST: usize = 1 << 22;

/// Scratch of these draws; no value survives a call.
#[derive(Clone, Debug, Default)]
pub struct SoftmaxScratch {
    maxima: Vec<f64>,
    sums: Vec<f64>,
    /// Cumulative masses of the blocks.
    ends: Vec<u64>,
    /// Which of the opened blocks each block is.
    places: Vec<Option<u32>>,
    /// Of the opened blocks, the terms of their tokens and cumulative masses.
    terms: Vec<[f32; SUM_BLOCK]>,
    token_ends: Vec<[u64; SUM_BLOCK]>,
}

/// Draws as [`super::draw_row`] does; `None`, and nothing done, where the plan or the row is not of the kind.
#[allow(clippy::too_many_arguments)]
pub(super) fn draw_softmax(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    seed: u64,
    position: u64,
    coupling: Coupling,
    out_tokens: &mut [i64],
    out_log_probs: &mut [f64],
    scratch: &mut SoftmaxScratch,
) -> Option<Result<(), Status>> {
    let scale = scale(plan)?;
    if matches!(row.scores, Scores::F64(_)) || row.scores.len() > LONGEST {
        return None;
    }
    let summary = arch::block_maxima(level, row.scores, row.mask, &mut scratch.maxima);
    if let Err(status) = summary.check() {
        return Some(Err(status));
    }
    let exponential = Exponential::new(scale, summary.max)?;
    let mut masses = Masses::new(*row, level, exponential, scratch);
    draw_each(seed, position, coupling, out_tokens, out_log_probs, |r| masses.draw(r));
    Some(Ok(()))
}

/// The factor of the scores in log q, if q is the softmax of nothing else over all that the mask allows.
fn scale(plan: &Plan) -> Option<f64> {
    let Objective::Softmax { lam } = plan.objective else {
        return None;
    };
    let plain = plan.supports.is_empty() && plan.allowed.is_none() && plan.anchor == Anchor::None;
    let temperature = if plan.raw_scores { 1.0 } else { plan.temperature };
    (plain && plan.score_weight > 0.0).then(|| plan.score_weight / temperature / lam)
}

/// The distribution of one row.
struct Masses<'a> {
    row: Row<'a>,
    level: Level,
    exponential: Exponential,
    /// Sum of all terms.
    z: f64,
    total: u64,
    scratch: &'a mut SoftmaxScratch,
}

impl<'a> Masses<'a> {
    fn new(row: Row<'a>, level: Level, exponential: Exponential, scratch: &'a mut SoftmaxScratch) -> Self {
        let SoftmaxScratch { sums, ends, .. } = scratch;
        arch::block_sums(level, row.scores, row.mask, &exponential, sums);
        let mut total = 0;
        ends.clear();
        ends.extend(sums.iter().map(|sum| {
            total += rounded(sum * BLOCK_SCALE);
            total
        }));
        let z = sums.iter().sum();
        scratch.places.clear();
        scratch.places.resize(scratch.ends.len(), None);
        scratch.terms.clear();
        scratch.token_ends.clear();
        Masses {
            row,
            level,
            exponential,
            z,
            total,
            scratch,
        }
    }

    /// The token that the uniform `r` falls on.
    fn draw(&mut self, r: u64) -> Draw {
        let product = u128::from(r) * u128::from(self.total);
        let target = (product >> 64) as u64;
        let ends = &self.scratch.ends;
        let block = ends.partition_point(|&end| end <= target);
        let start = if block == 0 { 0 } else { ends[block - 1] };
        let mass = ends[block] - start;
        // Of `mass << 64`; as a fraction of it, 51 of these bits are dropped.
        let inside = product - (u128::from(start) << 64);
        let place = self.open(block);
        let token_ends = &self.scratch.token_ends[place];
        let sum = token_ends[SUM_BLOCK - 1];
        let target = ((inside >> 51) * u128::from(sum) / (u128::from(mass) << 13)) as u64;
        let offset = token_ends.partition_point(|&end| end <= target);
        let term = f64::from(self.scratch.terms[place][offset]);
        Draw {
            token: (block * SUM_BLOCK + offset) as i64,
            log_prob: math::ln(term / self.z),
        }
    }

    /// Makes sure that a block is opened, and says which one it is.
    fn open(&mut self, block: usize) -> usize {
        if let Some(place) = self.scratch.places[block] {
            return place as usize;
        }
        let place = self.scratch.terms.len();
        let SoftmaxScratch {
            places,
            terms,
            token_ends,
            ..
        } = &mut *self.scratch;
        places[block] = Some(place as u32);
        terms.push([0.0; SUM_BLOCK]);
        token_ends.push([0; SUM_BLOCK]);
        let (terms, ends) = (&mut terms[place], &mut token_ends[place]);
        arch::block_terms(
            self.level,
            self.row.scores,
            self.row.mask,
            &self.exponential,
            block,
            terms,
        );
        let mut total = 0;
        for (end, &term) in ends.iter_mut().zip(terms.iter()) {
            total += rounded(f64::from(term) * TOKEN_SCALE);
            *end = total;
        }
        place
    }
}

#[cfg(test)]
mod tests;
