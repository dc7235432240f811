//! The smallest multiplier m of a whole regulariser whose optimum has an entropy, or a divergence from the anchor.
//!
//! Both are monotone in m, from the vertex at m = 0 to what the regulariser alone likes best. The problem with `m Omega` is the one with
//! `l / m`, so any solver will do, and each value of m costs one solution. The root is looked for in log m, and what is returned
//! satisfies the target, at most [`SLACK`] being forgiven:
//!
//! * 0 is returned if the optimum without a regulariser satisfies it;
//! * where every m tried does, as with ties at the top, it is the smallest one tried, [`SMALLEST`];
//! * where nothing but the limit satisfies it, it is the one that does within the slack;
//! * what the limit does not satisfy is infeasible.

use super::face::{Answer, Face};
use super::{CoverageTerm, Scratch, Solved, dispatch, fill};
use crate::math::{self, FLOOR};
use crate::plan::{Plan, Target};

/// What a target may be missed by, relative to it or to 1.
const SLACK: f64 = 1e-12;

/// A margin with which a search ends.
const CLOSE: f64 = 2e-13;

/// Multipliers that are tried, at most and at least.
const LARGEST: f64 = 1e100;
const SMALLEST: f64 = 1e-100;

/// Solutions, at most.
const LIMIT: u32 = 200;

pub(super) fn solve(
    plan: &Plan,
    target: Target,
    face: &mut Face,
    term: CoverageTerm,
    scratch: &mut Scratch,
    answer: &mut Answer,
) -> Solved {
    let mut linear = std::mem::take(&mut scratch.linear);
    linear.clear();
    linear.extend_from_slice(&face.l);
    let mut search = Search {
        plan,
        target,
        linear: &linear,
        term,
        face: &mut *face,
        scratch: &mut *scratch,
        answer,
        iterations: 0,
    };
    let solved = search.run();
    face.l.clear();
    face.l.extend_from_slice(&linear);
    scratch.linear = linear;
    solved
}

struct Search<'a> {
    plan: &'a Plan,
    target: Target,
    linear: &'a [f64],
    term: CoverageTerm,
    face: &'a mut Face,
    scratch: &'a mut Scratch,
    answer: &'a mut Answer,
    iterations: u32,
}

impl Search<'_> {
    fn run(&mut self) -> Solved {
        let vertex = fill::solve(self.plan.cap, self.face, &mut self.scratch.ranked, self.answer);
        if !vertex.status.is_solved() {
            return vertex;
        }
        if self.margin() >= 0.0 {
            return Solved {
                multiplier: 0.0,
                ..vertex
            };
        }
        self.face.l.fill(0.0);
        let limit = self.optimum();
        if !limit.status.is_solved() || self.margin() < 0.0 {
            return Solved::INFEASIBLE;
        }
        let (first, solved) = self.at(0.0);
        match first {
            _ if is_close(first) => solved,
            _ if first < 0.0 => self.widen(first, 1.0),
            _ => self.widen(first, -1.0),
        }
    }

    /// Steps from m = 1 up or down until the margin changes its sign, then the root between the last two.
    fn widen(&mut self, first: f64, direction: f64) -> Solved {
        let (mut last, mut stride) = ((0.0, first), 1.5);
        loop {
            let log_m = (last.0 + direction * stride).clamp(math::ln(SMALLEST), math::ln(LARGEST));
            let (margin, solved) = self.at(log_m);
            let ended = log_m == last.0;
            if is_close(margin) || (ended && margin >= 0.0) {
                return solved;
            }
            if ended {
                return Solved::INFEASIBLE;
            }
            if (margin < 0.0) != (last.1 < 0.0) {
                return self.close_in(last, (log_m, margin));
            }
            last = (log_m, margin);
            stride *= 2.0;
        }
    }

    /// Chandrupatla's method between two points with margins of different signs.
    fn close_in(&mut self, first: (f64, f64), second: (f64, f64)) -> Solved {
        let (mut a, mut b) = (first, second);
        let mut fraction = 0.5;
        loop {
            let log_m = a.0 + fraction * (b.0 - a.0);
            let (margin, solved) = self.at(log_m);
            let between = (log_m - a.0) * (b.0 - log_m) > 0.0;
            if is_close(margin) || (!between && margin >= 0.0) {
                return solved;
            }
            if !between || self.iterations > LIMIT {
                // Where the margin jumps, the side on which the target holds.
                return self.at(if a.1 >= 0.0 { a.0 } else { b.0 }).1;
            }
            let new = (log_m, margin);
            let last = if (margin < 0.0) == (a.1 < 0.0) {
                a
            } else {
                let last = b;
                b = a;
                last
            };
            a = new;
            fraction = interpolate(a, b, last).unwrap_or(0.5);
            let least = (4.0 * f64::EPSILON * a.0.abs().max(1e-3) / (b.0 - a.0).abs()).min(0.5);
            fraction = fraction.clamp(least, 1.0 - least);
        }
    }

    /// The margin at a multiplier, and the optimum there, which stays in the answer.
    fn at(&mut self, log_m: f64) -> (f64, Solved) {
        let multiplier = math::exp(log_m);
        for (l, linear) in self.face.l.iter_mut().zip(self.linear) {
            *l = (linear / multiplier).max(FLOOR);
        }
        let solved = self.optimum();
        let solved = Solved {
            threshold: solved.threshold * multiplier,
            iterations: self.iterations,
            multiplier,
            ..solved
        };
        (self.margin(), solved)
    }

    fn optimum(&mut self) -> Solved {
        self.iterations += 1;
        let Plan { objective, cap, .. } = self.plan;
        dispatch(objective, *cap, self.face, self.term, self.scratch, self.answer)
    }

    /// By how much the answer satisfies the target with its slack, relative to it or to 1; negative where it does not.
    fn margin(&self) -> f64 {
        let tokens = || self.answer.q.iter().zip(&self.answer.log_q).zip(&self.face.log_r);
        let positive = || tokens().filter(|((q, _), _)| **q > 0.0);
        let (margin, target) = match self.target {
            Target::Entropy(least) => (math::sum(positive().map(|((q, log_q), _)| -q * log_q)) - least, least),
            Target::Divergence(most) => {
                let divergence = math::sum(positive().map(|((q, log_q), log_r)| q * (log_q - log_r)));
                (most - divergence, most)
            }
        };
        margin / target.max(1.0) + SLACK
    }
}

/// Whether a search may end with a margin.
fn is_close(margin: f64) -> bool {
    (0.0..=CLOSE).contains(&margin)
}

/// Where the inverse quadratic through three points is 0, as a fraction of the way from a to b; none where it is not to be trusted.
fn interpolate((xa, fa): (f64, f64), (xb, fb): (f64, f64), (xc, fc): (f64, f64)) -> Option<f64> {
    let (xi, phi) = ((xa - xb) / (xc - xb), (fa - fb) / (fc - fb));
    let trusted = phi * phi < xi && (1.0 - phi) * (1.0 - phi) < 1.0 - xi;
    trusted.then(|| fa / (fb - fa) * (fc / (fb - fc)) + (xc - xa) / (xb - xa) * (fa / (fc - fa)) * (fb / (fc - fb)))
}
