//! Whole distributions, written where the caller wants them, and what is reported with them.
//!
//! Rows of f32 or narrower go the ways of draws (`draw`): a softmax is written from the terms of its tokens, in one more pass over
//! the row (`arch::write_columns`) or, if it has few, into a row of zeros; of a sparse optimum the candidates are solved in f64
//! and written likewise. Its scalars follow from a handful of sums. Everything else is solved whole.

use super::draw::{EXACT, Reads, Ready, shortcut, softmax_scale};
use super::{CoverageTerm, Outcome, Solved, Workspace, distribute, stats};
use crate::arch::{self, Columns, Density, Exponential, Level};
use crate::math;
use crate::plan::{Objective, Plan};
use crate::row::{Row, Scores};
use crate::status::Status;
use crate::support::candidates::Candidates;
use crate::support::cut::Cut;

/// A float that results come back in.
pub trait Real: Copy {
    /// The nearest one.
    fn rounded(x: f64) -> Self;
}

impl Real for f64 {
    fn rounded(x: f64) -> Self {
        x
    }
}

impl Real for f32 {
    fn rounded(x: f64) -> Self {
        x as f32
    }
}

/// What is wanted of a row; the vectors have one place a token.
#[derive(Debug, Default)]
pub struct Wanted<'a, F> {
    /// q.
    pub probs: Option<&'a mut [F]>,
    /// log q, -inf where q is 0 (or where log q is out of range).
    pub log_probs: Option<&'a mut [F]>,
    /// Which tokens the supports kept.
    pub face: Option<&'a mut [bool]>,
    /// Whether the scalars of the [`Outcome`] are; else they are NaN.
    pub scalars: bool,
    /// Whether `probs` and `face` hold zeros already, as fresh memory does. They need not be touched then where they stay zero.
    pub zeroed: bool,
}

impl<F: Real> Wanted<'_, F> {
    /// Every token forbidden.
    fn clear(&mut self) {
        if !self.zeroed {
            self.fill_probs(0.0);
            self.face.iter_mut().for_each(|face| face.fill(false));
        }
        if let Some(log_probs) = &mut self.log_probs {
            log_probs.fill(F::rounded(f64::NEG_INFINITY));
        }
    }

    fn fill_probs(&mut self, q: f64) {
        self.probs.iter_mut().for_each(|probs| probs.fill(F::rounded(q)));
    }

    /// No distribution.
    fn fail(&mut self) {
        self.clear();
        self.fill_probs(f64::NAN);
        self.log_probs
            .iter_mut()
            .for_each(|log_probs| log_probs.fill(F::rounded(f64::NAN)));
    }

    /// One token of the face.
    fn put(&mut self, id: u32, q: f64, log_q: f64) {
        let id = id as usize;
        if let Some(probs) = &mut self.probs {
            probs[id] = F::rounded(q);
        }
        if let Some(log_probs) = &mut self.log_probs {
            log_probs[id] = F::rounded(log_q);
        }
        if let Some(face) = &mut self.face {
            face[id] = true;
        }
    }

    /// The distribution in the workspace.
    fn put_all(&mut self, vocabulary: usize, ws: &Workspace) {
        if ws.face().len() < vocabulary {
            self.clear();
        }
        for ((&id, &log_q), &q) in ws.face().iter().zip(ws.log_q()).zip(ws.q()) {
            self.put(id, q, log_q);
        }
    }
}

/// Solves a row exactly, as [`super::solve_row`] does, and writes what is wanted.
pub fn solve_whole_into<F: Real>(
    plan: &Plan,
    row: &Row<'_>,
    wanted: &mut Wanted<'_, F>,
    ws: &mut Workspace,
) -> Outcome {
    let (term, solved) = match distribute(plan, row, ws) {
        Ok(found) => found,
        Err(status) => return failed(status, wanted, ws),
    };
    wanted.put_all(row.scores.len(), ws);
    match wanted.scalars {
        true => stats::outcome(&plan.objective, &ws.face, term, &ws.answer, &solved),
        false => Outcome::unmeasured(solved.status, solved.iterations),
    }
}

/// Solves a row as fast as there is a way, and writes what is wanted. The same bits at every level. From rows of f32 and
/// narrower, q is that of [`super::solve_row`] but for 3e-6 of it and 2^-40, and for tokens at the very end of a support that is about
/// sums; log q but for 2e-6 and 2e-7 of it (Best-of-K: both but for 1e-5); the scalars but for 1e-5. From f64, and from rows of
/// at most 128 tokens, it is that of `solve_row`, rounded.
///
/// What the workspace holds afterwards is nobody's business.
pub fn solve_into(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    wanted: &mut Wanted<'_, f32>,
    ws: &mut Workspace,
) -> Outcome {
    match quickly(plan, row, level, wanted, ws) {
        Ok(Some(outcome)) => outcome,
        Ok(None) => solve_whole_into(plan, row, wanted, ws),
        Err(status) => failed(status, wanted, ws),
    }
}

fn failed<F: Real>(status: Status, wanted: &mut Wanted<'_, F>, ws: &mut Workspace) -> Outcome {
    ws.clear();
    wanted.fail();
    Outcome::unmeasured(status, 0)
}

/// The ways of draws, if the plan and the row have one.
fn quickly(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    wanted: &mut Wanted<'_, f32>,
    ws: &mut Workspace,
) -> Result<Option<Outcome>, Status> {
    let scale = softmax_scale(plan);
    // Candidates of a sparse optimum may lack tokens that its supports keep.
    let face_is_known = scale.is_some() || !plan.selects() || wanted.face.is_none();
    if matches!(row.scores, Scores::F64(_)) || row.scores.len() <= EXACT || !face_is_known || plan.is_constrained() {
        return Ok(None);
    }
    let writer = Writer { plan, row, level };
    if matches!(plan.objective, Objective::Coverage { .. } | Objective::Mirror { .. }) {
        return writer.best_of_k(wanted, ws);
    }
    let Some(ready) = shortcut(plan, row, level, ws)? else {
        return Ok(None);
    };
    Ok(match (ready, scale) {
        (Ready::Solved(solved), None) => writer.sparse(&solved, wanted, ws),
        (Ready::Solved(_), Some(scale)) => writer.few(scale, wanted, ws),
        (Ready::Gathered(exponential), Some(scale)) => writer.gathered(&exponential, scale, wanted, ws),
        (Ready::Spread(exponential, cut), Some(scale)) => {
            let face = std::mem::take(&mut ws.reads.face);
            let narrowed = match ws.reads.is_masked {
                true => row.masked(&face),
                false => *row,
            };
            let outcome = writer.spread(exponential, cut, &narrowed, scale, wanted, ws);
            ws.reads.face = face;
            outcome
        }
        (Ready::Weighed | Ready::Tailed(_), _) | (_, None) => None,
    })
}

/// What all ways share. Each returns nothing, and has written nothing, where the model's numbers are out of the ordinary.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) plan: &'a Plan,
    pub(super) row: &'a Row<'a>,
    pub(super) level: Level,
}

impl Writer<'_> {
    /// A sparse optimum or a vertex, in the workspace.
    fn sparse(&self, solved: &Solved, wanted: &mut Wanted<'_, f32>, ws: &mut Workspace) -> Option<Outcome> {
        let outcome = match wanted.scalars {
            true => {
                let depth = self.model(ws)?.depth;
                ws.face.refer_to_model(ws.reads.max, self.plan.temperature, depth);
                stats::outcome(&self.plan.objective, &ws.face, CoverageTerm::NONE, &ws.answer, solved)
            }
            false => Outcome::unmeasured(solved.status, solved.iterations),
        };
        wanted.put_all(self.row.scores.len(), ws);
        if let Some(face) = wanted.face.as_deref_mut() {
            // Of all allowed tokens, as there are no supports, not only of candidates.
            let columns = Columns {
                face: Some(face),
                ..Columns::default()
            };
            arch::write_columns(self.level, self.row.scores, self.row.mask, &Density::FLAT, columns);
        }
        Some(outcome)
    }

    /// A softmax over few tokens, in the workspace.
    fn few(&self, scale: f64, wanted: &mut Wanted<'_, f32>, ws: &mut Workspace) -> Option<Outcome> {
        let sums = match wanted.scalars {
            true => {
                let model = self.model(ws)?;
                let max = ws.reads.max;
                let distances = || ws.face.x.iter().map(|x| x - max);
                Some(Sums {
                    depth: 0.0 - math::max(ws.log_q().iter().copied()),
                    mean: math::sum(distances().zip(ws.q()).map(|(d, q)| q * d)),
                    model: model.depth,
                    kept: math::sum(distances().map(|d| math::exp(d / self.plan.temperature - model.depth))),
                })
            }
            false => None,
        };
        wanted.put_all(self.row.scores.len(), ws);
        Some(self.outcome(scale, ws.reads.max, sums))
    }

    /// A softmax over gathered tokens.
    fn gathered(
        &self,
        exponential: &Exponential,
        scale: f64,
        wanted: &mut Wanted<'_, f32>,
        ws: &mut Workspace,
    ) -> Option<Outcome> {
        let max = ws.reads.max;
        let model = match wanted.scalars {
            true => Some(self.model(ws)?),
            false => None,
        };
        let candidates = ws.reads.candidates_mut();
        arch::terms_of(self.level, exponential, &candidates.values, &mut candidates.terms);
        let Candidates { ids, values, terms, .. } = &*candidates;
        let tokens = || {
            ids.iter()
                .zip(values)
                .zip(terms)
                .map(|((&id, &x), &e)| (id, f64::from(x) - max, f64::from(e)))
        };
        let z: f64 = tokens().map(|(_, _, e)| e).sum();
        let depth = depth(exponential, z, max);
        wanted.clear();
        for (id, d, e) in tokens() {
            wanted.put(id, e / z, scale * d - depth);
        }
        let mean = tokens().map(|(_, d, e)| e * d).sum::<f64>() / z;
        let sums = model.map(|model| Sums {
            depth,
            mean,
            model: model.depth,
            kept: {
                arch::terms_of(
                    self.level,
                    &model.exponential,
                    &candidates.values,
                    &mut candidates.terms,
                );
                candidates.terms.iter().map(|&e| f64::from(e)).sum::<f64>() / model.z
            },
        });
        Some(self.outcome(scale, max, sums))
    }

    /// A softmax over the tokens of a cut of what is left of the row, its terms summed.
    fn spread(
        &self,
        exponential: Exponential,
        cut: Cut,
        left: &Row<'_>,
        scale: f64,
        wanted: &mut Wanted<'_, f32>,
        ws: &mut Workspace,
    ) -> Option<Outcome> {
        let max = ws.reads.max;
        let z = ws.reads.sweep.sums.iter().sum();
        let density = Density {
            exponential,
            z,
            scale,
            max,
            depth: depth(&exponential, z, max),
            least: cut.least,
            last: cut.last,
            bend: None,
        };
        let sums = match wanted.scalars {
            true => Some(self.spread_sums(&density, cut, left, ws)?),
            false => None,
        };
        let columns = Columns {
            probs: wanted.probs.as_deref_mut(),
            log_probs: wanted.log_probs.as_deref_mut(),
            face: wanted.face.as_deref_mut(),
        };
        arch::write_columns(self.level, left.scores, left.mask, &density, columns);
        Some(self.outcome(scale, max, sums))
    }

    fn spread_sums(&self, density: &Density, cut: Cut, left: &Row<'_>, ws: &mut Workspace) -> Option<Sums> {
        let model = self.model(ws)?;
        let Row { scores, mask, .. } = *left;
        let max = density.max;
        // Of tokens at the very end of the cut, those that it keeps are counted.
        let (bound, ties) = match cut.last {
            u32::MAX => (cut.least, 0),
            _ => (
                f64::from((cut.least as f32).next_up()),
                ws.reads.candidates_mut().count_ties(self.level, left, cut),
            ),
        };
        let tied = |exponential| ties as f64 * f64::from(arch::term_of(exponential, cut.least as f32));
        let above = density.exponential.from(bound);
        let moments = arch::moments(self.level, scores, mask, Some(&above), max as f32);
        let weight = tied(&density.exponential);
        let first = if ties == 0 { 0.0 } else { weight * (cut.least - max) };
        let is_masked = ws.reads.is_masked;
        let kept = if cut == Cut::ALL && !is_masked {
            model.z
        } else if density.scale == 1.0 / self.plan.temperature && !is_masked {
            density.z
        } else {
            let sums = &mut ws.reads.sweep.sums;
            arch::block_sums(self.level, scores, mask, &model.exponential.from(bound), sums);
            sums.iter().sum::<f64>() + tied(&model.exponential)
        };
        Some(Sums {
            depth: density.depth,
            mean: (moments.first + first) / (moments.weight + weight),
            model: model.depth,
            kept: kept / model.z,
        })
    }

    /// The model distribution of the row, from the sums that supports were measured on or by one more pass.
    fn model(&self, ws: &mut Workspace) -> Option<Model> {
        let Reads { max, top, .. } = ws.reads;
        let exponential = Exponential::new(1.0 / self.plan.temperature, top)?;
        let z = match ws.reads.measured {
            Some((measured, z)) if measured == exponential => z,
            _ => {
                let sums = &mut ws.reads.sweep.sums;
                arch::block_sums(self.level, self.row.scores, self.row.mask, &exponential, sums);
                sums.iter().sum()
            }
        };
        Some(Model {
            exponential,
            z,
            depth: depth(&exponential, z, top) + (top - max) / self.plan.temperature,
        })
    }

    /// The outcome of a softmax, a closed form.
    fn outcome(&self, scale: f64, max: f64, sums: Option<Sums>) -> Outcome {
        let Some(sums) = sums else {
            return Outcome::unmeasured(Status::Ok, 0);
        };
        let plan = self.plan;
        // Of `exp(l / lam)`, with l shifted to a maximum of 0, or of that times p.
        let (lam, log_sum) = match plan.objective {
            Objective::AnchoredSoftmax { lam } => (lam, sums.depth - sums.model),
            Objective::Softmax { lam } => (lam, sums.depth),
            _ => (0.0, 0.0),
        };
        let offset = plan.score_weight * (max / if plan.raw_scores { 1.0 } else { plan.temperature });
        let kl = (scale - 1.0 / plan.temperature) * sums.mean - sums.depth + sums.model;
        Outcome {
            status: Status::Ok,
            threshold: lam * (log_sum - 1.0) + offset,
            objective: lam * log_sum + offset,
            entropy: (sums.depth - scale * sums.mean).max(0.0),
            kl: kl.max(0.0),
            kept_mass: sums.kept.min(1.0),
            multiplier: 1.0,
            iterations: 0,
        }
    }
}

/// The model distribution over all allowed tokens.
struct Model {
    exponential: Exponential,
    z: f64,
    /// `-log p` of the best token of the face.
    depth: f64,
}

/// What the scalars of a softmax follow from.
struct Sums {
    /// `-log q` of the best token.
    depth: f64,
    /// The mean of `x - max` under q.
    mean: f64,
    /// `-log p` of the best token of the face.
    model: f64,
    /// The model mass of the face.
    kept: f64,
}

/// `-log q` of the best token, of whose terms z is the sum: never negative, and exact where that token has nearly everything.
pub(super) fn depth(exponential: &Exponential, z: f64, max: f64) -> f64 {
    math::ln(z / f64::from(arch::term_of(exponential, max as f32))).max(0.0)
}
