//! What the model itself says of a row: the log-probabilities of given tokens, and its best tokens.
//!
//! Rows of f32 or narrower take the fused sweep and, for the best tokens, what top-k gathers; the others, all of p in f64.

use super::Workspace;
use super::draw::LONGEST;
use super::write::depth;
use crate::arch::{self, Level};
use crate::plan::{Anchor, Plan};
use crate::row::{Row, Scores};
use crate::status::Status;
use crate::support::cut::Measure;
use crate::support::rank::{self, Ranked};

/// What is asked of a row. Where it has no distribution, ids are -1 and log-probabilities NaN.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Token ids; a negative one, as of a row without a draw, has log-probability NaN.
    pub tokens: &'a [i64],
    /// log p of these; -inf if forbidden.
    pub log_probs: &'a mut [f64],
    /// The best tokens in order (score descending, id ascending); -1 past the number of allowed tokens.
    pub top_tokens: &'a mut [i64],
    /// log p of these; -inf past the number of allowed tokens.
    pub top_log_probs: &'a mut [f64],
}

impl Asked<'_> {
    fn fail(&mut self) {
        self.log_probs.fill(f64::NAN);
        self.top_tokens.fill(-1);
        self.top_log_probs.fill(f64::NAN);
    }

    fn answer(&mut self, log_p: impl Fn(usize) -> f64, best: &[Ranked]) {
        for (out, &token) in self.log_probs.iter_mut().zip(self.tokens) {
            *out = usize::try_from(token).map_or(f64::NAN, &log_p);
        }
        self.top_tokens.fill(-1);
        self.top_log_probs.fill(f64::NEG_INFINITY);
        let places = self.top_tokens.iter_mut().zip(&mut *self.top_log_probs);
        for ((token, log), ranked) in places.zip(best) {
            (*token, *log) = (i64::from(ranked.index), log_p(ranked.index as usize));
        }
    }
}

/// Log-probabilities under p, the model distribution that a plan's supports are measured on; the same at every level. Of a row of
/// f32 or narrower they have an error of 2e-6, and 2e-7 of them.
pub fn model_log_probs(plan: &Plan, row: &Row<'_>, level: Level, asked: &mut Asked<'_>, ws: &mut Workspace) -> Status {
    let found = match by_sums(plan, row, level, asked, ws) {
        Ok(true) => Ok(()),
        Ok(false) => one_by_one(plan, row, asked, ws),
        Err(status) => Err(status),
    };
    match found {
        Ok(()) => Status::Ok,
        Err(status) => {
            asked.fail();
            status
        }
    }
}

/// False, and nothing is written, where only the whole distribution can tell.
fn by_sums(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    asked: &mut Asked<'_>,
    ws: &mut Workspace,
) -> Result<bool, Status> {
    let narrow = !matches!(row.scores, Scores::F64(_)) && row.scores.len() <= LONGEST;
    if !narrow || plan.allowed.is_some() || plan.anchor == Anchor::Given {
        return Ok(false);
    }
    let scale = 1.0 / plan.temperature;
    let reads = &mut ws.reads;
    let Some((summary, exponential)) = arch::sweep(level, row.scores, row.mask, scale, false, &mut reads.sweep) else {
        return Ok(false);
    };
    summary.check()?;
    let Some(exponential) = exponential else {
        return Ok(false);
    };
    let max = summary.max;
    let measure = Measure::new(row, level, max, &exponential, &reads.sweep);
    let best = &mut ws.scratch.ranked;
    best.clear();
    let count = asked.top_tokens.len();
    if count > 0 {
        if !measure.first(count, &mut reads.cut, |id, x| best.push(Ranked { value: x, index: id })) {
            return Ok(false);
        }
        best.sort_unstable_by(Ranked::order);
    }
    let depth = depth(&exponential, measure.z, max);
    let log_p = |id| {
        let score = (id < row.scores.len()).then(|| row.allowed_score(id)).flatten();
        score.map_or(f64::NEG_INFINITY, |x| scale * (x - max) - depth)
    };
    asked.answer(log_p, best);
    Ok(true)
}

fn one_by_one(plan: &Plan, row: &Row<'_>, asked: &mut Asked<'_>, ws: &mut Workspace) -> Result<(), Status> {
    let Workspace { prepared, scratch, .. } = ws;
    prepared.load(plan, row)?;
    let best = &mut scratch.ranked;
    rank::rank(&prepared.x, best);
    let count = asked.top_tokens.len().min(best.len());
    if 0 < count && count < best.len() {
        best.select_nth_unstable_by(count - 1, Ranked::order);
    }
    best.truncate(count);
    best.sort_unstable_by(Ranked::order);
    best.iter_mut()
        .for_each(|ranked| ranked.index = prepared.ids[ranked.index as usize]);
    let log_p = |id| {
        let place = u32::try_from(id)
            .ok()
            .and_then(|id| prepared.ids.binary_search(&id).ok());
        place.map_or(f64::NEG_INFINITY, |place| prepared.log_p[place])
    };
    asked.answer(log_p, best);
    Ok(())
}
