//! Arithmetic codes (arXiv:2210.15458): n sequences of one prompt, each drawn from the model, together spread over its sequences.
//!
//! A code is a uniform, and its token the one that [`Law`] lays out there. The next code is the place inside the token's interval
//! of w uniforms, expanded to 2^64 again. So sequences with the same tokens so far keep their order and spread out as they go on.
//!
//! **Exact.** Let a code c be uniform on [0, 2^64). Given its token, `c - from` is uniform on [0, w), as the interval is a set of
//! whole uniforms. With 64 fresh bits f, `x = (c - from) 2^64 + f` is uniform on [0, w 2^64), and each value of the
//! next code `floor(x / w)` has exactly w of these: it is uniform on [0, 2^64) again, and independent of all tokens so far. Hence
//! bits never run out, and the probability of a whole sequence is the product of those of its tokens, `w / 2^64` each; that is the token's
//! integer mass over their sum but for 2^-64. Nothing else is rounded.

use super::categorical::spread;
use super::law::Span;
use super::philox::{STREAM_CODES, STREAM_DRAWS, uniform};

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The uniform of the next token.
    pub value: u64,
    /// Tokens so far.
    pub step: u64,
}

impl Code {
    /// The code that sequence i of n starts with: the uniform of draw i of n, systematic, at position 0.
    pub fn first(seed: u64, sequence: u32, n: u32) -> Self {
        let first = uniform(seed, 0, 0, STREAM_DRAWS);
        Code {
            value: spread(first, sequence.into(), n.into()),
            step: 0,
        }
    }

    /// Goes on behind the token that has the interval.
    pub(super) fn advance(&mut self, span: Span, seed: u64, sequence: u32) {
        let fresh = uniform(seed, self.step, sequence, STREAM_CODES);
        let inside = u128::from(self.value - span.from);
        self.value = ((inside << 64 | u128::from(fresh)) / span.width) as u64;
        self.step += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_interval_leaves_the_code_as_it_is() {
        let all = Span::between(0, 5 << 64, 5);
        assert_eq!((all.from, all.width), (0, 1 << 64));
        for value in [0, 1, u64::MAX / 3, u64::MAX] {
            let mut code = Code { value, step: 7 };
            code.advance(all, 1, 2);
            assert_eq!(code, Code { value, step: 8 });
        }
    }

    #[test]
    fn one_uniform_alone_leaves_fresh_bits() {
        let mut code = Code { value: 77, step: 3 };
        code.advance(Span { from: 77, width: 1 }, 9, 4);
        assert_eq!(code.value, uniform(9, 3, 4, STREAM_CODES));
    }

    #[test]
    fn ends_of_an_interval_go_to_the_ends() {
        let span = Span { from: 1000, width: 10 };
        let next = |value| {
            let mut code = Code { value, step: 0 };
            code.advance(span, 5, 0);
            code.value
        };
        let tenth = (1_u128 << 64) / 10;
        for i in 0..10_u64 {
            let found = u128::from(next(1000 + i));
            assert!(
                (u128::from(i) * tenth..=u128::from(i + 1) * tenth + 1).contains(&found),
                "{i}"
            );
        }
    }

    #[test]
    fn first_codes_are_the_systematic_uniforms() {
        let codes: Vec<u64> = (0..3).map(|i| Code::first(4, i, 3).value).collect();
        let u = uniform(4, 0, 0, STREAM_DRAWS);
        let third = ((1_u128 << 64) / 3) as u64;
        assert_eq!(codes, [u, u.wrapping_add(third), u.wrapping_add(2 * third)]);
    }
}
