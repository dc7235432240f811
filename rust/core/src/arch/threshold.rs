//! Bounds on the threshold of sparse optima from a few tokens of a row, before any others are known.
//!
//! At the threshold tau, `sum [z_i - tau]_+^m = 1`. Over a part of the tokens the sum is smaller, and it falls in tau: the
//! threshold of a part is a lower bound on that of the whole. The largest scores of blocks are such a part, a good one: it has
//! most of the best tokens, unless these sit in few blocks, and then there are few others to keep apart.
//!
//! Plain Rust that the compiler vectorises for each instruction set.

use super::dispatch::Kernel;
use super::lanes::ExpLanes;
use super::maxima::at_least;
use super::{BLOCK, Level};
use crate::support::rank::fold;

/// More maxima than this are first folded to so many, which give a first bound.
const FOLDED: usize = 256;

/// What tau is lowered by, for rounding: that of z and of sums over 2^26 blocks is far less. It costs no candidates to speak
/// of.
const MARGIN: f64 = 1e-6;

/// Short of this the next step is worth nothing to a bound.
const NEAR: f64 = 1e-2;

/// More steps than it takes, almost always.
const STEPS: u32 = 16;

/// `q = [z - tau]_+^m` with `z = (x - max x) / width`, which is above -1 where q > 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    /// In scores.
    pub(crate) width: f64,
    /// m = 2, not 1.
    pub(crate) squared: bool,
}

/// A bound such that tokens below it have no probability, not lower than `least`. `maxima` are scores of allowed tokens, or -inf,
/// among them the largest, `max`; those from `least` on are in the face.
pub(crate) fn threshold_bound(
    level: Level,
    threshold: Threshold,
    maxima: &[f64],
    max: f64,
    least: f64,
    z: &mut Vec<f64>,
) -> f64 {
    level.run(Bound {
        threshold,
        maxima,
        max,
        least,
        z,
    })
}

struct Bound<'a> {
    threshold: Threshold,
    maxima: &'a [f64],
    max: f64,
    least: f64,
    z: &'a mut Vec<f64>,
}

impl Kernel for Bound<'_> {
    type Output = f64;

    #[inline(always)]
    unsafe fn run<L: ExpLanes>(self) -> f64 {
        let Bound {
            threshold,
            maxima,
            max,
            mut least,
            z,
        } = self;
        let reached = maxima.iter().filter(|&&maximum| maximum >= least).count();
        if reached <= maxima.len() / BLOCK {
            // Few blocks to look at as it is: a bound would cost more than it saved.
            return least;
        }
        if reached > FOLDED {
            fold(maxima, FOLDED, z);
            least = threshold.bound(z, max, least);
        }
        z.clear();
        for maxima in maxima.chunks(64) {
            let mut reached = at_least(maxima, least);
            while reached != 0 {
                z.push(maxima[reached.trailing_zeros() as usize]);
                reached &= reached - 1;
            }
        }
        threshold.bound(z, max, least)
    }
}

impl Threshold {
    /// The same from some scores, which become z.
    #[inline(always)]
    fn bound(&self, scores: &mut [f64], max: f64, least: f64) -> f64 {
        let scale = 1.0 / self.width;
        for score in scores.iter_mut() {
            *score = (*score - max) * scale;
        }
        // Where least is above max, there is nothing more to say.
        let tau = self.solve(((least - max) * scale).max(-1.0), scores);
        least.max(max + self.width * (tau - MARGIN))
    }

    /// Newton on tau from the left: `(sum [z - tau]_+^m)^(1/m)` is convex and decreasing, so tau rises to the threshold and never
    /// passes it.
    #[inline(always)]
    fn solve(&self, start: f64, z: &[f64]) -> f64 {
        let mut tau = start;
        for _ in 0..STEPS {
            let [count, first, second] = power_sums(z, tau);
            let step = if self.squared {
                (second - second.sqrt()) / first
            } else {
                (first - 1.0) / count
            };
            // Where nothing is left, it is not a number, or -inf.
            if step > 0.0 {
                tau += step;
            }
            if step.is_nan() || step < NEAR {
                break;
            }
        }
        tau
    }
}

/// How many values are above tau, and the sums of `z - tau` and of its square over these. Without branches, which could not be
/// predicted, and in lanes.
#[inline(always)]
fn power_sums(z: &[f64], tau: f64) -> [f64; 3] {
    const LANES: usize = 16;
    let mut sums = [[0.0; LANES]; 3];
    let (chunks, rest) = z.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let above = if chunk[lane] > tau { chunk[lane] - tau } else { 0.0 };
            sums[0][lane] += if chunk[lane] > tau { 1.0 } else { 0.0 };
            sums[1][lane] += above;
            sums[2][lane] += above * above;
        }
    }
    for (lane, &z) in rest.iter().enumerate().filter(|(_, z)| **z > tau) {
        sums[0][lane] += 1.0;
        sums[1][lane] += z - tau;
        sums[2][lane] += (z - tau) * (z - tau);
    }
    sums.map(|lanes| lanes.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The threshold by bisection, as a score.
    fn by_bisection(threshold: Threshold, scores: &[f64], max: f64) -> f64 {
        let power = if threshold.squared { 2 } else { 1 };
        let (mut low, mut high) = (-1.0, 0.0);
        for _ in 0..60 {
            let tau = 0.5 * (low + high);
            let terms = scores.iter().map(|x| ((x - max) / threshold.width - tau).max(0.0));
            if terms.map(|y| y.powi(power)).sum::<f64>() >= 1.0 {
                low = tau;
            } else {
                high = tau;
            }
        }
        max + threshold.width * low
    }

    #[test]
    fn bounds_are_below_the_threshold_and_near_it() {
        let (mut state, mut z) = (1_u64, vec![]);
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        for count in [1, 2, 7, 8, 9, 64, 255, 256, 257, 2374] {
            for width in [1e-3, 1.0, 2.0, 700.0] {
                for squared in [false, true] {
                    let threshold = Threshold { width, squared };
                    let mut maxima: Vec<f64> = (0..count).map(|_| 5.0 + noise() + noise()).collect();
                    maxima.push(f64::NEG_INFINITY);
                    let max = maxima.iter().copied().fold(f64::MIN, f64::max);
                    let exact = by_bisection(threshold, &maxima, max);
                    for level in Level::available() {
                        let bound = threshold_bound(level, threshold, &maxima, max, max - width, &mut z);
                        assert!(bound <= exact, "{level:?} {count} {threshold:?} {bound} {exact}");
                        assert!(
                            bound >= exact - NEAR * width,
                            "{level:?} {count} {threshold:?} {bound} {exact}"
                        );
                        let higher = threshold_bound(level, threshold, &maxima, max, exact, &mut z);
                        assert!((exact..exact + 1e-12 * width.max(8.0)).contains(&higher));
                    }
                }
            }
        }
    }

    #[test]
    fn a_bound_above_all_scores_stands() {
        let threshold = Threshold {
            width: 1.0,
            squared: true,
        };
        let bound = |least| threshold_bound(Level::best(), threshold, &[1.0, 3.0, 3.0], 3.0, least, &mut vec![]);
        assert_eq!([bound(3.0), bound(3.5)], [3.0, 3.5]);
    }
}
