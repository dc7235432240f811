//! The Wright omega function on the real line: `omega + log omega = z`.

use crate::math;

/// `omega(z)` to float precision: an asymptotic guess and two steps of Fritsch, Shafer and Crowley's quartic iteration.
pub(super) fn omega(z: f64) -> f64 {
    if z < -40.0 {
        // e^z (1 - e^z + ...), and e^-40 is below the rounding error.
        return math::exp(z);
    }
    if z > 1e18 {
        // log log z / z is below the rounding error, and the products of the iteration would overflow.
        return z - math::ln(z);
    }
    let mut w = if z < -2.0 {
        let e = math::exp(z);
        e * (1.0 - e * (1.0 - 1.5 * e))
    } else if z < 1.0 {
        math::exp(2.0 * (z - 1.0) / 3.0)
    } else {
        let log = math::ln(z);
        z - log + log / z
    };
    for _ in 0..2 {
        let residual = (z - w) - math::ln(w);
        let above = 1.0 + w;
        let product = above * (above + 2.0 / 3.0 * residual);
        w *= 1.0 + residual / above * ((product - 0.5 * residual) / (product - residual));
    }
    w
}

#[cfg(test)]
mod tests {
    use super::omega;

    #[test]
    fn satisfies_its_equation() {
        let near = (-4000..=4000).map(|i| f64::from(i) * 0.01);
        let far = (0..300).map(|e| libm::exp10(f64::from(e)));
        for z in near.chain(far.clone()).chain(far.map(|z| -z).filter(|z| *z > -700.0)) {
            let w = omega(z);
            assert!(w > 0.0 && w.is_finite(), "omega({z}) = {w}");
            // The residual of the equation is (1 + 1/w) times the relative error times w.
            let residual = (w + libm::log(w) - z).abs();
            assert!(
                residual <= 4e-16 * (1.0 + w + z.abs()),
                "omega({z}) = {w}, residual {residual:e}"
            );
        }
        assert_eq!(omega(1.0), 1.0);
        assert_eq!(omega(-1e300), 0.0);
        assert!((omega(0.0) - 0.567_143_290_409_783_8).abs() < 1e-16);
    }
}
