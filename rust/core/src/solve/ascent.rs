//! Mirror ascent for draws: step by step on the tokens that coverage bends, everything else by sums.
//!
//! From r = p on the face, after t steps `log q = a x + b - nu`, with the same a for all tokens and b what coverage has added:
//!
//! ```text
//! a <- (1 - eta lam) a + eta lam / T + eta score_weight / (T or 1)        from 1 / T
//! b <- (1 - eta lam) b + eta beta_bar w K (1 - q)^(K-1)                   from 0
//! ```
//!
//! b hardly depends on the token where q, or with w = p the weight, is small. Those are the *tail*, a softmax of the scores at every step,
//! of which nothing but sums is wanted; the others, the *head*, are in f32. As in `cover` there is no tail to speak of where all
//! tokens with more than 2^-40 of the best are few.

use super::cover::{DEPTH, SERIES, Tail, leave_sums, less_head, open, plain};
use super::draw::{GATHERED, Ready};
use super::mirror::{curvature, guaranteed_step};
use super::{CoverageTerm, Workspace};
use crate::arch::{self, Exponential, Level, Step};
use crate::math;
use crate::plan::{Objective, Plan};
use crate::row::Row;
use crate::status::Status;
use crate::support::candidates::Candidates;
use crate::support::cut::{self, Cut, Measure};

/// An ascent on one row, its weights being p or 1.
#[derive(Clone, Copy, Debug)]
struct Problem {
    /// K.
    budget: u32,
    /// The weights are p.
    by_model: bool,
    /// How often.
    steps: u32,
    /// The first a.
    start: f64,
    /// The factor of a and b in a step.
    rate: f64,
    /// What a step adds to a, and to b for a weight of 1 where q is 0.
    push: f64,
    bonus: f64,
    /// The largest weight.
    heaviest: f64,
}

/// Gets a row ready to be drawn from; `None` where the whole distribution must be solved for.
pub(super) fn from_mirror(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    ws: &mut Workspace,
) -> Result<Option<Ready>, Status> {
    let Objective::Mirror { coverage, .. } = &plan.objective else {
        return Ok(None);
    };
    let Some((budget, by_model)) = plain(plan, row, coverage) else {
        return Ok(None);
    };
    let reads = &mut ws.reads;
    let Some((max, exponential)) = open(row, level, 1.0 / plan.temperature, false, &mut reads.sweep)? else {
        return Ok(None);
    };
    let measure = Measure::new(row, level, max, &exponential, &reads.sweep);
    let Some(cut) = cut::intersect(plan, &measure, &mut reads.cut) else {
        return Ok(None);
    };
    let heaviest = if by_model { math::exp(measure.log_best()) } else { 1.0 };
    let Some(problem) = problem(plan, budget, by_model, heaviest) else {
        return Ok(None);
    };
    let mut climber = Climber {
        problem: &problem,
        measure: &measure,
        candidates: &mut reads.cut.candidates,
        ascent: &mut reads.ascent,
        totals: &mut reads.squares,
    };
    Ok(climber.few(cut).or_else(|| climber.many(cut)))
}

/// The ascent, if f32 bears it and the number of steps is known.
fn problem(plan: &Plan, budget: u32, by_model: bool, heaviest: f64) -> Option<Problem> {
    // What f32 knows of a gap ends far above any tolerance that is asked for.
    let Objective::Mirror {
        lam,
        ref coverage,
        steps,
        eta,
        tolerance: None,
    } = plan.objective
    else {
        return None;
    };
    let term = CoverageTerm {
        beta_bar: coverage.beta_bar,
        budget: f64::from(budget),
    };
    let eta = eta.unwrap_or_else(|| guaranteed_step(lam, term, heaviest));
    let scale = if plan.raw_scores { 1.0 } else { plan.temperature };
    let problem = Problem {
        budget,
        by_model,
        steps,
        start: 1.0 / plan.temperature,
        rate: 1.0 - eta * lam,
        push: eta * (lam / plan.temperature + plan.score_weight / scale),
        bonus: eta * term.beta_bar * term.budget,
        heaviest,
    };
    let bend = eta * term.beta_bar * heaviest * curvature(term.budget);
    (steps > 0 && problem.fits_f32(bend)).then_some(problem)
}

impl Problem {
    /// a and the largest b, for a weight of 1, after every step.
    fn schedule(&self) -> impl Iterator<Item = (f64, f64)> + Clone + use<> {
        let Problem { rate, push, bonus, .. } = *self;
        (0..self.steps).scan((self.start, 0.0), move |(a, b), _| {
            *a = rate * *a + push;
            *b = rate * *b + bonus;
            Some((*a, *b))
        })
    }

    /// How much of what a step adds to b is left at the end.
    fn left_of(&self, step: usize) -> f64 {
        math::powf(self.rate.abs(), f64::from(self.steps) - 1.0 - step as f64)
    }

    /// What coverage adds to any b at most, for a weight of 1.
    fn whole(&self) -> f64 {
        (0..self.steps).fold(0.0, |b, _| self.rate.abs() * b + self.bonus)
    }

    /// The smallest a after a step.
    fn shallowest(&self) -> f64 {
        self.schedule().fold(f64::INFINITY, |least, (a, _)| least.min(a))
    }

    /// `(1 - q)^(K-1)` has a relative error of K 2^-25, and weights p one of 1e-6. An error in some log q changes the next b by
    /// up to `bend` times that, which later steps may let grow.
    fn fits_f32(&self, bend: f64) -> bool {
        let whole = self.whole();
        let factor = self.rate.abs().max((self.rate - bend).abs());
        let grown = (0..self.steps).fold(0.0, |sum, _| factor * sum + bend);
        let ordinary = self.schedule().all(|(a, _)| (1e-20..1e20).contains(&a));
        let bears_sums = !self.by_model || whole * self.heaviest <= 6.0;
        ordinary && whole <= 16.0 && whole * f64::from(self.budget) <= 100.0 && bears_sums && grown <= 2.0
    }
}

/// What an ascent works on.
struct Climber<'a> {
    problem: &'a Problem,
    measure: &'a Measure<'a>,
    candidates: &'a mut Candidates,
    ascent: &'a mut arch::Ascent,
    /// The sums of `exp(a (x - max))` over all tokens, after each step, or none yet.
    totals: &'a mut Vec<f64>,
}

impl Climber<'_> {
    /// All tokens of the face, or all that have more than 2^-40 of the best one's probability after any step, if these are few.
    fn few(&mut self, cut: Cut) -> Option<Ready> {
        let Climber { problem, measure, .. } = *self;
        let most = problem.whole() * problem.heaviest;
        let near = match cut {
            Cut::ALL => Cut::from(measure.max - (DEPTH + 2.0 * most) / problem.shallowest()),
            _ => cut,
        };
        if !self.candidates.gather_few(measure, near.least, GATHERED) {
            return None;
        }
        self.candidates.keep(near);
        self.start(cut == Cut::ALL);
        self.climb(false)?;
        Some(Ready::Weighed)
    }

    /// A head and a tail, if the face is all tokens.
    fn many(&mut self, cut: Cut) -> Option<Ready> {
        if cut != Cut::ALL {
            return None;
        }
        let Climber { problem, measure, .. } = *self;
        // Where b is large, differences of sums would not do: then all tokens are the head.
        let has_tail = problem.whole() * problem.heaviest <= 1.0;
        self.totals.clear();
        let head = match has_tail {
            true => self.head()?.min(measure.max),
            false => f64::MIN,
        };
        self.candidates.gather(measure, head, measure.row.scores.len());
        self.candidates.keep(Cut::from(head));
        self.start(true);
        let z = self.climb(has_tail)?;
        let (a, lift) = problem.schedule().last()?;
        let exponential = Exponential::new(a, measure.max)?;
        let mut tail = Tail {
            exponential,
            omega: 0.0,
            rho: 0.0,
        };
        if has_tail {
            let lift = if problem.by_model { 0.0 } else { lift };
            tail.omega = math::exp(lift) * exponential.unit(measure.max) / z;
        } else {
            self.candidates.sums.clear();
            self.candidates.sums.resize(measure.sweep.sums.len(), 0.0);
        }
        leave_sums(&tail, self.candidates, &[]);
        Some(Ready::Tailed(tail))
    }

    /// Where the head begins: from there on b is off by 3e-6 if q is taken for 0, or with the weights p 4e-6 if those are.
    fn head(&mut self) -> Option<f64> {
        let Climber { problem, measure, .. } = *self;
        if problem.by_model {
            let least = math::ln(4e-6 / problem.whole()) - measure.log_best();
            return Some(measure.max + least / measure.exponential.scale());
        }
        for (step, (a, _)) in problem.schedule().enumerate() {
            let total = self.total(step, a)?;
            self.totals.push(total);
        }
        let draws = f64::from(problem.budget - 1);
        // No b is less than the largest by more than that.
        let most = math::exp(problem.whole());
        let scales = std::iter::once(problem.start).chain(problem.schedule().map(|(a, _)| a));
        let best = std::iter::once(math::exp(measure.log_best())).chain(self.totals.iter().map(|total| most / total));
        // (a, what is left of b at the end where a (x - max) is 0)
        let parts = || {
            let steps = scales
                .clone()
                .zip(best.clone())
                .take(problem.steps as usize)
                .enumerate();
            steps.map(|(step, (a, q))| (a, problem.left_of(step) * problem.bonus * draws * q))
        };
        let missed = |d: f64| parts().map(|(a, part)| part * math::exp(a * d)).sum::<f64>();
        let (mut low, mut high) = (-2.0 * DEPTH / problem.shallowest().min(problem.start), 0.0);
        for _ in 0..20 {
            let middle = 0.5 * (low + high);
            match missed(middle) > SERIES {
                true => high = middle,
                false => low = middle,
            }
        }
        Some(measure.max + low)
    }

    /// The candidates at r: with the sum over all tokens, or over these, which are the face.
    fn start(&mut self, all: bool) {
        let Climber { problem, measure, .. } = *self;
        self.candidates.weigh(measure);
        let Candidates { values, terms, .. } = &*self.candidates;
        let z = match all {
            true => measure.z,
            false => terms.iter().map(|&term| f64::from(term)).sum(),
        };
        self.ascent.clear();
        for (&x, &term) in values.iter().zip(terms) {
            let term = f64::from(term);
            let weight = if problem.by_model { term / measure.z } else { 1.0 };
            let distance = f64::from(x) - measure.max;
            self.ascent
                .push(distance as f32, (problem.bonus * weight) as f32, (term / z) as f32);
        }
        self.ascent.fill();
    }

    /// All steps; leaves the q of the candidates as their terms. The sum of all terms `exp(a (x - max) + b)` at the end.
    fn climb(&mut self, has_tail: bool) -> Option<f64> {
        let Climber { problem, measure, .. } = *self;
        let power = problem.budget - 1;
        let top = problem.whole() * problem.heaviest;
        let mut z = 1.0;
        for (step, (a, lift)) in problem.schedule().enumerate() {
            z = self.ascent.step(
                measure.level,
                Step {
                    inverse: 1.0 / z,
                    rate: problem.rate,
                    scale: a,
                    power,
                },
            );
            // What q of the best token at most does to its b in the next step.
            let best = math::exp(top) / z;
            let weight = problem.bonus * problem.heaviest * f64::from(power);
            let is_last = step + 1 == problem.steps as usize;
            if has_tail && (is_last || problem.left_of(step + 1) * weight * best > 1e-6) {
                let lift = if problem.by_model { 0.0 } else { lift };
                z += math::exp(lift) * self.tail(step, a)?;
            }
            if !(f64::MIN_POSITIVE..f64::INFINITY).contains(&z) {
                return None;
            }
        }
        let Candidates { values, terms, .. } = &mut *self.candidates;
        let found = &self.ascent.term[..values.len()];
        terms.clear();
        terms.extend(found.iter().map(|&term| (f64::from(term) / z) as f32));
        Some(z)
    }

    /// The sum of `exp(a (x - max))` over all tokens; those over blocks, up to a factor, stay with the candidates.
    fn total(&mut self, step: usize, a: f64) -> Option<f64> {
        if let Some(&total) = self.totals.get(step) {
            return Some(total);
        }
        let Measure { row, level, max, .. } = *self.measure;
        let exponential = Exponential::new(a, max)?;
        let sums = &mut self.candidates.sums;
        arch::block_sums(level, row.scores, row.mask, &exponential, sums);
        Some(sums.iter().sum::<f64>() * exponential.unit(max))
    }

    /// The same over the tokens below the head. After the last step, those over blocks are theirs.
    fn tail(&mut self, step: usize, a: f64) -> Option<f64> {
        let Measure { level, max, .. } = *self.measure;
        let total = self.total(step, a)?;
        let exponential = Exponential::new(a, max)?;
        if step + 1 == self.problem.steps as usize {
            less_head(level, &exponential, self.candidates, &mut []);
            return Some(self.candidates.sums.iter().sum::<f64>() * exponential.unit(max));
        }
        let Candidates { values, terms, .. } = &mut *self.candidates;
        arch::terms_of(level, &exponential, values, terms);
        let head = arch::mass_from(level, values, terms, f32::MIN);
        Some((total - head * exponential.unit(max)).max(0.0))
    }
}
