//! Algorithm 1 of arXiv:2602.18292: mirror ascent with the entropy as mirror map, in log space.

use super::face::{Answer, Face};
use super::{CoverageTerm, Solved};
use crate::math::{self, FLOOR};
use crate::status::Status;

/// One problem and how to climb it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ascent {
    pub(super) lam: f64,
    pub(super) term: CoverageTerm,
    pub(super) steps: u32,
    pub(super) eta: Option<f64>,
    pub(super) tolerance: Option<f64>,
}

pub(super) fn solve(ascent: &Ascent, face: &Face, gradient: &mut Vec<f64>, answer: &mut Answer) -> Solved {
    let Ascent { lam, term, steps, .. } = *ascent;
    answer.set_softmax(face.log_r.iter().copied());
    let eta = ascent
        .eta
        .unwrap_or_else(|| guaranteed_step(lam, term, math::max(face.w.iter().copied())));
    let mut taken = 0;
    loop {
        gradient.clear();
        gradient.extend((0..face.len()).map(|i| ascent.slope(face, answer, i)));
        let arrived = ascent
            .tolerance
            .map(|most| ascent.gap(face, gradient, answer) <= most * lam);
        if arrived == Some(true) || taken == steps {
            return Solved {
                iterations: taken,
                status: match arrived {
                    Some(false) => Status::ReducedAccuracy,
                    _ => Status::Ok,
                },
                ..Solved::closed(mean(gradient, answer))
            };
        }
        for (log_q, slope) in answer.log_q.iter_mut().zip(&*gradient) {
            // A step far too long must not leave the finite numbers, or the next one would subtract infinities.
            *log_q = (*log_q + eta * slope).clamp(FLOOR, -FLOOR);
        }
        answer.normalise_logs();
        answer.log_q.iter_mut().for_each(|log_q| *log_q = log_q.max(FLOOR));
        taken += 1;
    }
}

impl Ascent {
    /// `l - lam (log(q / r) + 1) + beta_bar w K (1 - q)^(K-1)`.
    fn slope(&self, face: &Face, answer: &Answer, i: usize) -> f64 {
        let budget = self.term.budget;
        let coverage = self.gain(face, i) * math::pow_1m(answer.q[i], budget - 1.0);
        let divergence = if self.lam > 0.0 {
            self.lam * (answer.log_q[i] - face.log_r[i] + 1.0)
        } else {
            0.0
        };
        face.l[i] - divergence + coverage
    }

    /// What coverage adds to the slope where q is 0.
    fn gain(&self, face: &Face, i: usize) -> f64 {
        self.term.beta_bar * face.w[i] * self.term.budget
    }

    /// The most that any distribution could gain: `max g - <q, g>`.
    ///
    /// The slope of a token whose q has underflowed is the difference of numbers without bound, so rounding would decide. With the maximum
    /// over the others for nu, such a token could gain `max_x (l - nu) x - phi(x)`, at most `lam r exp((l + gain - nu) / lam - 1)`.
    fn gap(&self, face: &Face, gradient: &[f64], answer: &Answer) -> f64 {
        let has_mass = |i: &usize| answer.q[*i] > 0.0;
        let nu = math::max((0..face.len()).filter(has_mass).map(|i| gradient[i]));
        let outside = (0..face.len()).filter(|i| !has_mass(i)).map(|i| {
            let excess = (face.l[i] + self.gain(face, i) - nu) / self.lam;
            self.lam * math::exp(face.log_r[i] + excess - 1.0)
        });
        nu - mean(gradient, answer) + math::sum(outside)
    }
}

/// `<q, g>`.
fn mean(gradient: &[f64], answer: &Answer) -> f64 {
    math::sum(answer.q.iter().zip(gradient).map(|(&q, &slope)| match q {
        0.0 => 0.0,
        q => q * slope,
    }))
}

/// 1 / L with L the smoothness of the objective relative to the entropy, on a face with weights up to `w_max`; 1 if the objective is
/// linear.
pub(super) fn guaranteed_step(lam: f64, term: CoverageTerm, w_max: f64) -> f64 {
    let smoothness = lam + term.beta_bar * w_max * curvature(term.budget);
    if smoothness > 0.0 { 1.0 / smoothness } else { 1.0 }
}

/// The maximum of K (K-1) q (1-q)^(K-2), at q = 1 / (K-1).
pub(super) fn curvature(budget: f64) -> f64 {
    match budget {
        1.0 => 0.0,
        2.0 => 2.0,
        _ => budget * math::powf((budget - 2.0) / (budget - 1.0), budget - 2.0),
    }
}
