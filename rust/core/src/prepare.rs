//! From a row as it comes in to its allowed tokens: compact, in f64, checked, with the model distribution.

use crate::math::{self, FLOOR};
use crate::plan::{Anchor, Plan, Rule, Support, Weights};
use crate::row::{Row, Scores};
use crate::status::Status;

/// The allowed tokens of a row, in ascending order of their ids; every vector is aligned with `ids`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    /// Token ids.
    pub(crate) ids: Vec<u32>,
    /// Logits, finite.
    pub(crate) x: Vec<f64>,
    /// `log softmax(x / T)`, finite.
    pub(crate) log_p: Vec<f64>,
    /// `softmax(x / T)`.
    pub(crate) p: Vec<f64>,
    /// The given anchor, normalised and finite; empty if the plan takes none from the row.
    pub(crate) log_r: Vec<f64>,
    /// `softmax(x)` if some support needs it and it is not `p`, else empty.
    p_raw: Vec<f64>,
    /// Position of the best token (x descending, id ascending).
    pub(crate) best: usize,
}

impl Prepared {
    /// Reads the row; `Err` says why it cannot be solved.
    pub(crate) fn load(&mut self, plan: &Plan, row: &Row<'_>) -> Result<(), Status> {
        match row.scores {
            Scores::F64(x) => self.collect(plan, row, |id| x[id]),
            Scores::F32(x) => self.collect(plan, row, |id| f64::from(x[id])),
            Scores::F16(x) => self.collect(plan, row, |id| f64::from(x[id])),
            Scores::Bf16(x) => self.collect(plan, row, |id| f64::from(x[id])),
        }?;
        self.best = self.find_best();
        let top = self.x[self.best];
        log_softmax(
            self.x.iter().map(|x| ((x - top) / plan.temperature).max(FLOOR)),
            &mut self.log_p,
            &mut self.p,
        );
        self.p_raw.clear();
        if plan.temperature != 1.0 && needs_raw(plan) {
            self.p_raw
                .extend(self.x.iter().map(|x| math::exp((x - top).max(FLOOR))));
            let total = math::sum(self.p_raw.iter().copied());
            self.p_raw.iter_mut().for_each(|p| *p /= total);
        }
        if !self.log_r.is_empty() {
            let total = math::log_sum_exp(self.log_r.iter().copied());
            self.log_r.iter_mut().for_each(|r| *r = (*r - total).max(FLOOR));
        }
        Ok(())
    }

    /// Takes candidates in place of all allowed tokens: at least one, ids ascending, among them the best of the face. There is no model
    /// distribution then.
    pub(crate) fn hold(&mut self, ids: impl IntoIterator<Item = u32>, x: impl IntoIterator<Item = f64>) {
        self.collect_with(|held, values| {
            held.extend(ids);
            values.extend(x);
        });
    }

    /// The same with the model distribution of the candidates, from the logarithm of its normaliser.
    pub(crate) fn hold_with_model(
        &mut self,
        ids: impl IntoIterator<Item = u32>,
        x: impl IntoIterator<Item = f64>,
        temperature: f64,
        log_z: f64,
    ) {
        self.hold(ids, x);
        let Self { x, p, log_p, .. } = self;
        log_p.extend(x.iter().map(|x| (x / temperature - log_z).max(FLOOR)));
        p.extend(log_p.iter().map(|&log_p| math::exp(log_p)));
    }

    /// Candidates from a function that appends them.
    pub(crate) fn collect_with(&mut self, collect: impl FnOnce(&mut Vec<u32>, &mut Vec<f64>)) {
        let Self { ids, x, .. } = self;
        ids.clear();
        x.clear();
        [&mut self.log_p, &mut self.p, &mut self.log_r, &mut self.p_raw]
            .into_iter()
            .for_each(Vec::clear);
        collect(ids, x);
        self.best = self.find_best();
    }

    /// Sets `log_p` to the scores, which differ from it by a constant.
    pub(crate) fn refer_to_scores(&mut self, temperature: f64) {
        let top = self.x[self.best];
        let scores = self.x.iter().map(|x| ((x - top) / temperature).max(FLOOR));
        self.log_p.clear();
        self.log_p.extend(scores);
    }

    fn find_best(&self) -> usize {
        (1..self.x.len()).fold(0, |best, i| if self.x[i] > self.x[best] { i } else { best })
    }

    /// The model distribution that a support is measured on.
    pub(crate) fn probs(&self, raw: bool) -> &[f64] {
        if raw && !self.p_raw.is_empty() {
            &self.p_raw
        } else {
            &self.p
        }
    }

    /// Keeps the allowed tokens and checks their values, in the agreed order of the statuses.
    fn collect(&mut self, plan: &Plan, row: &Row<'_>, value: impl Fn(usize) -> f64) -> Result<(), Status> {
        let Self { ids, x: xs, log_r, .. } = self;
        ids.clear();
        xs.clear();
        log_r.clear();
        let anchor = (plan.anchor == Anchor::Given).then(|| row.anchor.unwrap_or(&[]));
        let (mut nan, mut inf, mut bad_anchor) = (false, false, false);
        let mut visit = |id: usize| {
            if row.mask.is_some_and(|mask| !mask.allows(id)) {
                return;
            }
            let r = anchor.map(|anchor| anchor.get(id).copied().unwrap_or(f64::NAN));
            if r == Some(f64::NEG_INFINITY) {
                return;
            }
            let x = value(id);
            nan |= x.is_nan();
            inf |= x == f64::INFINITY;
            if !x.is_finite() {
                return;
            }
            if let Some(r) = r {
                bad_anchor |= !r.is_finite();
                if !r.is_finite() {
                    return;
                }
                log_r.push(r.max(FLOOR));
            }
            ids.push(id as u32);
            xs.push(x);
        };
        let vocabulary = row.scores.len();
        match &plan.allowed {
            Some(allowed) => allowed
                .iter()
                .map(|&id| id as usize)
                .filter(|&id| id < vocabulary)
                .for_each(&mut visit),
            None => (0..vocabulary).for_each(&mut visit),
        }
        match (nan, inf, bad_anchor, ids.is_empty()) {
            (true, ..) => Err(Status::NanScores),
            (_, true, ..) => Err(Status::InfScores),
            (_, _, true, _) => Err(Status::BadAnchor),
            (.., true) => Err(Status::Infeasible),
            _ => Ok(()),
        }
    }
}

/// `log softmax` and `softmax` of scores whose maximum is 0.
pub(crate) fn log_softmax(scores: impl Iterator<Item = f64>, log_p: &mut Vec<f64>, p: &mut Vec<f64>) {
    log_p.clear();
    log_p.extend(scores);
    p.clear();
    p.extend(log_p.iter().map(|&s| math::exp(s)));
    let total = math::sum(p.iter().copied());
    let log_total = math::ln(total);
    p.iter_mut().for_each(|p| *p /= total);
    log_p.iter_mut().for_each(|s| *s -= log_total);
}

/// Whether some support of the plan is measured on untempered probabilities.
fn needs_raw(plan: &Plan) -> bool {
    let of_weights = match plan.objective.coverage().map(|coverage| &coverage.weights) {
        Some(Weights::Support(supports)) => supports.as_slice(),
        _ => &[],
    };
    let takes_probs = |rule| !matches!(rule, Rule::TopK(_) | Rule::MinP(_) | Rule::TopNSigma(_));
    // What comes later in a chain is measured on what is left.
    plan.supports
        .iter()
        .chain(of_weights)
        .chain(plan.chains.iter().filter_map(|chain| chain.first()))
        .any(|&Support { rule, raw }| raw && takes_probs(rule))
}
