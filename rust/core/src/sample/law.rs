//! What draws ask of a distribution.

use super::categorical::Draw;

/// A distribution over tokens, laid out along the 2^64 uniforms: each token with mass has an interval of them, one after another
/// in the order of the ids.
pub(super) trait Law {
    /// The token that the uniform `r` falls on.
    fn draw(&mut self, r: u64) -> Draw;

    /// The same with all the uniforms that fall on it; `None` if there is no mass.
    fn draw_with_span(&mut self, r: u64) -> Option<(Draw, Span)>;
}

/// An interval of uniforms, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The first one.
    pub(super) from: u64,
    /// How many, up to 2^64.
    pub(super) width: u128,
}

impl Span {
    /// The uniforms r with `from <= r total < to`.
    pub(super) fn between(from: u128, to: u128, total: u64) -> Self {
        let total = u128::from(total);
        let first = from.div_ceil(total);
        Span {
            from: first as u64,
            width: to.div_ceil(total) - first,
        }
    }
}
