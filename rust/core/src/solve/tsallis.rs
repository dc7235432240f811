//! Tsallis regularisers with a general exponent: `q^(alpha - 1) = [1 + (alpha - 1)(z - mu)]_+`, `z = l / lam`.

use super::face::{Answer, Face};
use super::threshold::candidates;
use super::{Scratch, Solved};
use crate::math;
use crate::support::rank::{self, Ranked};

/// More steps than any row needs; reaching it is reported as reduced accuracy.
const LIMIT: u32 = 200;

/// Of more tokens than this, so many of the best come first.
pub(super) const HEAD: usize = 256;

/// `1 < alpha < 2`: Newton on mu from the left.
///
/// With S = sum q, `S^(alpha-1)` is a norm of the positive parts of affine functions of mu, hence convex and decreasing:
/// Newton started at mu = 0, where the best token alone makes S >= 1, rises monotonically to the root. In the scale
/// `(S^(alpha-1) - 1) / (alpha - 1)` nothing degenerates as alpha approaches 1, where it is log S.
///
/// The root of the best tokens alone is below that of all, and a better start. Where it leaves a token none, no step looks at
/// it: so the result does not depend on tokens so low, nor on whether the face has them.
pub(super) fn flat(lam: f64, alpha: f64, face: &Face, scratch: &mut Scratch, answer: &mut Answer) -> Solved {
    let power = alpha - 1.0;
    let Scratch { ranked: z, values, .. } = scratch;
    candidates(face, |l| l / lam, |z| z > -1.0 / power, z);
    let mut newton = Newton::new(power);
    if z.len() > HEAD {
        take_head(z.iter().map(|item| item.value), values);
        newton.rise(values.iter().copied(), 0.0);
        z.retain(|item| newton.base(item.value) > -1.0);
    }
    newton.rise(z.iter().map(|item| item.value), 0.0);
    let Newton { mu, iterations, .. } = newton;
    // In logs, because for alpha near 1 probabilities that underflow are still positive.
    answer.log_q.clear();
    answer.log_q.resize(face.len(), f64::NEG_INFINITY);
    for item in z.iter() {
        let base = power * (item.value - mu);
        if base > -1.0 {
            answer.log_q[item.index as usize] = math::ln_1p(base) / power;
        }
    }
    let total = math::exp(answer.normalise_logs());
    Solved::iterated(lam * (mu - 1.0 / alpha), iterations, (total - 1.0).abs())
}

/// A lower bound on where [`flat`] gets with its best tokens, from tokens among which these are, at least HEAD.
pub(super) fn rough_start(power: f64, z: impl Iterator<Item = f64> + Clone, values: &mut Vec<f64>) -> f64 {
    take_head(z, values);
    let mut newton = Newton::new(power);
    newton.rise(values.iter().copied(), 1e-3);
    newton.mu
}

/// Keeps the largest HEAD values, and what ties with the last of them, as they come.
fn take_head(z: impl Iterator<Item = f64> + Clone, head: &mut Vec<f64>) {
    head.clear();
    head.extend(z.clone());
    let least = *head.select_nth_unstable_by(HEAD - 1, |a, b| b.total_cmp(a)).1;
    head.clear();
    head.extend(z.filter(|&z| z >= least));
}

/// Where Newton's method for `1 < alpha < 2` stands.
struct Newton {
    power: f64,
    mu: f64,
    iterations: u32,
}

impl Newton {
    fn new(power: f64) -> Self {
        Newton {
            power,
            mu: 0.0,
            iterations: 0,
        }
    }

    /// `q^power - 1` of a token, at most -1 where q = 0.
    fn base(&self, z: f64) -> f64 {
        self.power * (z - self.mu)
    }

    /// Goes up to the root for some tokens, or until a step is shorter than `near`.
    fn rise(&mut self, z: impl Iterator<Item = f64> + Clone, near: f64) {
        let power = self.power;
        while self.iterations < LIMIT {
            self.iterations += 1;
            let (mut total, mut slope) = (math::Sum::default(), math::Sum::default());
            for z in z.clone() {
                let base = self.base(z);
                if base > -1.0 {
                    let q = math::exp(math::ln_1p(base) / power);
                    total.add(q);
                    slope.add(q / (1.0 + base));
                }
            }
            let (total, slope) = (total.value(), slope.value());
            let log_total = math::ln(total);
            let residual = math::expm1(power * log_total) / power;
            let next = self.mu + residual * total / (math::exp(power * log_total) * slope);
            // Rounding is all that stops the rise: past it there is nothing to gain.
            if log_total <= 1e-15 || next <= self.mu || !next.is_finite() {
                break;
            }
            let step = next - self.mu;
            self.mu = next;
            if step < near {
                break;
            }
        }
    }
}

/// `alpha > 2`: the support by breakpoints, then Newton on its smallest probability.
///
/// Near the root `mu` cannot resolve the small probabilities, which are high roots of tiny differences. So with z_k the
/// last of the support and d_j = (alpha - 1)(z_j - z_k), exact differences, the unknown is v = q_k, and
/// `q_j = (d_j + v^(alpha-1))^(1/(alpha-1))` is the (alpha-1)-norm of (d_j^(1/(alpha-1)), v): convex and increasing in v.
/// Newton started on the right of the root falls monotonically to it.
pub(super) fn steep(lam: f64, alpha: f64, face: &Face, scratch: &mut Scratch, answer: &mut Answer) -> Solved {
    let power = alpha - 1.0;
    let Scratch {
        ranked: z,
        values: roots,
        ..
    } = scratch;
    candidates(face, |l| power * (l / lam), |z| z > -1.0, z);
    let count = rank::prefix(z, |items, _| {
        items
            .last()
            .is_some_and(|last| breakpoint_sum(items, last.value, power) < 1.0)
    });
    let support = &z[..count];
    let last = support.iter().fold(0.0, |least: f64, item| least.min(item.value));
    roots.clear();
    roots.extend(support.iter().map(|item| math::powf(item.value - last, 1.0 / power)));
    let ties = support.iter().filter(|item| item.value == last).count() as f64;
    let mut v = ((1.0 - math::sum(roots.iter().copied())) / ties).max(0.0);
    let mut iterations = 0;
    while iterations < LIMIT {
        iterations += 1;
        let (mut total, mut slope) = (math::Sum::default(), math::Sum::default());
        for &root in roots.iter() {
            let q = math::norm2(root, v, power);
            total.add(q);
            slope.add(if q > 0.0 { math::powf(v / q, power - 1.0) } else { 0.0 });
        }
        let next = v - (total.value() - 1.0) / slope.value();
        if total.value() - 1.0 <= 1e-15 || !(next < v && next >= 0.0) {
            break;
        }
        v = next;
    }
    answer.zeros(face.len());
    for (item, &root) in support.iter().zip(roots.iter()) {
        answer.q[item.index as usize] = math::norm2(root, v, power);
    }
    let total = answer.normalise();
    let marginal = math::powf(v, power) / power - 1.0 / (alpha * power);
    Solved::iterated(lam * (last / power - marginal), iterations, (total - 1.0).abs())
}

/// `sum q` at the value of mu where the probability of a token with value `last` vanishes.
fn breakpoint_sum(items: &[Ranked], last: f64, power: f64) -> f64 {
    let apart = items.iter().filter(|item| item.value > last);
    math::sum(apart.map(|item| math::powf(item.value - last, 1.0 / power)))
}
