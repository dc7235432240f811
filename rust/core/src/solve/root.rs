//! A safeguarded scalar root find.

/// Where a root find stopped: the last point evaluated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) x: f64,
    pub(super) iterations: u32,
}

/// A residual below this that no longer halves is rounding.
const NOISE: f64 = 1e-10;
/// Far more than the halving rule below can use.
const LIMIT: u32 = 400;

/// The root of a decreasing function in `[low, high]`, from `start`.
///
/// `eval` returns the function and where Newton would go. Newton steps are taken while they stay inside the bracket and
/// halve the residual; otherwise the bracket is halved. So of any two evaluations one halves the residual or the
/// bracket.
pub(super) fn falling(mut low: f64, mut high: f64, start: f64, mut eval: impl FnMut(f64) -> (f64, f64)) -> Root {
    let (mut x, mut last) = (start, f64::INFINITY);
    let mut iterations = 0;
    loop {
        iterations += 1;
        let (residual, newton) = eval(x);
        let slow = residual.abs() > 0.5 * last;
        let done = residual.abs() <= 1e-14
            || (slow && residual.abs() < NOISE)
            || (newton - x).abs() <= 2.0 * f64::EPSILON * x.abs()
            || iterations == LIMIT;
        if residual > 0.0 {
            low = low.max(x);
        } else {
            high = high.min(x);
        }
        let inside = newton > low && newton < high;
        let next = if inside && !slow {
            newton
        } else {
            low + 0.5 * (high - low)
        };
        last = if inside && !slow { residual.abs() } else { f64::INFINITY };
        if done || !(next > low && next < high) {
            return Root { x, iterations };
        }
        x = next;
    }
}
