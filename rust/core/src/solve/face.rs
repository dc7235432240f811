//! The problem on the selected face, and the distribution that answers it.

use crate::math::{self, FLOOR};
use crate::plan::{Anchor, Objective, Plan};
use crate::prepare::Prepared;

/// The tokens of the face in ascending order of their ids; every vector is aligned with `ids`.
#[derive(Clone, Debug, Default)]
pub(super) struct Face {
    pub(super) ids: Vec<u32>,
    /// Logits.
    pub(super) x: Vec<f64>,
    /// The linear term less `offset`: its maximum over the face is 0, and it is finite.
    pub(super) l: Vec<f64>,
    /// What `l` was shifted by; thresholds and objectives are shifted back by it.
    pub(super) offset: f64,
    /// Model probabilities (over the allowed tokens, not renormalised).
    pub(super) p: Vec<f64>,
    /// Logarithm of the reference: the plan's anchor, or p; finite.
    pub(super) log_r: Vec<f64>,
    /// log p where some term of a plan with a given anchor needs it, else empty; finite.
    log_p: Vec<f64>,
    /// Coverage weights; empty if the plan has none.
    pub(super) w: Vec<f64>,
}

impl Face {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
    }

    /// Takes the kept tokens. Scores are shifted before they are scaled, so that large ones cancel exactly.
    pub(super) fn gather(&mut self, plan: &Plan, prepared: &Prepared, keep: &[bool], weights: &[f64]) {
        let reference = if plan.anchor == Anchor::Given {
            &prepared.log_r
        } else {
            &prepared.log_p
        };
        take(&prepared.ids, keep, &mut self.ids);
        take(&prepared.x, keep, &mut self.x);
        take(&prepared.p, keep, &mut self.p);
        take(reference, keep, &mut self.log_r);
        take(weights, keep, &mut self.w);
        let takes_both = plan.anchor == Anchor::Given && matches!(plan.objective, Objective::Separable { .. });
        take(if takes_both { &prepared.log_p } else { &[] }, keep, &mut self.log_p);
        let scale = if plan.raw_scores { 1.0 } else { plan.temperature };
        let weight = plan.score_weight;
        let best = if weight < 0.0 {
            -math::max(self.x.iter().map(|x| -x))
        } else {
            math::max(self.x.iter().copied())
        };
        self.l.clear();
        self.l.extend(
            self.x
                .iter()
                .map(|x| (weight * ((x - best) / scale).clamp(FLOOR, -FLOOR)).max(FLOOR)),
        );
        self.offset = weight * (best / scale);
    }

    /// The logarithm of an anchor; of the plan's where there is none.
    pub(super) fn log_anchor(&self, anchor: Anchor) -> &[f64] {
        match anchor {
            Anchor::Model if !self.log_p.is_empty() => &self.log_p,
            _ => &self.log_r,
        }
    }

    /// Keeps the tokens of a prefix of the order, marked in `keep`.
    pub(super) fn narrow(&mut self, keep: &[bool]) {
        let Face {
            ids,
            x,
            l,
            offset: _,
            p,
            log_r,
            log_p,
            w,
        } = self;
        retain(ids, keep);
        for values in [x, l, p, log_r, log_p, w] {
            retain(values, keep);
        }
    }

    /// Takes some tokens of a face whose plan has neither weights nor an anchor but p.
    pub(super) fn pick(&mut self, face: &Face, indices: impl Iterator<Item = u32> + Clone) {
        let all = || indices.clone().map(|index| index as usize);
        self.clear();
        self.ids.extend(all().map(|i| face.ids[i]));
        let pairs = [
            (&mut self.x, &face.x),
            (&mut self.l, &face.l),
            (&mut self.p, &face.p),
            (&mut self.log_r, &face.log_r),
        ];
        for (mine, theirs) in pairs {
            mine.clear();
            mine.extend(all().map(|i| theirs[i]));
        }
        self.offset = 0.0;
    }

    /// Sets what is known of the model on candidates, `depth` being `-log p` of the best token.
    pub(super) fn refer_to_model(&mut self, max: f64, temperature: f64, depth: f64) {
        let Face { x, p, log_r, .. } = self;
        log_r.clear();
        log_r.extend(x.iter().map(|x| ((x - max) / temperature).max(FLOOR) - depth));
        p.clear();
        p.extend(log_r.iter().map(|&log_p| math::exp(log_p)));
    }

    /// The first token in the order (value descending, logit descending, id ascending).
    pub(super) fn best_by(&self, value: impl Fn(usize) -> f64) -> usize {
        (1..self.len()).fold(0, |best, i| {
            let (challenger, champion) = (value(i), value(best));
            let wins = challenger > champion || (challenger == champion && self.x[i] > self.x[best]);
            if wins { i } else { best }
        })
    }
}

/// Copies the kept values (none if there are none to copy).
fn take<T: Copy>(values: &[T], keep: &[bool], out: &mut Vec<T>) {
    out.clear();
    out.extend(
        values
            .iter()
            .zip(keep)
            .filter(|(_, keep)| **keep)
            .map(|(value, _)| *value),
    );
}

/// Drops what is not kept, where there is anything.
fn retain<T>(values: &mut Vec<T>, keep: &[bool]) {
    let mut keep = keep.iter();
    values.retain(|_| keep.next().copied().unwrap_or(false));
}

/// A distribution on the face.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) log_q: Vec<f64>,
    pub(super) q: Vec<f64>,
}

impl Answer {
    pub(super) fn clear(&mut self) {
        self.log_q.clear();
        self.q.clear();
    }

    /// Sets q to the normalised exponential of the values; returns their log-sum-exp.
    pub(super) fn set_softmax(&mut self, values: impl Iterator<Item = f64>) -> f64 {
        self.log_q.clear();
        self.log_q.extend(values);
        self.normalise_logs()
    }

    /// Replaces `log_q` by its log-softmax and sets `q` to match; returns the log-sum-exp that it had.
    pub(super) fn normalise_logs(&mut self) -> f64 {
        let top = math::max(self.log_q.iter().copied());
        let Answer { log_q, q } = self;
        q.clear();
        q.extend(log_q.iter_mut().map(|v| {
            *v -= top;
            math::exp(*v)
        }));
        let total = math::sum(q.iter().copied());
        let log_total = math::ln(total);
        for (v, q) in log_q.iter_mut().zip(q) {
            *v -= log_total;
            *q /= total;
        }
        top + log_total
    }

    /// Starts from q = 0 everywhere.
    pub(super) fn zeros(&mut self, len: usize) {
        self.q.clear();
        self.q.resize(len, 0.0);
    }

    /// Normalises `q` and sets `log_q` to match; returns the sum that it had.
    pub(super) fn normalise(&mut self) -> f64 {
        let total = math::sum(self.q.iter().copied());
        self.q.iter_mut().for_each(|q| *q /= total);
        self.log_q.clear();
        self.log_q.extend(
            self.q
                .iter()
                .map(|&q| if q > 0.0 { math::ln(q) } else { f64::NEG_INFINITY }),
        );
        total
    }
}
