//! Rules that compare each token with one cutoff.

use crate::math;

/// Drops what is below `least`.
pub(super) fn at_least(least: f64, values: &[f64], keep: &mut [bool]) {
    for (keep, &value) in keep.iter_mut().zip(values) {
        *keep &= value >= least;
    }
}

/// Scores less the largest one, scaled by a power of two into the middle of the float range, so that their moments neither overflow
/// nor lose digits; all 0 if they are equal.
pub(super) fn scaled(x: &[f64], top: f64) -> impl Fn(&f64) -> f64 + use<> {
    let lowest = -math::max(x.iter().map(|x| -x));
    // Half, where the spread of x = +-1.7e308 would overflow.
    let unit = if (top - lowest).is_finite() { 1.0 } else { 0.5 };
    let spread = unit * top - unit * lowest;
    let scale = if spread > 0.0 { -libm::ilogb(spread) } else { 0 };
    move |x| libm::scalbn(unit * x - unit * top, scale)
}

/// `x >= top - n std(x)`, with the mean and the variance taken of `x - top`.
pub(super) fn top_n_sigma(n: f64, x: &[f64], top: f64, keep: &mut [bool]) {
    let scaled = scaled(x, top);
    let count = x.len() as f64;
    let mean = math::sum(x.iter().map(&scaled)) / count;
    let variance = math::sum(x.iter().map(|x| (scaled(x) - mean) * (scaled(x) - mean))) / count;
    let least = -n * variance.sqrt();
    for (keep, x) in keep.iter_mut().zip(x) {
        *keep &= scaled(x) >= least;
    }
}

/// `p >= (1 - 1e-6) sum p^2`.
pub(super) fn p_less(p: &[f64], keep: &mut [bool]) {
    at_least((1.0 - 1e-6) * math::sum(p.iter().map(|p| p * p)), p, keep);
}

/// `p >= min(eps, sqrt(eps) exp(-H(p)))`.
pub(super) fn eta(eps: f64, p: &[f64], keep: &mut [bool]) {
    let negative_entropy = math::sum(p.iter().filter(|p| **p > 0.0).map(|p| p * math::ln(*p)));
    at_least(eps.min(eps.sqrt() * math::exp(negative_entropy)), p, keep);
}
