//! Coverage weights, measured on the allowed tokens.

use super::Scratch;
use crate::plan::Weights;
use crate::prepare::Prepared;
use crate::status::Status;
use crate::support::{self, rank};

/// Sets `out` to the weights of the allowed tokens; the row's own weights come first.
pub(super) fn measure(
    weights: &Weights,
    row: Option<&[f64]>,
    temperature: f64,
    prepared: &Prepared,
    scratch: &mut Scratch,
    out: &mut Vec<f64>,
) -> Result<(), Status> {
    out.clear();
    match (row, weights) {
        (Some(values), _) => return given(values, &prepared.ids, out),
        (None, Weights::Array(values)) => return given(values, &prepared.ids, out),
        (None, Weights::Model) => out.extend_from_slice(&prepared.p),
        (None, Weights::Uniform) => out.resize(prepared.ids.len(), 1.0),
        (None, Weights::Rank) => {
            // The one place that needs the whole order.
            rank::rank(&prepared.x, &mut scratch.ranked);
            scratch.ranked.sort_unstable_by(rank::Ranked::order);
            out.resize(prepared.ids.len(), 0.0);
            for (item, position) in scratch.ranked.iter().zip(1_u32..) {
                out[item.index as usize] = 1.0 / f64::from(position);
            }
        }
        (None, Weights::Support(supports)) => {
            support::intersect(supports, temperature, prepared, &mut scratch.ranked, &mut scratch.keep);
            out.extend(scratch.keep.iter().map(|&keep| f64::from(u8::from(keep))));
        }
    }
    Ok(())
}

fn given(values: &[f64], ids: &[u32], out: &mut Vec<f64>) -> Result<(), Status> {
    for &id in ids {
        match values.get(id as usize) {
            Some(&w) if w >= 0.0 && w.is_finite() => out.push(w),
            _ => return Err(Status::BadWeights),
        }
    }
    Ok(())
}
