//! From a row straight to tokens.

use super::categorical::{Cdf, Coupling, Draw, NO_DRAW, draw_each};
use super::codes::Code;
use super::distinct::{Distinct, Race};
use super::law::Law;
use super::softmax::{Gathered, Masses, Terms};
use crate::arch::Level;
use crate::par::Scratch;
use crate::plan::{Objective, Plan};
use crate::row::Row;
use crate::solve::{Ready, prepare_draw, solve_whole};
use crate::status::Status;

/// Solves a row as far as draws need, and draws one token into each place of `out_tokens`, and its log-probability into
/// `out_log_probs`, of the same length: -1 and NaN if there is no distribution.
///
/// Tokens and log-probabilities are the same at every level. For a plain softmax of scores of f32 or narrower each token's q and
/// log q have an error of 3e-6 relative to q, and 2^-40; for all else they are those of [`crate::solve_row`].
#[allow(clippy::too_many_arguments)]
pub fn draw_tokens(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    seed: u64,
    position: u64,
    coupling: Coupling,
    out_tokens: &mut [i64],
    out_log_probs: &mut [f64],
    scratch: &mut Scratch,
) -> Status {
    let each = |law: &mut dyn Law| draw_each(seed, position, coupling, out_tokens, out_log_probs, law);
    let (status, _) = with_law(plan, row, level, scratch, each);
    if !status.is_solved() {
        out_tokens.fill(-1);
        out_log_probs.fill(f64::NAN);
    }
    status
}

/// Solves a row as far as draws need, and draws distinct tokens, as many as there are places: [`Status::TooFewTokens`] if it has fewer,
/// which are drawn all the same.
///
/// Draw 0 is that of [`draw_tokens`]; like these, all are the same at every level.
pub fn draw_distinct(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    seed: u64,
    position: u64,
    out: &mut Distinct<'_>,
    scratch: &mut Scratch,
) -> Status {
    let mut race = Race::new(seed, position, out);
    let (mut status, is_whole) = with_law(plan, row, level, scratch, |law| race.run(law));
    if status.is_solved() && !race.is_over() {
        let Scratch { workspace, masses, .. } = scratch;
        if !is_whole {
            status = solve_whole(plan, row, workspace);
        }
        race.finish(workspace.face(), workspace.q(), workspace.log_q(), masses);
    }
    match race.close() {
        false if status.is_solved() => Status::TooFewTokens,
        _ => status,
    }
}

/// Solves a row as far as draws need, and draws the token of a code, which goes on behind it. A row without a distribution leaves the code as it is.
#[allow(clippy::too_many_arguments)]
pub fn draw_by_code(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    seed: u64,
    sequence: u32,
    code: &mut Code,
    scratch: &mut Scratch,
) -> (Draw, Status) {
    let mut drawn = NO_DRAW;
    let (status, _) = with_law(plan, row, level, scratch, |law| {
        if let Some((draw, span)) = law.draw_with_span(code.value) {
            code.advance(span, seed, sequence);
            drawn = draw;
        }
    });
    (drawn, status)
}

/// Solves a row as far as draws need, and hands over the law of its tokens, if there is one. Its status, and whether all tokens with
/// probability are in the workspace.
fn with_law(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    scratch: &mut Scratch,
    draw: impl FnOnce(&mut dyn Law),
) -> (Status, bool) {
    let Scratch {
        workspace,
        masses,
        softmax,
    } = scratch;
    match prepare_draw(plan, row, level, workspace) {
        Ok(Ready::Gathered(exponential)) => {
            let candidates = workspace.reads.candidates();
            draw(&mut Gathered::new(level, &exponential, candidates, softmax));
        }
        Ok(Ready::Weighed) => {
            let candidates = workspace.reads.candidates();
            draw(&mut Gathered::weighed(
                &candidates.ids,
                &candidates.terms,
                &mut softmax.ends,
            ));
        }
        Ok(Ready::Tailed(tail)) => {
            let head = workspace.reads.candidates();
            draw(&mut Masses::new(
                *row,
                level,
                Terms::Tailed(tail, head),
                &head.sums,
                softmax,
            ));
        }
        Ok(Ready::Spread(exponential, cut)) => {
            let (sums, row) = (&workspace.reads.sweep.sums, workspace.reads.narrowed(row));
            draw(&mut Masses::new(
                row,
                level,
                Terms::Cut(exponential, cut),
                sums,
                softmax,
            ));
        }
        Ok(Ready::Solved(solved)) => {
            if solved.status.is_solved() {
                let (face, q, log_q) = (workspace.face(), workspace.q(), workspace.log_q());
                draw(&mut Cdf::new(face, q, log_q, masses));
            }
            // Of Best-of-K those are left out that draws would not see.
            return (solved.status, !matches!(plan.objective, Objective::Coverage { .. }));
        }
        Err(status) => return (status, false),
    }
    (Status::Ok, false)
}
