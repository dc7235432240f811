//! Distinct tokens of one row by the Gumbel-top-k trick (arXiv:1903.06059), without a Gumbel for each token.
//!
//! To perturb each log q by a Gumbel and to take the n largest is a race: token v arrives at a time exponential with rate q_v, the
//! perturbed value being minus its logarithm. The first to arrive is v with probability q_v, whatever the time, which is exponential with
//! rate 1; after that nobody remembers the past, and the same holds of those that are left, with rates q: the wait
//! is exponential with rate R, the mass left, and independently of it the next is v with probability q_v / R. So a draw takes two uniforms: the one of
//! its index in the stream of draws, along the uniforms that are not taken, and one for the wait.
//!
//! Taken are whole intervals of uniforms, so no token comes twice and the first is the first of an i.i.d. draw. Where less than
//! 2^-20 is left (or many are taken), the row is solved whole, in f64, and the rest is laid out along all uniforms
//! again: one token may have all but 1e-30, and the others still come in their proportions. A token of which q underflows counts as none.

use super::categorical::Cdf;
use super::law::{Law, Span};
use super::philox::{STREAM_DRAWS, STREAM_VALUES, uniform};
use crate::math;

/// Where the tokens of one row go; all of the same length.
#[derive(Debug)]
pub struct Distinct<'a> {
    /// Ids, in descending order of their perturbed log-probabilities; -1 where the row has no more tokens with probability.
    pub tokens: &'a mut [i64],
    /// Log-probabilities under q; NaN there.
    pub log_probs: &'a mut [f64],
    /// Logs of the probabilities that the token's perturbed value exceeds the (n+1)-th largest of all; NaN there.
    pub log_inclusion: &'a mut [f64],
}

/// All uniforms.
const ALL: u128 = 1 << 64;
/// Fewer uniforms than these are laid out anew.
const LEAST: u128 = 1 << 44;
/// As many intervals as these are not skipped one by one any more.
const MOST: usize = 1024;

/// A race, so far.
pub(super) struct Race<'a, 'o> {
    seed: u64,
    position: u64,
    out: &'o mut Distinct<'a>,
    drawn: usize,
    /// Log of the last arrival.
    log_time: f64,
    /// Of the uniforms as they are laid out now: the log of the mass of all, what is taken, ascending, and how many are not.
    log_mass: f64,
    taken: Vec<Span>,
    left: u128,
    /// The (n+1)-th has arrived.
    is_over: bool,
}

impl<'a, 'o> Race<'a, 'o> {
    pub(super) fn new(seed: u64, position: u64, out: &'o mut Distinct<'a>) -> Self {
        Race {
            seed,
            position,
            out,
            drawn: 0,
            log_time: f64::NEG_INFINITY,
            log_mass: 0.0,
            taken: vec![],
            left: ALL,
            is_over: false,
        }
    }

    /// Draws until all are drawn, or what is left has to be laid out anew.
    pub(super) fn run(&mut self, law: &mut dyn Law) {
        while self.left >= LEAST {
            let last = self.drawn == self.out.tokens.len();
            if self.taken.len() == MOST && !last {
                return;
            }
            self.wait();
            if last {
                self.is_over = true;
                return;
            }
            let r = uniform(self.seed, self.position, self.drawn as u32, STREAM_DRAWS);
            let r = self.not_taken((u128::from(r) * self.left) >> 64);
            let Some((draw, span)) = law.draw_with_span(r) else {
                self.left = 0;
                return;
            };
            self.out.tokens[self.drawn] = draw.token;
            self.out.log_probs[self.drawn] = draw.log_prob;
            self.drawn += 1;
            let place = self.taken.partition_point(|other| other.from < span.from);
            self.taken.insert(place, span);
            self.left -= span.width;
        }
    }

    /// Lets the next one arrive.
    fn wait(&mut self) {
        let word = uniform(self.seed, self.position, self.drawn as u32, STREAM_VALUES);
        // In (0, 1), and exact: 52 bits and a half.
        let u = ((word >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        let rate = self.log_mass + math::ln(self.left as f64 / ALL as f64);
        self.log_time = log_add_exp(self.log_time, math::ln(-math::ln(u)) - rate);
    }

    /// The uniform at a place among those that are not taken.
    fn not_taken(&self, place: u128) -> u64 {
        let mut r = place;
        for span in &self.taken {
            if r < u128::from(span.from) {
                break;
            }
            r += span.width;
        }
        r as u64
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Goes on with the whole distribution; its tokens ascending.
    pub(super) fn finish(&mut self, face: &[u32], q: &[f64], log_q: &[f64], scratch: &mut Vec<u64>) {
        while !self.is_over {
            let mut rest = Rest::new(self, face, q, log_q);
            let Some(log_mass) = rest.weigh() else {
                return;
            };
            (self.log_mass, self.left) = (log_mass, ALL);
            self.taken.clear();
            self.run(&mut Cdf::new(&rest.face, &rest.q, &rest.log_q, scratch));
        }
    }

    /// Fills what is missing; whether nothing is.
    pub(super) fn close(self) -> bool {
        let Distinct {
            tokens,
            log_probs,
            log_inclusion,
        } = self.out;
        // Minus the (n+1)-th largest value. With nobody left it never came.
        let log_time = if self.is_over { self.log_time } else { f64::INFINITY };
        for (log_prob, out) in log_probs.iter().zip(log_inclusion.iter_mut()).take(self.drawn) {
            *out = log_probability_by(log_prob + log_time);
        }
        tokens[self.drawn..].fill(-1);
        log_probs[self.drawn..].fill(f64::NAN);
        log_inclusion[self.drawn..].fill(f64::NAN);
        self.drawn == tokens.len()
    }
}

/// The tokens of a row that have not arrived.
struct Rest {
    face: Vec<u32>,
    /// Of those that are left.
    q: Vec<f64>,
    log_q: Vec<f64>,
}

impl Rest {
    fn new(race: &Race<'_, '_>, face: &[u32], q: &[f64], log_q: &[f64]) -> Self {
        let mut arrived = race.out.tokens[..race.drawn].to_vec();
        arrived.sort_unstable();
        let mut arrived = arrived.into_iter().peekable();
        let mut rest = Rest {
            face: vec![],
            q: vec![],
            log_q: vec![],
        };
        for ((&id, &q), &log_q) in face.iter().zip(q).zip(log_q) {
            while arrived.next_if(|&token| token < i64::from(id)).is_some() {}
            if q > 0.0 && arrived.peek() != Some(&i64::from(id)) {
                rest.face.push(id);
                rest.log_q.push(log_q);
            }
        }
        rest
    }

    /// Their shares of what is left, and the log of that; `None` if nobody is.
    fn weigh(&mut self) -> Option<f64> {
        let max = self.log_q.iter().copied().reduce(f64::max)?;
        self.q.extend(self.log_q.iter().map(|log_q| math::exp(log_q - max)));
        let sum: f64 = self.q.iter().sum();
        self.q.iter_mut().for_each(|q| *q /= sum);
        Some(max + math::ln(sum))
    }
}

/// `log(1 - exp(-e^a))`: the probability of an arrival by a time, `e^a` being rate times time.
fn log_probability_by(a: f64) -> f64 {
    if a < -40.0 {
        a // less half of e^a, which is nothing beside it
    } else {
        math::ln_1m_exp(-math::exp(a)) + 0.0
    }
}

/// `log(e^a + e^b)`, b being finite.
fn log_add_exp(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    high + math::ln_1p(math::exp(low - high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_by_a_time_are_accurate_at_both_ends() {
        assert_eq!(log_probability_by(-1000.0), -1000.0);
        assert_eq!(log_probability_by(f64::INFINITY), 0.0);
        for a in [-41.0_f64, -39.9, -20.0, -3.0, 0.0, 1.0, 3.0, 6.0] {
            let x = a.exp();
            let plain = match x {
                0.0..1e-5 => a - x / 2.0 + x * x / 24.0,
                0.0..1.0 => (-(-x).exp_m1()).ln(),
                _ => (-(-x).exp()).ln_1p(),
            };
            let error = (log_probability_by(a) - plain).abs();
            assert!(error <= 1e-14 * plain.abs(), "{a}: {error}");
        }
    }

    #[test]
    fn sums_of_exponentials() {
        assert_eq!(log_add_exp(f64::NEG_INFINITY, 3.0), 3.0);
        assert!((log_add_exp(1.0, 2.0) - (1_f64.exp() + 2_f64.exp()).ln()).abs() < 1e-15);
        assert_eq!(log_add_exp(-700.0, 700.0), 700.0);
    }
}
