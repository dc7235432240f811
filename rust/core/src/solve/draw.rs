//! Distributions for draws. Where only the best tokens can have any probability, and how much does not depend on the others,
//! one read of the row finds these, and the supports and the solver see nothing else.
//!
//! The distribution is that of `solve_row` bit for bit, less some tokens of probability zero. The candidates are the allowed
//! tokens with `x >= bound`, ascending in id: an upper set of the order. What is measured on them is the same as on all:
//!
//! * The best token, hence the shift of the scores, and each score after it.
//! * TopK: its k tokens are candidates (see [`kth_block_maximum`]), or, where another bound is higher, the candidates are the
//!   first in order and no token after them has probability. MinP: a comparison, token by token.
//! * Sparse solvers: `threshold::candidates` drops what is too far below the best token first thing. What the bound drops
//!   would be dropped there, so the selection that follows meets the same scores in the same order. The final sums run
//!   over the face and only lose terms that are zero, which no compensated sum notices.

use super::{Term, Workspace, dispatch, distribute};
use crate::arch::{self, BLOCK, Bounds, Level};
use crate::plan::{Anchor, Objective, Plan, Rule, Support};
use crate::row::{Mask, Row, Scores};
use crate::status::Status;
use crate::support;

/// Scratch of the one read.
#[derive(Clone, Debug, Default)]
pub(super) struct Sweep {
    maxima: Vec<f64>,
    selection: Vec<f64>,
}

/// Solves one row as far as draws need: face, q and log q stay in the workspace, except that the face may lack tokens of
/// probability zero. Tokens with probability, their q and log q, and the status are those of [`super::solve_row`], bit
/// for bit, at every level.
pub fn solve_for_draw(plan: &Plan, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Status {
    let status = match reach(plan) {
        Some(reach) => match gather_candidates(&reach, row, level, ws) {
            Ok(true) => Ok(solve_candidates(plan, ws)),
            Ok(false) => distribute(plan, row, ws).map(|(_, solved)| solved.status),
            Err(status) => Err(status),
        },
        None => distribute(plan, row, ws).map(|(_, solved)| solved.status),
    };
    status.unwrap_or_else(|status| {
        ws.clear();
        status
    })
}

/// Which tokens of a plan can have probability: those that pass every test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    /// The best one.
    Best,
    Tail {
        /// `x - max x` is at least this, as `max x + offset` rounds.
        offset: f64,
        /// Among the first so many in order.
        first: usize,
    },
}

/// The reach of a plan, if it has any that depends on neither p nor other sums over all tokens.
fn reach(plan: &Plan) -> Option<Reach> {
    if plan.score_weight <= 0.0 || plan.allowed.is_some() || plan.anchor != Anchor::None {
        return None;
    }
    if plan.objective == Objective::Argmax {
        // Every support keeps the best token.
        return Some(Reach::Best);
    }
    let (mut offset, mut first) = (f64::NEG_INFINITY, usize::MAX);
    match plan.objective {
        Objective::Softmax { .. } => {}
        Objective::Quadratic { lam } => offset = -spread(plan, lam)?,
        Objective::Tsallis { lam, alpha } => offset = -spread(plan, lam / (alpha - 1.0))?,
        _ => return None,
    }
    for &Support { rule, raw } in &plan.supports {
        match rule {
            Rule::TopK(k) => first = first.min(k.max(1)),
            Rule::MinP(rho) if rho <= 0.0 => {}
            // The very sum that the rule compares with, since rounding is monotone in the offset.
            Rule::MinP(rho) => offset = offset.max(support::min_p_offset(rho, raw, plan.temperature)),
            _ => return None,
        }
    }
    let bounded = offset > f64::NEG_INFINITY || first < usize::MAX;
    bounded.then_some(Reach::Tail { offset, first })
}

/// How far below the best token one can be and have probability, where that needs `l > -depth` (l as on the face).
///
/// A sparse optimum is `q > 0` only if `l / lam > -1 / (alpha - 1)` (1 in place of it if quadratic), since a token alone at
/// the top already has `sum q = 1` at the threshold that this says. With `l = weight (x - max x) / T` that is a distance of
/// `T depth / weight`. The solver computes l and the test by at most six operations with a relative error of 2^-53 each,
/// all of them monotone, so a token that is further than the distance by 1e-9 of it fails the test as computed. `None`
/// where under- or overflow could do more to the operations than that.
fn spread(plan: &Plan, depth: f64) -> Option<f64> {
    let scale = if plan.raw_scores { 1.0 } else { plan.temperature };
    let steps = [depth, depth / plan.score_weight, depth / plan.score_weight * scale];
    let ordinary = |x: &f64| (1e-250..1e150).contains(x);
    steps.iter().all(ordinary).then_some(steps[2] * (1.0 + 1e-9))
}

/// Reads the row and collects what is within reach; false if that is too much to be worth it. `Err` as in `Prepared::load`.
fn gather_candidates(reach: &Reach, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Result<bool, Status> {
    let Sweep { maxima, selection } = &mut ws.sweep;
    let summary = arch::block_maxima(level, row.scores, row.mask, maxima);
    summary.check()?;
    let (offset, first) = match *reach {
        Reach::Best => {
            let best = first_of(summary.max, row, maxima);
            return Ok(ws.prepared.hold(|ids, x| {
                ids.push(best);
                x.push(summary.max);
                true
            }));
        }
        Reach::Tail { offset, first } => (offset, first),
    };
    let nearest = kth_block_maximum(first, maxima, selection).max(summary.max + offset);
    // `min`: a rule may ask for more than the maximum (rho > 1, or NaN), and keeps the best token all the same.
    let least = nearest.min(summary.max).max(f64::MIN);
    if least == f64::MIN && row.mask.is_none() {
        return Ok(false);
    }
    let limit = (row.scores.len() / 4).max(BLOCK);
    let bounds = Bounds { least, limit };
    let collect = |ids: &mut _, x: &mut _| arch::collect_above(level, row.scores, row.mask, maxima, bounds, (ids, x));
    Ok(ws.prepared.hold(collect))
}

/// The first allowed token with the largest score.
fn first_of(max: f64, row: &Row<'_>, maxima: &[f64]) -> u32 {
    let block = maxima.iter().position(|&maximum| maximum == max).unwrap_or(0);
    let score = |id: usize| match row.scores {
        Scores::F64(x) => x[id],
        Scores::F32(x) => f64::from(x[id]),
        Scores::F16(x) => f64::from(x[id]),
        Scores::Bf16(x) => f64::from(x[id]),
    };
    let allows = |id: &usize| row.mask.is_none_or(|mask: Mask<'_>| mask.allows(*id));
    let ids = block * BLOCK..row.scores.len().min((block + 1) * BLOCK);
    ids.filter(allows).find(|&id| score(id) == max).unwrap_or(0) as u32
}

/// A value that at least k tokens reach, so that the first k in order do: the k-th largest of maxima over disjoint sets of
/// tokens. -inf if no such value is found.
///
/// The sets are blocks, folded to about eight times k of them: few candidates more, and a quick selection.
fn kth_block_maximum(k: usize, maxima: &[f64], selection: &mut Vec<f64>) -> f64 {
    if k > maxima.len() {
        return f64::NEG_INFINITY;
    }
    let (head, tail) = maxima.split_at(maxima.len().min(k.saturating_mul(8).max(BLOCK)));
    selection.clear();
    selection.extend_from_slice(head);
    for maxima in tail.chunks(head.len()) {
        for (selected, &maximum) in selection.iter_mut().zip(maxima) {
            *selected = if maximum > *selected { maximum } else { *selected };
        }
    }
    *selection.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// The rest of `distribute` on candidates.
fn solve_candidates(plan: &Plan, ws: &mut Workspace) -> Status {
    let Workspace {
        prepared,
        keep,
        weights,
        face,
        answer,
        scratch,
        ..
    } = ws;
    weights.clear();
    if plan.objective == Objective::Argmax {
        keep.clear();
        keep.push(true);
    } else {
        support::intersect(&plan.supports, plan.temperature, prepared, &mut scratch.ranked, keep);
    }
    face.gather(plan, prepared, keep, weights);
    dispatch(&plan.objective, face, Term::NONE, scratch, answer).status
}
