//! Drawing tokens from a solved row: counter-based uniforms and an integer inverse CDF, so that a draw is a pure
//! function of (distribution, seed, position, draw index) and of nothing else.

mod categorical;
mod philox;

pub use categorical::{Coupling, Draw, draw_row, mass};
pub use philox::{STREAM_DRAWS, STREAM_ROW_SEEDS, philox4x32_10, row_seed, uniform};
