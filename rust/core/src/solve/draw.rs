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
//! * Sparse solvers: what comes out of them does not depend on tokens without probability that are below the bound, to the
//!   last bit. `threshold` decides on the support by integers and sums over nothing else; `tsallis::flat` looks at no token
//!   that its first phase, on the best ones, leaves without probability; `tsallis::steep` drops first thing what is too far below
//!   the best token. The final sums run over the face in the order of the ids, and only lose terms that are zero, which no
//!   compensated sum notices.
//!
//! Where a rule is about sums, these come from the same read, and the face is a cut of the order (`support::cut`). A softmax
//! over many tokens is not solved at all: it is drawn from by its terms (`sample`).

use super::ascent::from_mirror;
use super::band::from_band;
use super::cover::{Tail, from_coverage};
use super::{CoverageTerm, Solved, Workspace, dispatch, distribute, solve_whole, tsallis};
use crate::arch::{self, BLOCK, Bounds, Exponential, Level, Threshold};
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

/// The masses of more tokens might overflow.
const MOST_GATHERED: usize = 1 << 15;

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
    /// Of mirror ascent.
    pub(super) ascent: arch::Ascent,
    /// The largest score of the face, which is that of the row but for typical sets; not -0, which levels may tell from 0.
    pub(super) max: f64,
    /// The largest score of the row.
    pub(super) top: f64,
    /// The tokens of a face that is no cut, as a mask, if it `is_masked`.
    pub(super) face: Vec<u32>,
    pub(super) is_masked: bool,
    /// What supports were measured on, with the sum of its terms, if any was summed.
    pub(super) measured: Option<(Exponential, f64)>,
}

impl Reads {
    /// The row that there is to draw from.
    pub(crate) fn narrowed<'a>(&'a self, row: &Row<'a>) -> Row<'a> {
        match self.is_masked {
            true => row.masked(&self.face),
            false => *row,
        }
    }

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
    /// `q ~ term` over the tokens of a cut of the [row that is left](Reads::narrowed), whose terms are summed in [`Reads`] if there
    /// are no ties at its end to drop.
    Spread(Exponential, Cut),
}

/// Solves one row as far as draws need: face, q and log q stay in the workspace, except that the face may lack tokens of
/// probability zero. Tokens with probability, their q and log q, and the status are those of [`super::solve_row`], bit for
/// bit, at every level, as long as no support is about sums over all tokens; then as far as these round.
pub fn solve_for_draw(plan: &Plan, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Status {
    match prepare_draw(plan, row, level, ws) {
        Ok(Ready::Solved(solved)) => solved.status,
        Ok(_) => solve_whole(plan, row, ws),
        Err(status) => {
            ws.clear();
            status
        }
    }
}

/// Gets a row ready to be drawn from, in the cheapest way there is.
pub(crate) fn prepare_draw(plan: &Plan, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Result<Ready, Status> {
    let ready = match plan.objective {
        _ if plan.is_constrained() => None,
        Objective::Coverage { .. } => from_coverage(plan, row, level, ws)?.map(|found| found.ready),
        Objective::Mirror { .. } => from_mirror(plan, row, level, ws)?,
        _ => shortcut(plan, row, level, ws)?,
    };
    match ready {
        Some(ready) => Ok(ready),
        None => distribute(plan, row, ws).map(|(_, solved)| Ready::Solved(solved)),
    }
}

/// The ways that look at no more than some tokens one by one, if the plan is no Best-of-K and there is one.
pub(super) fn shortcut(plan: &Plan, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Result<Option<Ready>, Status> {
    (ws.reads.measured, ws.reads.is_masked) = (None, false);
    match reach(plan) {
        Some(reach) if reach.measures => from_sums(plan, &reach, row, level, ws),
        Some(reach) => from_maxima(plan, &reach, row, level, ws).map(Some),
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
    /// Above the threshold of a sparse optimum, if nothing is said of the order.
    sparse: Option<Sparse>,
    /// Rules about sums over all tokens say more, or there is nothing else to say.
    measures: bool,
}

/// A sparse objective.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sparse {
    /// How far below the best token one can be and have probability.
    width: f64,
    alpha: f64,
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
        sparse: None,
        measures: false,
    };
    match plan.objective {
        Objective::Argmax if plan.keeps_best() => return Some(Reach { first: 1, ..reach }),
        Objective::Argmax => {}
        Objective::Softmax { .. } | Objective::AnchoredSoftmax { .. } => {}
        Objective::Quadratic { lam } => reach.sparse = Some(Sparse::new(plan, lam, 2.0)?),
        Objective::Tsallis { lam, alpha } => reach.sparse = Some(Sparse::new(plan, lam, alpha)?),
        _ => return None,
    }
    if let Some(Sparse { width, .. }) = reach.sparse {
        reach.offset = -width;
    }
    let chained = unmeasured_chain(plan, reach.sparse);
    reach.measures = chained.is_none();
    for &Support { rule, raw } in plan.supports.iter().chain(chained.unwrap_or(&[])) {
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

/// The rules at the start of a plan's chain that need no sums, if their tokens, gathered, are all that the rest of it needs to
/// be measured on: then nothing else may thin them out. No rules if there is no chain.
fn unmeasured_chain(plan: &Plan, sparse: Option<Sparse>) -> Option<&[Support]> {
    let [chain] = &plan.chains[..] else {
        return plan.chains.is_empty().then_some(&[]);
    };
    let count = chain
        .iter()
        .take_while(|support| !cut::needs_mass(support.rule))
        .count();
    let few = chain[..count]
        .iter()
        .any(|support| matches!(support.rule, Rule::TopK(_)));
    (few && plan.supports.is_empty() && sparse.is_none()).then_some(&chain[..count])
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

impl Sparse {
    fn new(plan: &Plan, lam: f64, alpha: f64) -> Option<Self> {
        let width = spread(plan, lam / (alpha - 1.0))?;
        Some(Sparse { width, alpha })
    }
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

/// The way without sums: maxima of blocks, and what they say of the candidates. `Err` as in [`Prepared::load`].
fn from_maxima(plan: &Plan, reach: &Reach, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Result<Ready, Status> {
    let Reads { maxima, max, top, .. } = &mut ws.reads;
    let summary = arch::block_maxima(level, row.scores, row.mask, maxima);
    summary.check()?;
    *max = summary.max + 0.0;
    *top = *max;
    if reach.first == 1 {
        let best = first_of(summary.max, row, maxima);
        ws.prepared.hold([best], [summary.max]);
        return Ok(Ready::Solved(solve_candidates(plan, true, ws)));
    }
    let least = least_score(reach, summary.max, row, level, ws);
    let maxima = &ws.reads.maxima;
    let narrow = !matches!(row.scores, Scores::F64(_)) && row.scores.len() <= LONGEST;
    let scale = softmax_scale(plan).filter(|_| narrow);
    if let (Some(scale), usize::MAX) = (scale, reach.first) {
        let reached = maxima.iter().filter(|&&maximum| maximum >= least).count();
        if let (true, Some(exponential)) = (reached > GATHERED / BLOCK * 4, Exponential::new(scale, summary.max)) {
            let exponential = exponential.from(least);
            let sums = &mut ws.reads.sweep.sums;
            arch::block_sums(level, row.scores, row.mask, &exponential, sums);
            return Ok(Ready::Spread(exponential, Cut::from(least)));
        }
    }
    collect(reach.first, least, row, level, ws);
    let Some(exponential) = scale
        .filter(|_| ws.prepared.x.len() > EXACT)
        .and_then(|scale| Exponential::new(scale, summary.max))
    else {
        return Ok(Ready::Solved(solve_candidates(plan, false, ws)));
    };
    select_candidates(plan, ws);
    let kept = ws.keep.iter().filter(|keep| **keep).count();
    if !(EXACT + 1..=MOST_GATHERED).contains(&kept) {
        return Ok(Ready::Solved(solve_candidates(plan, false, ws)));
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
    Ok(Ready::Gathered(exponential))
}

/// Takes the tokens from `least` on, those of the first `first` in order at any rate, as candidates.
fn collect(first: usize, least: f64, row: &Row<'_>, level: Level, ws: &mut Workspace) {
    let Reads { maxima, selection, .. } = &mut ws.reads;
    ws.prepared.collect_with(|ids, x| {
        // What ties with the bound by the thousand is in order: only the first can be among the first.
        let bounds = Bounds { least, limit: first };
        arch::collect_above(level, row.scores, row.mask, maxima, bounds, (ids, x));
        // Of a row with too few blocks for a bound.
        if first < x.len() / 8 {
            let kth = kth_largest(first, x, selection, f64::total_cmp).unwrap_or(least);
            keep_from(kth, ids, x);
        }
    });
}

/// A score that all tokens with probability reach, and the best one at any rate; finite.
fn least_score(reach: &Reach, max: f64, row: &Row<'_>, level: Level, ws: &mut Workspace) -> f64 {
    let Reads { maxima, selection, .. } = &mut ws.reads;
    let least = max + reach.offset;
    let nearest = match reach.sparse {
        _ if reach.first < usize::MAX => {
            kth_largest(reach.first, maxima, selection, f64::total_cmp).map_or(least, |kth| kth.max(least))
        }
        Some(Sparse { width, alpha }) if alpha == 2.0 || alpha == 1.5 => {
            let squared = alpha == 1.5;
            arch::threshold_bound(level, Threshold { width, squared }, maxima, max, least, selection)
        }
        // With larger alpha few tokens are so near to the best one anyway.
        Some(Sparse { width, alpha }) if alpha < 2.0 => head_bound(width, alpha - 1.0, max, least, row, level, ws),
        _ => least,
    };
    // `min`: a rule may ask for more than the maximum (rho > 1, or NaN), and keeps the best token all the same.
    nearest.min(max).max(f64::MIN)
}

/// The bound that the best tokens alone give, if there are many of them above `least`: [`tsallis::flat`] never gets to others.
fn head_bound(width: f64, power: f64, max: f64, least: f64, row: &Row<'_>, level: Level, ws: &mut Workspace) -> f64 {
    let Reads { maxima, selection, .. } = &mut ws.reads;
    let kth = kth_largest(tsallis::HEAD, maxima, selection, f64::total_cmp);
    let Some(kth) = kth.filter(|&kth| kth > least) else {
        return least;
    };
    ws.prepared
        .collect_with(|ids, x| arch::collect_above(level, row.scores, row.mask, maxima, Bounds::from(kth), (ids, x)));
    let z = ws.prepared.x.iter().map(|x| (x - max) / (width * power));
    let mu = tsallis::rough_start(power, z, selection);
    // Lower by a margin for rounding, as `width` is; and the solver starts with the best tokens all the same.
    let bound = max - width * (1.0 + 1e-6 - power * mu);
    least.max(bound.min(kth))
}

/// Drops tokens below `least`.
fn keep_from(least: f64, ids: &mut Vec<u32>, x: &mut Vec<f64>) {
    let mut kept = 0;
    for i in 0..x.len() {
        (ids[kept], x[kept]) = (ids[i], x[i]);
        kept += usize::from(x[i] >= least);
    }
    ids.truncate(kept);
    x.truncate(kept);
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
    let measured = softmax.filter(|_| !plan.selects()).unwrap_or(1.0 / plan.temperature);
    let Reads {
        sweep,
        cut: scratch,
        max: reads_max,
        top: reads_top,
        measured: reads_measured,
        ..
    } = &mut ws.reads;
    let Some((summary, exponential)) = arch::sweep(level, row.scores, row.mask, measured, false, sweep) else {
        return Ok(None);
    };
    summary.check()?;
    let max = summary.max;
    // The terms that are drawn from, if that is how.
    let drawn = match softmax {
        Some(scale) if scale != measured => Exponential::new(scale, max),
        _ => exponential.filter(|_| softmax.is_some()),
    };
    let (Some(exponential), true) = (exponential, drawn.is_some() == softmax.is_some()) else {
        return Ok(None);
    };
    let measure = Measure::new(row, level, max, &exponential, sweep);
    (*reads_max, *reads_top, *reads_measured) = (max + 0.0, max + 0.0, Some((exponential, measure.z)));
    let Some((cut, is_band)) = cut::intersect_with_typical(plan, &measure, scratch) else {
        return Ok(None);
    };
    if is_band {
        return from_band(plan, cut, softmax, row, level, ws);
    }
    // `min`: MinP may ask for more than the maximum.
    let cut = cut.and(Cut::from((max + reach.offset).min(max)));
    if let (Some(drawn), Cut::ALL) = (drawn, cut) {
        if softmax != Some(measured) {
            arch::block_sums(level, row.scores, row.mask, &drawn, &mut sweep.sums);
        }
        return Ok(Some(Ready::Spread(drawn, cut)));
    }
    let candidates = &mut scratch.candidates;
    let gathered = match drawn {
        Some(_) => candidates.gather_few(&measure, cut.least, GATHERED),
        None => candidates.gather(&measure, cut.least, (row.scores.len() / 4).max(BLOCK)),
    };
    match drawn {
        Some(drawn) if !gathered => {
            let measure = Measure {
                exponential: &drawn,
                ..measure
            };
            candidates.sum_cut(&measure, cut);
            std::mem::swap(&mut sweep.sums, &mut candidates.sums);
            Ok(Some(Ready::Spread(drawn.from(cut.least), cut)))
        }
        None if !gathered => Ok(None),
        _ => {
            candidates.keep(cut);
            Ok(Some(from_gathered(plan, drawn, ws)))
        }
    }
}

/// The face is what was gathered: many tokens are drawn from by terms, if there are any, and few solved for.
pub(super) fn from_gathered(plan: &Plan, drawn: Option<Exponential>, ws: &mut Workspace) -> Ready {
    let Candidates { ids, values, .. } = &ws.reads.cut.candidates;
    match drawn {
        Some(drawn) if ids.len() > EXACT => Ready::Gathered(drawn),
        _ => {
            let x = values.iter().map(|&x| f64::from(x));
            ws.prepared.hold(ids.iter().copied(), x);
            Ready::Solved(solve_candidates(plan, true, ws))
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
    support::face(plan, prepared, &mut scratch.ranked, &mut scratch.rest, keep);
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
    dispatch(&plan.objective, plan.cap, face, CoverageTerm::NONE, scratch, answer)
}
