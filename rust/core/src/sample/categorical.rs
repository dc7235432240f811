//! Draws from a categorical distribution by an inverse CDF in integers.
//!
//! A probability q becomes the mass `round(q * 2^62)`, ties to even; M is the sum of the masses over the face. A 64-bit
//! uniform r hits the target `t = floor(r * M / 2^64) < M`, and the token is the first, in ascending id, whose cumulative
//! mass exceeds t. Integer sums are associative, so no order of summation, block size or thread count can move a boundary;
//! r = 0 gives the first token with mass, r = 2^64 - 1 the last one, and a token without mass is never drawn. That
//! includes q <= 2^-63, which rounds to no mass.

use super::law::{Law, Span};
use super::philox::{STREAM_DRAWS, uniform};

/// How the n draws of one row hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coupling {
    /// Independent; draw i is the same whatever n is.
    Iid,
    /// Draw i of n takes the uniform of draw 0 moved by i / n, wrapping: each draw alone has law q, and together they are
    /// spread over the distribution.
    Systematic,
}

/// One drawn token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Its id; -1 where there is no distribution to draw from.
    pub token: i64,
    /// Its log-probability under q; NaN where there is no distribution to draw from.
    pub log_prob: f64,
}

/// Draws one token into each place of `out_tokens`, and its log-probability into `out_log_probs`, of the same length.
///
/// `face`, `q` and `log_q` are aligned, `face` ascending. `scratch` is overwritten; it holds the CDF at block ends.
#[allow(clippy::too_many_arguments)]
pub fn draw_row(
    face: &[u32],
    q: &[f64],
    log_q: &[f64],
    seed: u64,
    position: u64,
    coupling: Coupling,
    out_tokens: &mut [i64],
    out_log_probs: &mut [f64],
    scratch: &mut Vec<u64>,
) {
    let mut cdf = Cdf::new(face, q, log_q, scratch);
    draw_each(seed, position, coupling, out_tokens, out_log_probs, &mut cdf);
}

/// Draws one token into each place.
pub(super) fn draw_each<L: Law + ?Sized>(
    seed: u64,
    position: u64,
    coupling: Coupling,
    out_tokens: &mut [i64],
    out_log_probs: &mut [f64],
    law: &mut L,
) {
    let n = out_tokens.len() as u64;
    let first = uniform(seed, position, 0, STREAM_DRAWS);
    for (i, (token, log_prob)) in (0..).zip(out_tokens.iter_mut().zip(out_log_probs)) {
        let drawn = law.draw(match coupling {
            Coupling::Iid if i == 0 => first,
            Coupling::Iid => uniform(seed, position, i as u32, STREAM_DRAWS),
            Coupling::Systematic => spread(first, i, n),
        });
        *token = drawn.token;
        *log_prob = drawn.log_prob;
    }
}

/// The i-th of n uniforms that lie evenly from `first` on: `first + floor(i 2^64 / n)`, wrapping.
pub(super) fn spread(first: u64, i: u64, n: u64) -> u64 {
    first.wrapping_add(((u128::from(i) << 64) / u128::from(n)) as u64)
}

pub(super) const NO_DRAW: Draw = Draw {
    token: -1,
    log_prob: f64::NAN,
};

/// The integer mass of a probability: `round(q * 2^62)`, ties to even; 0 for NaN and below 0.
#[inline]
pub fn mass(q: f64) -> u64 {
    const SCALE: f64 = (1_u64 << 62) as f64;
    rounded(q * SCALE)
}

/// The nearest integer, ties to even; 0 for NaN and below 0.
#[inline]
pub(super) fn rounded(x: f64) -> u64 {
    // From 2^52 on every f64 is an integer; below, adding 2^52 rounds to even in the default rounding mode and leaves the
    // integer in the low bits. (`round_ties_even` is a library call on baseline x86-64.)
    const INTEGERS: f64 = (1_u64 << 52) as f64;
    let x = if x > 0.0 { x } else { 0.0 };
    if x < INTEGERS {
        (x + INTEGERS).to_bits() - INTEGERS.to_bits()
    } else {
        x as u64
    }
}

/// Tokens a block of the CDF: a draw searches the block ends and then sums up masses within one block, so that the scratch
/// stays small and a single draw costs one pass over q.
const BLOCK: usize = 64;

pub(super) struct Cdf<'a> {
    face: &'a [u32],
    q: &'a [f64],
    log_q: &'a [f64],
    /// Cumulative mass at the end of each block.
    ends: &'a [u64],
    total: u64,
}

impl<'a> Cdf<'a> {
    /// All three aligned, the face ascending.
    pub(super) fn new(face: &'a [u32], q: &'a [f64], log_q: &'a [f64], ends: &'a mut Vec<u64>) -> Self {
        let mut total = 0_u64;
        ends.clear();
        ends.extend(q.chunks(BLOCK).map(|block| {
            total = total.wrapping_add(block.iter().fold(0_u64, |sum, &q| sum.wrapping_add(mass(q))));
            total
        }));
        Cdf {
            face,
            q,
            log_q,
            ends,
            total,
        }
    }

    /// The index that the uniform `r` falls on, and the cumulative mass at its end; `None` if there is no mass.
    fn find(&self, r: u64) -> Option<(usize, u64)> {
        let target = ((u128::from(r) * u128::from(self.total)) >> 64) as u64;
        let block = self.ends.partition_point(|&end| end <= target);
        let start = block * BLOCK;
        let mut cumulative = if block == 0 { 0 } else { self.ends[block - 1] };
        // `get`: with no mass at all every end is <= the target 0, and the block is one past the last.
        for (offset, &q) in self.q.get(start..)?.iter().enumerate() {
            cumulative = cumulative.wrapping_add(mass(q));
            if cumulative > target {
                return Some((start + offset, cumulative));
            }
        }
        None
    }

    fn at(&self, index: usize) -> Draw {
        Draw {
            token: i64::from(self.face[index]),
            log_prob: self.log_q[index],
        }
    }
}

impl Law for Cdf<'_> {
    fn draw(&mut self, r: u64) -> Draw {
        self.find(r).map_or(NO_DRAW, |(index, _)| self.at(index))
    }

    fn draw_with_span(&mut self, r: u64) -> Option<(Draw, Span)> {
        let (index, end) = self.find(r)?;
        let start = end - mass(self.q[index]);
        let span = Span::between(u128::from(start) << 64, u128::from(end) << 64, self.total);
        Some((self.at(index), span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::law::walk;

    const UNIT: f64 = 1.0 / (1_u64 << 62) as f64;

    fn index(q: &[f64], r: u64) -> Option<usize> {
        let none = (&[][..], &[][..]);
        Cdf::new(none.0, q, none.1, &mut Vec::new())
            .find(r)
            .map(|(index, _)| index)
    }

    /// The smallest uniform whose target is at least `target`: ceil(target * 2^64 / total).
    fn first_uniform(target: u64, total: u64) -> u64 {
        (u128::from(target) << 64).div_ceil(u128::from(total)) as u64
    }

    fn draw(q: &[f64], coupling: Coupling, seed: u64, n: usize) -> (Vec<i64>, Vec<f64>) {
        let face: Vec<u32> = (0..q.len() as u32).map(|id| 10 * id).collect();
        let log_q: Vec<f64> = q.iter().map(|q| q.ln()).collect();
        let (mut tokens, mut log_probs) = (vec![0; n], vec![0.0; n]);
        draw_row(
            &face,
            q,
            &log_q,
            seed,
            3,
            coupling,
            &mut tokens,
            &mut log_probs,
            &mut Vec::new(),
        );
        (tokens, log_probs)
    }

    #[test]
    fn mass_rounds_ties_to_even() {
        assert_eq!(mass(1.0), 1 << 62);
        assert_eq!(mass(0.5), 1 << 61);
        for (q, expected) in [(0.0, 0), (0.5, 0), (0.51, 1), (1.0, 1), (1.5, 2), (2.5, 2), (3.5, 4)] {
            assert_eq!(mass(q * UNIT), expected, "{q}");
        }
        for q in [
            0.1,
            1.0 / 3.0,
            2.0_f64.powi(-10) * 1.3,
            2.0_f64.powi(-11) * (1.0 + 3.0 * f64::EPSILON),
            1e-18,
        ] {
            assert_eq!(mass(q), (q / UNIT).round_ties_even() as u64, "{q}");
        }
        assert_eq!([mass(f64::NAN), mass(-0.25), mass(-0.0)], [0; 3]);
    }

    #[test]
    fn every_boundary_of_small_cdfs_is_exact() {
        let thirds = [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0];
        let cases: [&[f64]; 6] = [
            &[1.0],
            &[0.25, 0.5, 0.25],
            &thirds,
            &[0.0, 0.5, 0.0, 0.5, 0.0],
            &[UNIT, 1.0 - 2.0 * UNIT, UNIT],
            &[3.0 * UNIT, 2.0 * UNIT, 7.0 * UNIT],
        ];
        for q in cases {
            let total: u64 = q.iter().map(|&q| mass(q)).sum();
            let with_mass: Vec<usize> = (0..q.len()).filter(|&i| mass(q[i]) > 0).collect();
            assert_eq!(index(q, 0), with_mass.first().copied());
            assert_eq!(index(q, u64::MAX), with_mass.last().copied());
            let mut below = 0;
            for pair in with_mass.windows(2) {
                below += mass(q[pair[0]]);
                let boundary = first_uniform(below, total);
                assert_eq!(index(q, boundary), Some(pair[1]), "{q:?}");
                assert_eq!(index(q, boundary - 1), Some(pair[0]), "{q:?}");
            }
        }
    }

    #[test]
    fn spans_are_the_uniforms_of_their_tokens() {
        let weight = |i: usize| if i % 7 == 3 { 0.0 } else { (i * i % 101) as f64 };
        for length in [1, 2, 5, BLOCK, BLOCK + 1, 3 * BLOCK + 17] {
            let sum: f64 = (0..length).map(|i| weight(i + 1)).sum();
            let mut q: Vec<f64> = (0..length).map(|i| weight(i + 1) / sum).collect();
            q[length - 1] += UNIT;
            let face: Vec<u32> = (0..length as u32).collect();
            let log_q: Vec<f64> = q.iter().map(|q| q.ln()).collect();
            let mut scratch = vec![];
            let tokens = walk(&mut Cdf::new(&face, &q, &log_q, &mut scratch));
            assert_eq!(tokens.len(), q.iter().filter(|&&q| mass(q) > 0).count());
        }
        let mut scratch = vec![];
        assert_eq!(Cdf::new(&[0], &[0.0], &[0.0], &mut scratch).draw_with_span(5), None);
    }

    #[test]
    fn blocks_change_nothing() {
        let weight = |i: usize| if i % 7 == 3 { 0.0 } else { (i * i % 101) as f64 };
        for length in [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17] {
            let sum: f64 = (0..length).map(weight).sum();
            let q: Vec<f64> = (0..length).map(|i| weight(i) / sum).collect();
            let total: u64 = q.iter().map(|&q| mass(q)).sum();
            for step in 0..999_u64 {
                let r = step.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let target = ((u128::from(r) * u128::from(total)) >> 64) as u64;
                let mut cumulative = 0;
                let plain = q.iter().position(|&q| {
                    cumulative += mass(q);
                    cumulative > target
                });
                assert_eq!(index(&q, r), plain);
            }
            let mut ends = vec![0.0; length];
            ends[length - 1] = 1.0;
            assert_eq!([index(&ends, 0), index(&ends, u64::MAX)], [Some(length - 1); 2]);
            ends.reverse();
            assert_eq!([index(&ends, 0), index(&ends, u64::MAX)], [Some(0); 2]);
        }
    }

    #[test]
    fn what_has_no_mass_is_never_drawn() {
        let tiny = UNIT / 2.0;
        for r in [0, 1, u64::MAX / 2, u64::MAX] {
            assert_eq!(index(&[tiny, 1.0, tiny], r), Some(1));
            assert_eq!(index(&[0.0, 0.0], r), None);
            assert_eq!(index(&[], r), None);
        }
        let (tokens, log_probs) = draw(&[], Coupling::Iid, 1, 3);
        assert_eq!(tokens, [-1; 3]);
        assert!(log_probs.iter().all(|log_prob| log_prob.is_nan()));
    }

    #[test]
    fn one_token_is_always_drawn() {
        for coupling in [Coupling::Iid, Coupling::Systematic] {
            assert_eq!(draw(&[1.0], coupling, 99, 5), (vec![0; 5], vec![0.0; 5]));
        }
    }

    #[test]
    fn iid_draws_do_not_depend_on_n() {
        let q = [0.1, 0.2, 0.3, 0.4];
        let (tokens, log_probs) = draw(&q, Coupling::Iid, 7, 100);
        for n in [1, 2, 99] {
            assert_eq!(
                draw(&q, Coupling::Iid, 7, n),
                (tokens[..n].to_vec(), log_probs[..n].to_vec())
            );
        }
        assert!(
            tokens
                .iter()
                .zip(&log_probs)
                .all(|(&token, &log_prob)| log_prob == q[token as usize / 10].ln())
        );
    }

    #[test]
    fn iid_draws_follow_the_distribution() {
        let (q, n) = ([0.05, 0.0, 0.7, 0.25], 100_000);
        let (tokens, _) = draw(&q, Coupling::Iid, 2024, n);
        for (i, &q) in q.iter().enumerate() {
            let share = tokens.iter().filter(|&&token| token == 10 * i as i64).count() as f64 / n as f64;
            let five_sigma = 5.0 * (q * (1.0 - q) / n as f64).sqrt();
            assert!((share - q).abs() <= five_sigma, "{i}: {share} for {q}");
        }
    }

    #[test]
    fn systematic_draws_have_the_counts_of_n_q() {
        let q = [0.125, 0.5, 0.375];
        for seed in 0..50 {
            let (tokens, _) = draw(&q, Coupling::Systematic, seed, 8);
            let count = |id| tokens.iter().filter(|&&token| token == id).count();
            assert_eq!([count(0), count(10), count(20)], [1, 4, 3]);
            assert_eq!(tokens[0], draw(&q, Coupling::Iid, seed, 1).0[0]);
        }
    }
}
