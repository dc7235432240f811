//! Distributions for draws: which tokens can have probability is found by one read of the row, as a rule, and the solvers see
//! nothing else.
//!
//! The distribution is that of `solve_row`, less some tokens of probability zero. Where no rule is about sums over all
//! tokens, it is that bit for bit: the candidates are the allowed tokens with `x >= bound`, ascending in id, an upper set
//! of the order, and what is measured on them is the same as on all:
//!
//! * The best token, hence the shift of the scores, and each score after it.
//! * TopK: its k tokens are candidates (see [`kth_largest`]), or, where another bound is higher, the candidates are the
//!   first in order and no token after them has probability. MinP: a comparison, token by token.
//! * Sparse solvers: `threshold::candidates` drops what is too far below the best token first thing. What the bound drops
//!   would be dropped there, so the selection that follows meets the same scores in the same order. The final sums run
//!   over the face and only lose terms that are zero, which no compensated sum notices.
//!
//! Where a rule is about sums, these come from the same read, and the face is a cut of the order (`support::cut`). A softmax
//! over many tokens is not solved at all: it is drawn from by its terms (`sample`).

use super::cover::{Tail, from_coverage};
use super::{Solved, Term, Workspace, dispatch, distribute};
use crate::arch::{self, BLOCK, Bounds, Exponential, Level};
use crate::plan::{Anchor, Objective, Plan, Rule, Support};
use crate::row::{Row, Scores};
use crate::status::Status;
use crate::support;
use crate::support::candidates::Candidates;
use crate::support::cut::{self, Cut, CutScratch, Measure};
use crate::support::rank::kth_largest;

/// More tokens than this are drawn from by their terms, in f32.
pub(super) const EXACT: usize = 128;

/// More tokens than this are not gathered, but left where they are.
pub(super) const GATHERED: usize = 1 << 13;

/// Rows longer than this might overflow the sums of masses.
pub(super) const LONGEST: usize = 1 << 22;

/// Scratch of the reads of a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    maxima: Vec<f64>,
    selection: Vec<f64>,
    /// Of the fused sweep; after it, the sums of the terms that are drawn from.
    pub(crate) sweep: arch::Sweep,
    pub(super) cut: CutScratch,
    /// Of Best-of-K.
    pub(super) newton: arch::Newton,
    pub(super) squares: Vec<f64>,
    /// The largest score of the row; not -0, which levels may tell from 0.
    pub(super) max: f64,
    /// What supports were measured on, with the sum of its terms, if any was summed.
    pub(super) measured: Option<(Exponential, f64)>,
}

impl Reads {
    /// The tokens that were gathered last.
    pub(crate) fn candidates(&self) -> &Candidates {
        &self.cut.candidates
    }

    pub(super) fn candidates_mut(&mut self) -> &mut Candidates {
        &mut self.cut.candidates
    }
}

/// What there is to draw from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ready {
    /// Face, q and log q in the workspace.
    Solved(Solved),
    /// `q ~ term` over the candidates in [`Reads`].
    Gathered(Exponential),
    /// q are the terms of the candidates in [`Reads`].
    Weighed,
    /// q are the terms of the candidates in [`Reads`], and a series below them; its sums over blocks are there, too.
    Tailed(Tail),
    /// `q ~ term` over the tokens of a cut, whose terms are summed in [`Reads`] if there are no ties at its end to drop.
    Spread(Exponential, Cut),
}

/// Solves one row as far as draws need: face, q and log q stay in the workspace, except that the face may lack tokens of
/// probability zero. Tokens with probability, their q and log q, and the status are those of [`super::solve_row`], bit for
/// bit, at every level, as long as no support is about sums over all tokens; then as far as these round.
pub fn solve_for_draw(plan: &Plan, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Status {
    let solved = match prepare_draw(plan, row, level, ws) {
        Ok(Ready::Solved(solved)) => Ok(solved.status),
        Ok(_) => distribute(plan, row, ws).map(|(_, solved)| solved.status),
        Err(status) => Err(status),
    };
    solved.unwrap_or_else(|status| {
        ws.clear();
        status
    })
}

/// Gets a row ready to be drawn from, in the cheapest way there is.
pub(crate) fn prepare_draw(plan: &Plan, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Result<Ready, Status> {
    let ready = match shortcut(plan, row, level, ws)? {
        Some(ready) => Some(ready),
        None => from_coverage(plan, row, level, ws)?,
    };
    match ready {
        Some(ready) => Ok(ready),
        None => distribute(plan, row, ws).map(|(_, solved)| Ready::Solved(solved)),
    }
}

/// The ways that look at no more than some tokens one by one, if the plan is no Best-of-K and there is one.
pub(super) fn shortcut(plan: &Plan, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Result<Option<Ready>, Status> {
    ws.reads.measured = None;
    match reach(plan) {
        Some(reach) if reach.measures => from_sums(plan, &reach, row, level, ws),
        Some(reach) => from_maxima(plan, &reach, row, level, ws),
        None => Ok(None),
    }
}

/// Which tokens of a plan can have probability: those that pass every test.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reach {
    /// `x - max x` is at least this, as `max x + offset` rounds.
    offset: f64,
    /// Among the first so many in order.
    first: usize,
    /// Rules about sums over all tokens say more, or there is nothing else to say.
    measures: bool,
}

/// The reach of a plan, if it has any that depends on no more than sums over all tokens.
fn reach(plan: &Plan) -> Option<Reach> {
    let (anchor, rises) = match plan.objective {
        Objective::AnchoredSoftmax { .. } => (Anchor::Model, softmax_scale(plan)? > 0.0),
        _ => (Anchor::None, plan.score_weight > 0.0),
    };
    if !rises || plan.allowed.is_some() || plan.anchor != anchor {
        return None;
    }
    let mut reach = Reach {
        offset: f64::NEG_INFINITY,
        first: usize::MAX,
        measures: false,
    };
    match plan.objective {
        // Every support keeps the best token.
        Objective::Argmax => return Some(Reach { first: 1, ..reach }),
        Objective::Softmax { .. } | Objective::AnchoredSoftmax { .. } => {}
        Objective::Quadratic { lam } => reach.offset = -spread(plan, lam)?,
        Objective::Tsallis { lam, alpha } => reach.offset = -spread(plan, lam / (alpha - 1.0))?,
        _ => return None,
    }
    for &Support { rule, raw } in &plan.supports {
        match rule {
            Rule::TopK(k) => reach.first = reach.first.min(k.max(1)),
            Rule::MinP(rho) if rho <= 0.0 => {}
            // The very sum that the rule compares with, since rounding is monotone in the offset.
            Rule::MinP(rho) => reach.offset = reach.offset.max(support::min_p_offset(rho, raw, plan.temperature)),
            rule => reach.measures |= cut::needs_mass(rule),
        }
    }
    reach.measures |= reach.offset == f64::NEG_INFINITY && reach.first == usize::MAX;
    Some(reach)
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

/// The factor of the scores in log q, if q is a softmax of the scores on its face: `log q = l / lam + log r + constant`, where
/// log p is again a multiple of the scores.
pub(super) fn softmax_scale(plan: &Plan) -> Option<f64> {
    let temperature = if plan.raw_scores { 1.0 } else { plan.temperature };
    match plan.objective {
        Objective::Softmax { lam } => Some(plan.score_weight / temperature / lam),
        Objective::AnchoredSoftmax { lam } if plan.anchor == Anchor::Model => {
            Some(plan.score_weight / temperature / lam + 1.0 / plan.temperature)
        }
        _ => None,
    }
}

/// The way without sums: maxima of blocks, and what they say of the candidates. `None` if that is too much to be worth it;
/// `Err` as in [`Prepared::load`].
fn from_maxima(
    plan: &Plan,
    reach: &Reach,
    row: &Row<'_>,
    level: Level,
    ws: &mut Workspace,
) -> Result<Option<Ready>, Status> {
    let Reads {
        maxima, selection, max, ..
    } = &mut ws.reads;
    let summary = arch::block_maxima(level, row.scores, row.mask, maxima);
    summary.check()?;
    *max = summary.max + 0.0;
    if reach.first == 1 {
        let best = first_of(summary.max, row, maxima);
        ws.prepared.hold([best], [summary.max]);
        return Ok(Some(Ready::Solved(solve_candidates(plan, true, ws))));
    }
    let nearest = kth_largest(reach.first, maxima, selection, f64::total_cmp)
        .unwrap_or(f64::NEG_INFINITY)
        .max(summary.max + reach.offset);
    // `min`: a rule may ask for more than the maximum (rho > 1, or NaN), and keeps the best token all the same.
    let least = nearest.min(summary.max).max(f64::MIN);
    let narrow = !matches!(row.scores, Scores::F64(_)) && row.scores.len() <= LONGEST;
    let scale = softmax_scale(plan).filter(|_| narrow);
    if let (Some(scale), usize::MAX) = (scale, reach.first) {
        let reached = maxima.iter().filter(|&&maximum| maximum >= least).count();
        if reached > GATHERED / BLOCK * 4 {
            return Ok(Exponential::new(scale, summary.max).map(|exponential| {
                let exponential = exponential.from(least);
                let sums = &mut ws.reads.sweep.sums;
                arch::block_sums(level, row.scores, row.mask, &exponential, sums);
                Ready::Spread(exponential, Cut::from(least))
            }));
        }
    }
    if least == f64::MIN && row.mask.is_none() {
        return Ok(None);
    }
    let limit = (row.scores.len() / 4).max(BLOCK);
    let bounds = Bounds { least, limit };
    let (prepared, reads) = (&mut ws.prepared, &mut ws.reads);
    let complete = prepared
        .collect_with(|ids, x| arch::collect_above(level, row.scores, row.mask, &reads.maxima, bounds, (ids, x)));
    if !complete {
        return Ok(None);
    }
    let status = |ws: &mut Workspace| Ready::Solved(solve_candidates(plan, false, ws));
    let Some(exponential) = scale
        .filter(|_| prepared.x.len() > EXACT)
        .and_then(|scale| Exponential::new(scale, summary.max))
    else {
        return Ok(Some(status(ws)));
    };
    select_candidates(plan, ws);
    let kept = ws.keep.iter().filter(|keep| **keep).count();
    if kept <= EXACT {
        return Ok(Some(status(ws)));
    }
    let Workspace {
        prepared, keep, reads, ..
    } = ws;
    let Candidates { ids, values, .. } = reads.candidates_mut();
    ids.clear();
    values.clear();
    for ((&id, &x), _) in prepared
        .ids
        .iter()
        .zip(&prepared.x)
        .zip(&*keep)
        .filter(|(_, keep)| **keep)
    {
        ids.push(id);
        values.push(x as f32);
    }
    Ok(Some(Ready::Gathered(exponential)))
}

/// The way with sums: the face is a cut. `None` where only the whole distribution can tell.
fn from_sums(
    plan: &Plan,
    reach: &Reach,
    row: &Row<'_>,
    level: Level,
    ws: &mut Workspace,
) -> Result<Option<Ready>, Status> {
    if row.scores.len() > LONGEST {
        return Ok(None);
    }
    let softmax = softmax_scale(plan);
    let measured = match (&plan.supports[..], softmax) {
        ([], Some(scale)) => scale,
        _ => 1.0 / plan.temperature,
    };
    let Reads {
        sweep,
        cut: scratch,
        max: reads_max,
        measured: reads_measured,
        ..
    } = &mut ws.reads;
    let Some((summary, exponential)) = arch::sweep(level, row.scores, row.mask, measured, sweep) else {
        return Ok(None);
    };
    summary.check()?;
    let max = summary.max;
    // The terms that are drawn from, if that is how.
    let drawn = match softmax {
        Some(scale) if scale == measured => exponential,
        Some(scale) => Exponential::new(scale, max),
        None => None,
    };
    let (Some(exponential), true) = (exponential, drawn.is_some() == softmax.is_some()) else {
        return Ok(None);
    };
    let z = sweep.sums.iter().sum();
    (*reads_max, *reads_measured) = (max + 0.0, Some((exponential, z)));
    let measure = Measure {
        row,
        level,
        max,
        exponential: &exponential,
        z,
        sweep,
    };
    let Some(cut) = cut::intersect(&plan.supports, plan.temperature, &measure, scratch) else {
        return Ok(None);
    };
    // `min`: MinP may ask for more than the maximum.
    let cut = cut.and(Cut::from((max + reach.offset).min(max)));
    if let (Some(drawn), Cut::ALL) = (drawn, cut) {
        if softmax != Some(measured) {
            arch::block_sums(level, row.scores, row.mask, &drawn, &mut sweep.sums);
        }
        return Ok(Some(Ready::Spread(drawn, cut)));
    }
    let gathered = match drawn {
        Some(_) => measure.may_be_few(cut.least) && scratch.candidates.gather(&measure, cut.least, GATHERED),
        None => scratch
            .candidates
            .gather(&measure, cut.least, (row.scores.len() / 4).max(BLOCK)),
    };
    let candidates = &mut scratch.candidates;
    match drawn {
        Some(drawn) if !gathered => {
            if !candidates.has_end_of(cut, &drawn) {
                let measure = Measure {
                    exponential: &drawn,
                    ..measure
                };
                candidates.find_end_of(cut, &measure);
            }
            candidates.add_to_sums(cut);
            std::mem::swap(&mut sweep.sums, &mut candidates.sums);
            return Ok(Some(Ready::Spread(drawn.from(cut.least), cut)));
        }
        None if !gathered => return Ok(None),
        _ => candidates.keep(cut),
    }
    match drawn {
        Some(drawn) if candidates.ids.len() > EXACT => Ok(Some(Ready::Gathered(drawn))),
        _ => {
            let values = candidates.values.iter().map(|&x| f64::from(x));
            ws.prepared.hold(candidates.ids.iter().copied(), values);
            Ok(Some(Ready::Solved(solve_candidates(plan, true, ws))))
        }
    }
}

/// The first allowed token with the largest score.
fn first_of(max: f64, row: &Row<'_>, maxima: &[f64]) -> u32 {
    let block = maxima.iter().position(|&maximum| maximum == max).unwrap_or(0);
    let ids = block * BLOCK..row.scores.len().min((block + 1) * BLOCK);
    ids.clone()
        .find(|&id| row.allowed_score(id) == Some(max))
        .unwrap_or(ids.start) as u32
}

/// Sets `keep` to what the supports keep of the candidates, none of them being about sums.
fn select_candidates(plan: &Plan, ws: &mut Workspace) {
    let Workspace {
        prepared,
        keep,
        scratch,
        ..
    } = ws;
    support::intersect(&plan.supports, plan.temperature, prepared, &mut scratch.ranked, keep);
}

/// The rest of `distribute` on candidates, which are the face or, if not, contain it. Their log p lack the normaliser, hence the
/// threshold that of an anchored plan.
fn solve_candidates(plan: &Plan, face_is_known: bool, ws: &mut Workspace) -> Solved {
    if !face_is_known {
        select_candidates(plan, ws);
    }
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
    if face_is_known {
        keep.clear();
        keep.resize(prepared.ids.len(), true);
    }
    if plan.anchor == Anchor::Model {
        prepared.refer_to_scores(plan.temperature);
    }
    face.gather(plan, prepared, keep, weights);
    dispatch(&plan.objective, face, Term::NONE, scratch, answer)
}
