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

/// Asserts that the spans of a law lie one after another and fill all uniforms, each the preimage of its token; the tokens.
#[cfg(test)]
pub(super) fn walk(law: &mut dyn Law) -> Vec<i64> {
    let (mut tokens, mut r) = (vec![], 0_u128);
    while r < 1 << 64 {
        let (draw, span) = law.draw_with_span(r as u64).expect("a law with mass");
        assert_eq!(u128::from(span.from), r, "token {}", draw.token);
        assert!(span.width > 0 && r + span.width <= 1 << 64);
        r += span.width;
        for inside in [span.from, span.from + ((span.width - 1) / 3) as u64, (r - 1) as u64] {
            assert_eq!(law.draw_with_span(inside), Some((draw, span)));
            assert_eq!(law.draw(inside), draw);
        }
        tokens.push(draw.token);
    }
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]));
    tokens
}
