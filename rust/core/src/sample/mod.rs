//! Drawing tokens from a solved row: counter-based uniforms and an integer inverse CDF, so that a draw is a pure
//! function of (distribution, seed, position, draw index) and of nothing else.
//!
//! For one row, [`draw_tokens`] is all of it, [`draw_distinct`] draws without replacement, and [`draw_by_code`] one token of a sequence
//! that is coupled with others.

mod categorical;
mod codes;
mod distinct;
mod law;
mod philox;
mod softmax;
mod tokens;

pub use categorical::{Coupling, Draw, draw_row, mass};
pub use codes::Code;
pub use distinct::Distinct;
pub use philox::{STREAM_CODES, STREAM_DRAWS, STREAM_ROW_SEEDS, STREAM_VALUES, philox4x32_10, row_seed, uniform};
pub use softmax::SoftmaxScratch;
pub use tokens::{draw_by_code, draw_distinct, draw_tokens};
