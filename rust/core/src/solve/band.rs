//! Faces that are no prefixes of the order: typical sets, and what other supports leave of them.
//!
//! Few tokens are what was gathered. Of many a mask is made, which takes the place of the supports, and the row is looked at again: on
//! what the mask leaves there is nothing unusual. What is relative to the best token is then relative to the best one of the face.

use super::Workspace;
use super::draw::{GATHERED, Ready, from_gathered, shortcut};
use crate::arch::{Exponential, Level};
use crate::plan::Plan;
use crate::row::Row;
use crate::status::Status;
use crate::support::cut::Cut;

/// The face is what of the candidates is in a cut: perhaps nothing, and not the best token, as a rule. If that is many tokens,
/// a mask takes the place of the supports.
pub(super) fn from_band(
    plan: &Plan,
    cut: Cut,
    softmax: Option<f64>,
    row: &Row<'_>,
    level: Level,
    ws: &mut Workspace,
) -> Result<Option<Ready>, Status> {
    let reads = &mut ws.reads;
    let candidates = &mut reads.cut.candidates;
    candidates.take_cut(cut);
    let count = candidates.ids.len();
    if count == 0 {
        return Err(Status::Infeasible);
    }
    if count <= GATHERED {
        let best = candidates.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        reads.max = f64::from(best) + 0.0;
        let drawn = softmax.map(|scale| Exponential::new(scale, reads.max));
        return Ok(match drawn {
            Some(None) => None,
            drawn => Some(from_gathered(plan, drawn.flatten(), ws)),
        });
    }
    let mut face = std::mem::take(&mut reads.face);
    face.clear();
    face.resize(row.scores.len().div_ceil(32), 0);
    for &id in &candidates.ids {
        face[id as usize / 32] |= 1 << (id % 32);
    }
    let on_face = Plan {
        supports: vec![],
        chains: vec![],
        ..plan.clone()
    };
    let (top, measured) = (reads.top, reads.measured);
    let ready = shortcut(&on_face, &row.masked(&face), level, ws);
    ws.reads.face = face;
    ws.reads.is_masked = true;
    (ws.reads.top, ws.reads.measured) = (top, measured);
    ready
}
