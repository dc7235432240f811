//! Whole distributions of Best-of-K: from the head that was solved for, the tail by its series, and a handful of sums.
//!
//! With d = x - max, every token has `log q = kappa d - nu + b`, b what coverage adds: `g (1 - q)^(K-1)`. Of the head b is
//! known; below it, it is g p with w = p, and `g - rho W e` with w = 1, or simply g where the tail has next to nothing.

use super::ascent::from_mirror;
use super::cover::{Found, Tail, from_coverage};
use super::draw::Ready;
use super::root::Root;
use super::write::{Wanted, Writer, depth};
use super::{Outcome, Workspace};
use crate::arch::{self, Columns, Density, Exponential};
use crate::math;
use crate::plan::{Objective, Plan};
use crate::row::Row;
use crate::status::Status;
use crate::support::candidates::Candidates;

/// Sums over tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Of q.
    mass: f64,
    /// Of q d.
    first: f64,
    /// Of q b.
    bent: f64,
    /// Of `w (1 - (1 - q)^K)`.
    covered: f64,
}

impl Writer<'_> {
    /// Best-of-K, exactly or by mirror ascent: q alone on any support, all of it on all tokens.
    pub(super) fn best_of_k(
        &self,
        wanted: &mut Wanted<'_, f32>,
        ws: &mut Workspace,
    ) -> Result<Option<Outcome>, Status> {
        let Writer { plan, row, level } = *self;
        let more = wanted.log_probs.is_some() || wanted.face.is_some() || wanted.scalars;
        if let Objective::Mirror { steps, .. } = plan.objective {
            if more {
                return Ok(None);
            }
            let ready = from_mirror(plan, row, level, ws)?;
            return Ok(ready.map(|ready| {
                self.write_q(ready, wanted, ws);
                Outcome::unmeasured(Status::Ok, steps)
            }));
        }
        if more && plan.selects() {
            return Ok(None);
        }
        let Some(found) = from_coverage(plan, row, level, ws)? else {
            return Ok(None);
        };
        if !more {
            self.write_q(found.ready, wanted, ws);
            let (status, iterations) = match (found.ready, found.root) {
                (Ready::Solved(solved), _) => (solved.status, solved.iterations),
                (_, root) => (Status::Ok, root.map_or(0, |root| root.iterations)),
            };
            return Ok(Some(Outcome::unmeasured(status, iterations)));
        }
        let Some(root) = found.root else {
            return Ok(None);
        };
        let cover = Cover {
            found,
            root,
            tail: match found.ready {
                Ready::Tailed(tail) => Some(tail),
                _ => None,
            },
            writer: *self,
        };
        Ok(cover.write(wanted, ws))
    }

    /// q of the tokens that coverage bends, and of the others by a series.
    fn write_q(&self, ready: Ready, wanted: &mut Wanted<'_, f32>, ws: &Workspace) {
        let Some(probs) = wanted.probs.as_deref_mut() else {
            return;
        };
        let Row { scores, mask, .. } = *self.row;
        match ready {
            Ready::Tailed(tail) => {
                let series = [tail.omega, tail.rho];
                arch::write_tail(self.level, scores, mask, &tail.exponential, series, probs);
            }
            _ if !wanted.zeroed => probs.fill(0.0),
            _ => {}
        }
        if let Ready::Solved(_) = ready {
            for (&id, &q) in ws.face().iter().zip(ws.q()) {
                probs[id as usize] = q as f32;
            }
            return;
        }
        let Candidates { ids, terms, .. } = ws.reads.candidates();
        for (&id, &q) in ids.iter().zip(terms) {
            probs[id as usize] = q;
        }
    }
}

/// A row solved by the joint iteration, its face all tokens.
struct Cover<'a> {
    found: Found,
    root: Root,
    tail: Option<Tail>,
    writer: Writer<'a>,
}

impl Cover<'_> {
    /// Nothing, and has written nothing, where the numbers are out of the ordinary.
    fn write(&self, wanted: &mut Wanted<'_, f32>, ws: &mut Workspace) -> Option<Outcome> {
        let Found { problem, max, .. } = self.found;
        let model = match wanted.scalars {
            true => Some(self.model(ws)?),
            false => None,
        };
        let tail = match (self.tail, model) {
            (Some(tail), Some(_)) => self.tail_sums(&tail, ws)?,
            _ => Sums::default(),
        };
        self.writer.write_q(self.found.ready, wanted, ws);
        let density = Density {
            scale: problem.kappa,
            max,
            depth: self.root.x - self.lift(),
            bend: self.bend(),
            ..Density::FLAT
        };
        let columns = Columns {
            probs: None,
            log_probs: wanted.log_probs.as_deref_mut(),
            face: wanted.face.as_deref_mut(),
        };
        let Row { scores, mask, .. } = *self.writer.row;
        arch::write_columns(self.writer.level, scores, mask, &density, columns);
        if let Some(log_probs) = wanted.log_probs.as_deref_mut() {
            let Candidates { ids, .. } = ws.reads.candidates();
            // A token at the end of the range has no coverage to speak of: what was written for it, as for those below the head, is right.
            let settled = |&(_, log_q): &(_, &f32)| *log_q > arch::LOWEST;
            for (&id, &log_q) in ids.iter().zip(&ws.reads.newton.log_q).filter(settled) {
                log_probs[id as usize] = log_q;
            }
        }
        Some(match model {
            Some(model) => self.outcome(self.head_sums(ws).plus(&tail), model),
            None => Outcome::unmeasured(Status::Ok, self.root.iterations),
        })
    }

    /// b of a token without probability, but for the weights p.
    fn lift(&self) -> f64 {
        if self.found.problem.by_model {
            0.0
        } else {
            self.found.problem.gain
        }
    }

    /// What b below the head has of which terms.
    fn bend(&self) -> Option<(Exponential, f64)> {
        let Found { problem, model, .. } = self.found;
        match (problem.by_model, self.tail) {
            (true, _) => model.map(|(terms, z)| (terms, problem.gain / z)),
            (false, tail) => tail.map(|tail| (tail.exponential, -tail.rho * tail.omega)),
        }
    }

    /// `-log p` of the best token.
    fn model(&self, ws: &mut Workspace) -> Option<f64> {
        let Found { model, max, .. } = self.found;
        let (terms, z) = match model {
            Some(model) => model,
            None => {
                let terms = Exponential::new(1.0 / self.writer.plan.temperature, max)?;
                let Row { scores, mask, .. } = *self.writer.row;
                let sums = &mut ws.reads.sweep.sums;
                arch::block_sums(self.writer.level, scores, mask, &terms, sums);
                (terms, sums.iter().sum())
            }
        };
        Some(depth(&terms, z, max))
    }

    /// Sums over the head.
    fn head_sums(&self, ws: &Workspace) -> Sums {
        let Found { problem, max, .. } = self.found;
        let newton = &ws.reads.newton;
        let tokens = newton.log_q.iter().zip(&newton.q).zip(&newton.gain);
        let mut sums = Sums::default();
        for (&x, ((&log_q, &q), &gain)) in ws.reads.candidates().values.iter().zip(tokens) {
            let (d, q) = (f64::from(x) - max, f64::from(q));
            let weight = match problem.by_model {
                // Without any gain the weights are of no account.
                true if problem.gain == 0.0 => 0.0,
                true => f64::from(gain) / problem.gain,
                false => 1.0,
            };
            sums = sums.plus(&Sums {
                mass: q,
                first: q * d,
                bent: q * (f64::from(log_q) + self.root.x - problem.kappa * d),
                covered: weight * (1.0 - math::pow_1m(q, f64::from(problem.budget))),
            });
        }
        sums
    }

    /// Sums over the tail: `q = W e - rho (W e)^2`, and differences to those over all tokens. Weights p are as good as nothing there.
    fn tail_sums(&self, tail: &Tail, ws: &mut Workspace) -> Option<Sums> {
        let Found { problem, max, .. } = self.found;
        let Tail {
            exponential,
            omega,
            rho,
        } = *tail;
        if self.lift() > 1.0 {
            return None;
        }
        let double = Exponential::new(2.0 * exponential.scale(), max)?;
        let square_unit = double.unit(max) / (exponential.unit(max) * exponential.unit(max));
        let Row { scores, mask, .. } = *self.writer.row;
        let moment = |terms| arch::moments(self.writer.level, scores, mask, Some(terms), max as f32).first;
        let (mut first, mut second) = (moment(&exponential), 0.0);
        if rho > 0.0 {
            second = moment(&double) * square_unit;
        }
        let newton = &ws.reads.newton;
        let Candidates { values, sums, .. } = ws.reads.candidates();
        for &x in values {
            let (d, e) = (f64::from(x) - max, f64::from(arch::term_of(&exponential, x)));
            first -= e * d;
            second -= e * e * d;
        }
        let head: f64 = newton.q[..values.len()].iter().map(|&q| f64::from(q)).sum();
        let mass = (sums.iter().sum::<f64>() - head).max(0.0);
        let squares = omega * omega * ws.reads.squares.iter().sum::<f64>();
        let budget = f64::from(problem.budget);
        let covered = budget * (mass - 0.5 * (budget - 1.0) * squares);
        Some(Sums {
            mass,
            first: omega * (first - rho * omega * second),
            bent: self.lift() * mass - rho * squares,
            covered: if problem.by_model { 0.0 } else { covered },
        })
    }

    /// From sums over all tokens, and `-log p` of the best.
    fn outcome(&self, sums: Sums, model: f64) -> Outcome {
        let Found { problem, max, .. } = self.found;
        let (mean, bent) = (sums.first / sums.mass, sums.bent / sums.mass);
        let plan: &Plan = self.writer.plan;
        let lam = match plan.objective {
            Objective::Coverage { lam, .. } => lam,
            _ => 0.0,
        };
        let temperature = if plan.raw_scores { 1.0 } else { plan.temperature };
        let offset = plan.score_weight * (max / temperature);
        let entropy = self.root.x - problem.kappa * mean - bent;
        // log p = d / T - model.
        let kl = (problem.kappa - 1.0 / plan.temperature) * mean + bent - self.root.x + model;
        let beta_bar = problem.gain * lam / f64::from(problem.budget);
        let linear = plan.score_weight / temperature * mean;
        Outcome {
            status: Status::Ok,
            threshold: lam * (self.root.x - model - 1.0) + offset,
            objective: linear - lam * kl + beta_bar * sums.covered + offset,
            entropy: entropy.max(0.0),
            kl: kl.max(0.0),
            kept_mass: 1.0,
            multiplier: 1.0,
            iterations: self.root.iterations,
        }
    }
}

impl Sums {
    fn plus(self, other: &Sums) -> Sums {
        Sums {
            mass: self.mass + other.mass,
            first: self.first + other.first,
            bent: self.bent + other.bent,
            covered: self.covered + other.covered,
        }
    }
}
