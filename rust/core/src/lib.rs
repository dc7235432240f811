//! Decoding distributions as optima on the probability simplex: `max <q, l> - Omega(q)` on a face, one row at a time.
//!
//! The flow of [`solve::solve_row`] is one way: `prepare` reads the row and reduces it to the allowed tokens,
//! `support` selects the face, `solve` finds the optimum on it, exactly, by one solver per objective.
//! Algorithms, convergence arguments and precision choices are in `DESIGN.md` next to this crate.

#![deny(unsafe_code)]
#![deny(missing_docs)]

mod math;
pub mod par;
pub mod plan;
mod prepare;
pub mod row;
pub mod sample;
pub mod solve;
pub mod status;
mod support;

pub use plan::Plan;
pub use row::Row;
pub use solve::{Outcome, Workspace, solve_row};
pub use status::Status;
