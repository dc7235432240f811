//! Elementary functions and sums.
//!
//! Every transcendental function goes through the `libm` crate, which is pure Rust: results do not depend on the
//! platform's C library or on the instruction set. Arithmetic and `sqrt` are exact IEEE operations and stay as they are.

/// Scores further than this below the best one are moved up to here: their probability is zero all the same, and the
/// arithmetic that follows stays finite.
pub(crate) const FLOOR: f64 = -1e200;

#[inline]
pub(crate) fn exp(x: f64) -> f64 {
    libm::exp(x)
}

#[inline]
pub(crate) fn expm1(x: f64) -> f64 {
    libm::expm1(x)
}

#[inline]
pub(crate) fn ln(x: f64) -> f64 {
    libm::log(x)
}

#[inline]
pub(crate) fn ln_1p(x: f64) -> f64 {
    libm::log1p(x)
}

#[inline]
pub(crate) fn powf(x: f64, y: f64) -> f64 {
    libm::pow(x, y)
}

/// `log(1 - e^u)` for `u <= 0`, accurate at both ends.
#[inline]
pub(crate) fn ln_1m_exp(u: f64) -> f64 {
    if u > -std::f64::consts::LN_2 {
        ln(-expm1(u))
    } else {
        ln_1p(-exp(u))
    }
}

/// `(1 - q)^n` for `0 <= q <= 1` and `n >= 0` (with `0^0 = 1`).
#[inline]
pub(crate) fn pow_1m(q: f64, n: f64) -> f64 {
    if n == 0.0 {
        1.0
    } else if q >= 1.0 {
        0.0
    } else {
        exp(n * ln_1p(-q))
    }
}

/// `(a^p + b^p)^(1/p)` for non-negative `a`, `b` and `p >= 1`, without overflow or underflow.
#[inline]
pub(crate) fn norm2(a: f64, b: f64, p: f64) -> f64 {
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if small <= 0.0 {
        return large;
    }
    large * exp(ln_1p(powf(small / large, p)) / p)
}

/// A compensated sum: the error does not grow with the number of terms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    high: f64,
    low: f64,
}

impl Sum {
    #[inline]
    pub(crate) fn add(&mut self, term: f64) {
        let total = self.high + term;
        let rounded = total - self.high;
        self.low += (self.high - (total - rounded)) + (term - rounded);
        self.high = total;
    }

    #[inline]
    pub(crate) fn value(self) -> f64 {
        let total = self.high + self.low;
        if total.is_nan() { self.high } else { total }
    }
}

/// Compensated sum of the terms.
pub(crate) fn sum(terms: impl Iterator<Item = f64>) -> f64 {
    let mut total = Sum::default();
    terms.for_each(|term| total.add(term));
    total.value()
}

/// The largest value, -inf if there is none.
pub(crate) fn max(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, |best, value| if value > best { value } else { best })
}

/// `log sum exp`, -inf if there is nothing to sum.
pub(crate) fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = max(values.clone());
    if top == f64::NEG_INFINITY {
        top
    } else {
        top + ln(sum(values.map(|value| exp(value - top))))
    }
}
