//! Decoding distributions as optima on the probability simplex: `max <q, l> - Omega(q)` on a face, one row at a time.
//!
//! The flow of [`solve::solve_row`] is one way: `prepare` reads the row and reduces it to the allowed tokens,
//! `support` selects the face, `solve` finds the optimum on it, exactly, by one solver per objective. Where only the best
//! tokens matter to a draw, [`solve::solve_for_draw`] finds them by one read of the row (`arch`) and does the same on these.
//! Algorithms, convergence arguments and precision choices are in `DESIGN.md` next to this crate.

#![deny(unsafe_code)]
#![deny(missing_docs)]

#[allow(unsafe_code)]
pub mod arch;
mod math;
pub mod par;
pub mod plan;
mod prepare;
pub mod row;
pub mod sample;
pub mod solve;
pub mod status;
mod support;

pub use arch::Level;
pub use plan::Plan;
pub use row::Row;
pub use solve::{Outcome, Workspace, solve_for_draw, solve_row};
pub use status::Status;
