//! Drawing tokens from a solved row: counter-based uniforms and an integer inverse CDF, so that a draw is a pure
//! function of (distribution, seed, position, draw index) and of nothing else.
//!
//! [`draw_tokens`] is all of it for one row.

mod categorical;
mod philox;
mod softmax;
mod tokens;

pub use categorical::{Coupling, Draw, draw_row, mass};
pub use philox::{STREAM_DRAWS, STREAM_ROW_SEEDS, philox4x32_10, row_seed, uniform};
pub use softmax::SoftmaxScratch;
pub use tokens::draw_tokens;
