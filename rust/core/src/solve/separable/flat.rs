//! Tokens with a constant derivative beside others: they are full above a multiplier, empty below, anything at it.

use super::dual::{Dual, Root};
use crate::solve::fill;
use crate::support::rank::Ranked;

/// The distribution: that of the dual at its root, and of the tokens in order so many full ones and one with the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) root: Root,
    pub(super) full: usize,
    pub(super) rest: f64,
}

/// Finds the multiplier; `flats` are in order, as many as could be full.
pub(super) fn find(dual: &mut Dual<'_>, flats: &[Ranked]) -> Found {
    let cap = dual.cap;
    // What there is at the multiplier of a token, without it.
    let before = |dual: &mut Dual<'_>, k: usize| dual.evaluate(flats[k].value).sum() + cap * k as f64;
    // Falling multipliers: the sum rises along the order.
    let (mut some, mut none) = (0, flats.len());
    while some < none {
        let middle = some + (none - some) / 2;
        if before(dual, middle) < 1.0 {
            some = middle + 1;
        } else {
            none = middle;
        }
    }
    if let Some(last) = some.checked_sub(1) {
        let rest = 1.0 - before(dual, last);
        if rest <= cap + fill::ROUNDING {
            return Found {
                root: Root {
                    nu: flats[last].value,
                    iterations: 0,
                    settled: true,
                    share: 1.0,
                    unresolved: 0.0,
                },
                full: last,
                rest: rest.min(cap),
            };
        }
    }
    let goal = 1.0 - cap * some as f64;
    let high = match some {
        0 => dual.high(goal),
        _ => flats[some - 1].value,
    };
    let low = flats.get(some).map_or(f64::NEG_INFINITY, |next| next.value);
    let low = low.max(dual.low(goal).unwrap_or(low));
    Found {
        root: dual.solve(goal, low, high),
        full: some,
        rest: 0.0,
    }
}
