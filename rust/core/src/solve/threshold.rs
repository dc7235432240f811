//! Sparsemax (quadratic, alpha = 2) and 1.5-entmax: exact finite forms.
//!
//! The support is a prefix of the order of `l`, and whether a token belongs to it is decided by sums of powers of the
//! tokens before it, so a selection with running sums finds it in linear time. These sums are of integers: what they decide
//! does not depend on the order of the tokens, nor on any that come after the support. Then everything else is summed over
//! the support alone, in the order of the ids. So it does not matter to a single bit which other tokens the face has.

use super::face::{Answer, Face};
use super::{Scratch, Solved};
use crate::math;
use crate::support::rank::{self, Ranked};

/// `q = [l / lam - tau]_+`.
pub(super) fn quadratic(lam: f64, face: &Face, scratch: &mut Scratch, answer: &mut Answer) -> Solved {
    let z = &mut scratch.ranked;
    support::<1>(face, |l| l / lam, z);
    let tau = mean(z) - 1.0 / z.len() as f64;
    answer.zeros(face.len());
    for item in z.iter() {
        answer.q[item.index as usize] = (item.value - tau).max(0.0);
    }
    answer.normalise();
    Solved::closed(lam * tau)
}

/// `q = [l / (2 lam) - tau]_+^2`.
pub(super) fn entmax15(lam: f64, face: &Face, scratch: &mut Scratch, answer: &mut Answer) -> Solved {
    let z = &mut scratch.ranked;
    support::<2>(face, |l| 0.5 * (l / lam), z);
    let mean = mean(z);
    let spread = math::sum(z.iter().map(|item| (item.value - mean) * (item.value - mean)));
    let tau = mean - ((1.0 - spread).max(0.0) / z.len() as f64).sqrt();
    answer.zeros(face.len());
    for item in z.iter() {
        let root = (item.value - tau).max(0.0);
        answer.q[item.index as usize] = root * root;
    }
    answer.normalise();
    Solved::closed(lam * (2.0 * tau + 4.0 / 3.0))
}

/// Fills `out` with the support, in the order of the face: the longest prefix whose last token k has `sum_j (z_j - z_k)^M < 1`,
/// `z = scaled(l)`.
fn support<const M: u32>(face: &Face, scaled: impl Fn(f64) -> f64, out: &mut Vec<Ranked>) {
    candidates(face, &scaled, |z| z > -1.0, out);
    if let Some(tau) = estimate::<M>(out) {
        return out.retain(|item| item.value > tau);
    }
    let last = last_of_support::<M>(out);
    candidates(face, &scaled, |z| z >= last, out);
}

/// How many values are above tau, and the sums of `z - tau` and of its square over these; in lanes, since one sum after the other
/// would wait for itself.
fn power_sums(z: &[Ranked], tau: f64) -> [f64; 3] {
    const LANES: usize = 4;
    let mut sums = [[0.0; LANES]; 3];
    let mut add = |lane: usize, z: f64| {
        let above = (z - tau).max(0.0);
        sums[0][lane] += if z > tau { 1.0 } else { 0.0 };
        sums[1][lane] += above;
        sums[2][lane] += above * above;
    };
    let (fours, rest) = z.as_chunks::<LANES>();
    for four in fours {
        (0..LANES).for_each(|lane| add(lane, four[lane].value));
    }
    rest.iter().enumerate().for_each(|(lane, item)| add(lane, item.value));
    sums.map(|lanes| lanes.iter().sum())
}

/// The smallest value of the support, by exact sums; the items are moved about.
fn last_of_support<const M: u32>(items: &mut [Ranked]) -> f64 {
    let mut moments = Moments::<M>::default();
    let count = rank::prefix(items, |items, fresh| {
        let sums = moments.with(&items[fresh..]);
        let fits = items.last().is_some_and(|last| sums.belongs(last));
        if fits {
            moments = sums;
        }
        fits
    });
    // Tokens of the same depth are in it or not together.
    items[..count].iter().fold(0.0, |least, item| least.min(item.value))
}

/// The threshold by Newton's method, if it is found quickly and clear of all tokens: then these are on the same side of it as
/// the exact sums would have them.
///
/// The norm `(sum [z - tau]_+^M)^(1/M)` is convex and decreasing, with a slope of -1 or steeper. So from the left, where each
/// token has at least 1/n of the sum, Newton rises to the root, and at the end the excess is more than the distance.
fn estimate<const M: u32>(z: &[Ranked]) -> Option<f64> {
    const STEPS: u32 = 12;
    const CLOSE: f64 = 1e-10;
    const CLEAR: f64 = 1e-9;
    // So that sums in f64 are good to 1e-10.
    const MOST: usize = 1 << 20;
    if z.len() > MOST {
        return None;
    }
    let lowest = z.iter().fold(0.0, |least: f64, item| least.min(item.value));
    let share = 1.0 / z.len() as f64;
    let mut tau = lowest - if M == 1 { share } else { share.sqrt() };
    for _ in 0..STEPS {
        let [count, first, second] = power_sums(z, tau);
        let (norm, slope) = if M == 1 {
            (first, count)
        } else {
            (second.sqrt(), first / second.sqrt())
        };
        if norm - 1.0 <= CLOSE {
            let clear = z.iter().all(|item| (item.value - tau).abs() > CLEAR);
            return clear.then_some(tau);
        }
        tau += (norm - 1.0) / slope;
    }
    None
}

/// The tokens of which `scaled(l)` passes a test. The best one has `l = 0`.
pub(super) fn candidates(
    face: &Face,
    scaled: impl Fn(f64) -> f64,
    passes: impl Fn(f64) -> bool,
    out: &mut Vec<Ranked>,
) {
    out.clear();
    let all = face.l.iter().zip(0..).map(|(&l, index)| Ranked {
        value: scaled(l),
        index,
    });
    out.extend(all.filter(|item| passes(item.value)));
}

fn mean(items: &[Ranked]) -> f64 {
    math::sum(items.iter().map(|item| item.value)) / items.len() as f64
}

/// Power sums of the depths `-z` of a prefix up to the power M (1 or 2), in integers.
#[derive(Clone, Copy, Debug, Default)]
struct Moments<const M: u32> {
    count: u128,
    first: u128,
    second: u128,
}

impl<const M: u32> Moments<M> {
    /// Bits of the unit of depth: sums over 2^32 tokens stay below 2^128. If M = 2, what a depth loses to it is the probability
    /// of a token that has less than 2^-90.
    const BITS: u32 = if M == 1 { 62 } else { 47 };

    fn depth(item: &Ranked) -> u128 {
        ((-item.value * (1_u64 << Self::BITS) as f64) as u64).into()
    }

    /// The sums of a longer prefix.
    fn with(self, fresh: &[Ranked]) -> Self {
        fresh.iter().map(Self::depth).fold(self, |sums, depth| Moments {
            count: sums.count + 1,
            first: sums.first + depth,
            second: if M == 1 { 0 } else { sums.second + depth * depth },
        })
    }

    /// Whether the last item belongs to the support: `sum (z - z_last)^M < 1`.
    fn belongs(&self, last: &Ranked) -> bool {
        let depth = Self::depth(last);
        let sum = if M == 1 {
            self.count * depth - self.first
        } else {
            self.second + self.count * depth * depth - 2 * depth * self.first
        };
        sum < 1 << (M * Self::BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const M: u32>(values: &[f64]) -> bool {
        let mut z = vec![];
        rank::rank(values, &mut z);
        let estimated = estimate::<M>(&z);
        let last = last_of_support::<M>(&mut z);
        if let Some(tau) = estimated {
            let by = |keeps: &dyn Fn(f64) -> bool| values.iter().filter(|z| keeps(**z)).count();
            assert_eq!(by(&|z| z > tau), by(&|z| z >= last), "{M} {tau} {last}");
        }
        estimated.is_some()
    }

    #[test]
    fn estimates_say_what_exact_sums_say() {
        let mut state = 9_u64;
        let mut found = 0;
        for case in 0..2000_u32 {
            let count = 1 + case % 97;
            let depth = [0.01, 0.1, 0.5, 0.999][case as usize % 4];
            let values: Vec<f64> = (0..count)
                .map(|i| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let z = -depth * ((state >> 11) as f64 / (1_u64 << 53) as f64);
                    if i == 0 { 0.0 } else { z }
                })
                .collect();
            found += u32::from(check::<1>(&values)) + u32::from(check::<2>(&values));
        }
        assert!(found > 3600, "{found}");
    }

    #[test]
    fn thresholds_on_a_token_are_left_to_exact_sums() {
        assert!(!check::<1>(&[0.0, 0.0, -0.5]));
        assert!(!check::<1>(&[0.0, -0.25, -0.625, -0.625]));
        assert!(!check::<2>(&[0.0, 0.0, -0.5_f64.sqrt()]));
    }
}
