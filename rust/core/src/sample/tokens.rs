//! From a row straight to tokens.

use super::categorical::{Coupling, Draw, draw_each, draw_row};
use super::softmax::{Gathered, Law, Masses};
use crate::arch::Level;
use crate::par::Scratch;
use crate::plan::Plan;
use crate::row::Row;
use crate::solve::{Ready, Solved, prepare_draw};
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
    let Scratch {
        workspace,
        masses,
        softmax,
    } = scratch;
    let mut each = |draw: &mut dyn FnMut(u64) -> Draw| {
        draw_each(seed, position, coupling, out_tokens, out_log_probs, draw);
        Status::Ok
    };
    match prepare_draw(plan, row, level, workspace) {
        Ok(Ready::Gathered(exponential)) => {
            let candidates = workspace.reads.candidates();
            let gathered = Gathered::new(level, &exponential, candidates, softmax);
            each(&mut |r| gathered.draw(r))
        }
        Ok(Ready::Weighed) => {
            let candidates = workspace.reads.candidates();
            let gathered = Gathered::weighed(&candidates.ids, &candidates.terms, &mut softmax.ends);
            each(&mut |r| gathered.draw(r))
        }
        Ok(Ready::Tailed(tail)) => {
            let head = workspace.reads.candidates();
            let mut masses = Masses::new(*row, level, Law::Tailed(tail, head), &head.sums, softmax);
            each(&mut |r| masses.draw(r))
        }
        Ok(Ready::Spread(exponential, cut)) => {
            let (sums, row) = (&workspace.reads.sweep.sums, workspace.reads.narrowed(row));
            let mut spread = Masses::new(row, level, Law::Cut(exponential, cut), sums, softmax);
            each(&mut |r| spread.draw(r))
        }
        Ok(Ready::Solved(solved)) if solved.status.is_solved() => {
            let (face, q, log_q) = (workspace.face(), workspace.q(), workspace.log_q());
            draw_row(
                face,
                q,
                log_q,
                seed,
                position,
                coupling,
                out_tokens,
                out_log_probs,
                masses,
            );
            solved.status
        }
        Ok(Ready::Solved(Solved { status, .. })) | Err(status) => {
            out_tokens.fill(-1);
            out_log_probs.fill(f64::NAN);
            status
        }
    }
}
