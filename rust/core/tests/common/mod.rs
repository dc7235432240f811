//! Naive references: plain formulas, full sorts, bisection. One screen each, and nothing shared with the solvers.
#![allow(dead_code)]

use half::{bf16, f16};
use optdecode_core::plan::*;
use optdecode_core::row::{Mask, Row, Scores};
use optdecode_core::{Outcome, Workspace, solve_row};

pub fn plan(objective: Objective) -> Plan {
    let anchor = match objective {
        Objective::AnchoredSoftmax { .. } | Objective::Mirror { .. } => Anchor::Model,
        Objective::Coverage { lam, .. } if lam > 0.0 => Anchor::Model,
        _ => Anchor::None,
    };
    let (temperature, score_weight) = (1.0, 1.0);
    Plan {
        objective,
        temperature,
        score_weight,
        raw_scores: false,
        anchor,
        supports: vec![],
        chains: vec![],
        allowed: None,
        cap: 1.0,
        target: None,
    }
}

pub fn coverage(lam: f64, beta_bar: f64, budget: u32, weights: Weights) -> Plan {
    plan(Objective::Coverage {
        lam,
        coverage: Coverage {
            beta_bar,
            budget,
            weights,
        },
    })
}

pub fn row(x: &[f64]) -> Row<'_> {
    Row {
        scores: Scores::F64(x),
        mask: None,
        anchor: None,
        weights: None,
        budget: None,
    }
}

/// A row solved, with the distribution scattered over the vocabulary.
pub struct Solution {
    pub outcome: Outcome,
    pub face: Vec<u32>,
    pub q: Vec<f64>,
    pub log_q: Vec<f64>,
}

pub fn solve(plan: &Plan, row: &Row<'_>) -> Solution {
    let mut ws = Workspace::new();
    let outcome = solve_row(plan, row, &mut ws);
    let mut q = vec![0.0; row.scores.len()];
    let mut log_q = vec![f64::NEG_INFINITY; row.scores.len()];
    assert_eq!((ws.face().len(), ws.face().len()), (ws.q().len(), ws.log_q().len()));
    for ((&id, &value), &log) in ws.face().iter().zip(ws.q()).zip(ws.log_q()) {
        q[id as usize] = value;
        log_q[id as usize] = log;
    }
    Solution {
        outcome,
        face: ws.face().to_vec(),
        q,
        log_q,
    }
}

pub fn total_variation(a: &[f64], b: &[f64]) -> f64 {
    0.5 * a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>()
}

pub fn log_softmax(x: &[f64]) -> Vec<f64> {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = x.iter().map(|x| (x - top).exp()).sum::<f64>().ln();
    x.iter().map(|x| x - top - total).collect()
}

/// `d Omega / d q_i` by the formulas of the plan, `lq = log q_i`.
pub fn marginal(objective: &Objective, lq: f64, log_r: f64, w: f64) -> f64 {
    match objective {
        Objective::Argmax => 0.0,
        Objective::Softmax { lam } => lam * (lq + 1.0),
        Objective::AnchoredSoftmax { lam } => lam * (lq - log_r + 1.0),
        Objective::Quadratic { lam } => lam * lq.exp(),
        Objective::Tsallis { lam, alpha } => lam * (((alpha - 1.0) * lq).exp_m1() / (alpha - 1.0) + 1.0 / alpha),
        Objective::Coverage { lam, coverage } | Objective::Mirror { lam, coverage, .. } => {
            let kl = if *lam > 0.0 { lam * (lq - log_r + 1.0) } else { 0.0 };
            let k = f64::from(coverage.budget);
            let miss = if k == 1.0 {
                1.0
            } else {
                ((k - 1.0) * (-lq.exp()).ln_1p()).exp()
            };
            kl - coverage.beta_bar * w * k * miss
        }
        Objective::Separable { terms, coverage } => {
            let budget = coverage.as_ref().map_or(1, |coverage| coverage.budget);
            terms.iter().map(|term| term_marginal(term, lq, log_r, w, budget)).sum()
        }
        Objective::GreedyFill => 0.0,
        Objective::AdaptiveK { base, .. } => term_marginal(base, lq, log_r, w, 1),
    }
}

/// The derivative of one term of a sum, as the formulas have it.
pub fn term_marginal(term: &Term, lq: f64, log_r: f64, w: f64, budget: u32) -> f64 {
    let (q, k) = (lq.exp(), f64::from(budget));
    term.coefficient
        * match term.kind {
            TermKind::Entropy => lq + 1.0,
            TermKind::Quadratic => q,
            TermKind::Tsallis { alpha } => (alpha * ((alpha - 1.0) * lq).exp() - 1.0) / (alpha * (alpha - 1.0)),
            TermKind::Kl(_) => lq - log_r + 1.0,
            TermKind::Divergence { alpha: 1.0, .. } => lq - log_r,
            TermKind::Divergence { alpha, .. } => ((alpha - 1.0) * (lq - log_r)).exp_m1() / (alpha - 1.0),
            _ if w == 0.0 => 0.0,
            TermKind::Coverage => -w * k * (1.0 - q).powf(k - 1.0),
            TermKind::LogCoverage => -w * k * (1.0 - q).powf(k - 1.0) / -(k * (-q).ln_1p()).exp_m1(),
        }
}

/// A sum of terms, with K = 8 and the weights p, under a cap.
pub fn sum(terms: &[(TermKind, f64)], cap: f64) -> Plan {
    let terms: Vec<Term> = terms
        .iter()
        .map(|&(kind, coefficient)| Term { kind, coefficient })
        .collect();
    let covering = terms.iter().find(|term| term.kind.covers()).map(|term| Coverage {
        beta_bar: term.coefficient,
        budget: 8,
        weights: Weights::Model,
    });
    let given = terms.iter().any(|term| term.kind.anchor() == Anchor::Given);
    Plan {
        anchor: if given { Anchor::Given } else { Anchor::Model },
        cap,
        ..plan(Objective::Separable {
            terms,
            coverage: covering,
        })
    }
}

/// A target for any plan.
pub fn towards(target: Target, plan: Plan) -> Plan {
    Plan {
        target: Some(target),
        ..plan
    }
}

/// One plan of every kind of the general family.
pub fn family() -> Vec<(&'static str, Plan)> {
    use TermKind::{Entropy, Kl, LogCoverage, Quadratic};
    let model = Anchor::Model;
    let divergence = |alpha| TermKind::Divergence { alpha, anchor: model };
    let priced = |kind, coefficient, price| {
        let base = Term { kind, coefficient };
        Plan {
            anchor: if kind == Kl(model) { model } else { Anchor::None },
            ..plan(Objective::AdaptiveK { base, price })
        }
    };
    let softmax = || plan(Objective::Softmax { lam: 1.0 });
    let anchored = || plan(Objective::AnchoredSoftmax { lam: 1.0 });
    let filled = Plan {
        cap: 0.3,
        ..plan(Objective::GreedyFill)
    };
    vec![
        ("kl + chi-square", sum(&[(Kl(model), 1.0), (divergence(2.0), 0.5)], 1.0)),
        ("kl - log-coverage", sum(&[(Kl(model), 1.0), (LogCoverage, 0.3)], 1.0)),
        ("chi-square", sum(&[(divergence(2.0), 1.0)], 1.0)),
        ("reverse kl", sum(&[(divergence(0.0), 1.0)], 1.0)),
        ("softmax, cap .1", sum(&[(Entropy, 1.0)], 0.1)),
        ("sparsemax, cap .1", sum(&[(Quadratic, 1.0)], 0.1)),
        ("fill .3", filled),
        ("entropy, .01 a token", priced(Entropy, 1.0, 0.01)),
        ("kl, .1 a token", priced(Kl(model), 1.0, 0.1)),
        ("quadratic, .001 a token", priced(Quadratic, 2.0, 0.001)),
        (
            "tsallis 1.3, .001 a token",
            priced(TermKind::Tsallis { alpha: 1.3 }, 1.0, 0.001),
        ),
        ("softmax, entropy 2", towards(Target::Entropy(2.0), softmax())),
        ("kl, divergence .5", towards(Target::Divergence(0.5), anchored())),
        (
            "sparsemax, entropy 1",
            towards(Target::Entropy(1.0), plan(Objective::Quadratic { lam: 1.0 })),
        ),
        (
            "best of 8, entropy 1",
            towards(Target::Entropy(1.0), coverage(0.2, 0.004, 8, Weights::Model)),
        ),
        (
            "capped softmax, entropy 3",
            towards(Target::Entropy(3.0), sum(&[(Entropy, 1.0)], 0.1)),
        ),
    ]
}

/// The largest violation of the KKT conditions on the face, relative to the size of their terms: equality on tokens that
/// matter, inequality on the others.
pub fn kkt_violation(plan: &Plan, x: &[f64], log_r: &[f64], w: &[f64], solution: &Solution) -> f64 {
    let eta = solution.outcome.threshold;
    let worst = solution.face.iter().map(|&id| {
        let i = id as usize;
        let lq = solution.log_q[i];
        let l = plan.score_weight * x[i] / plan.temperature;
        let slope = marginal(&plan.objective, lq, log_r[i], w[i]);
        let scale = 1.0 + l.abs() + slope.abs() + eta.abs();
        let excess = (l - slope - eta) / scale;
        if solution.q[i] > 0.0 {
            excess.abs()
        } else {
            excess.max(0.0)
        }
    });
    worst.fold(0.0, f64::max)
}

/// The Frank-Wolfe gap: an upper bound of how far the objective is from its maximum on the face.
pub fn gap(plan: &Plan, x: &[f64], log_r: &[f64], w: &[f64], solution: &Solution) -> f64 {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let gradient = |i: usize| {
        plan.score_weight * ((x[i] - top) / plan.temperature)
            - marginal(&plan.objective, solution.log_q[i], log_r[i], w[i])
    };
    let face = || solution.face.iter().map(|&id| id as usize);
    // Of a positive probability that underflows, log q is large and its gradient all rounding; it cannot matter.
    let counts = |i: &usize| solution.log_q[*i] > -1e4 || solution.log_q[*i] == f64::NEG_INFINITY;
    let best = face().filter(counts).map(gradient).fold(f64::NEG_INFINITY, f64::max);
    best - face()
        .filter(|&i| solution.q[i] > 0.0)
        .map(|i| solution.q[i] * gradient(i))
        .sum::<f64>()
}

/// Bisection for a decreasing function.
pub fn bisect(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    loop {
        let middle = low + 0.5 * (high - low);
        if !(low < middle && middle < high) {
            return middle;
        }
        if f(middle) > 0.0 { low = middle } else { high = middle }
    }
}

/// Sparsemax of `z` by a full sort.
pub fn sparsemax(z: &[f64]) -> Vec<f64> {
    let mut sorted = z.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (mut sum, mut tau) = (0.0, 0.0);
    for (k, &value) in sorted.iter().enumerate() {
        sum += value;
        if 1.0 + (k as f64 + 1.0) * value > sum {
            tau = (sum - 1.0) / (k as f64 + 1.0);
        }
    }
    z.iter().map(|z| (z - tau).max(0.0)).collect()
}

/// Tsallis entmax of `z` by bisection.
pub fn entmax(z: &[f64], alpha: f64) -> Vec<f64> {
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let q = |z: f64, mu: f64| {
        (1.0 + (alpha - 1.0) * (z - top - mu))
            .max(0.0)
            .powf(1.0 / (alpha - 1.0))
    };
    let mu = bisect(0.0, 1.0 / (alpha - 1.0), |mu| {
        z.iter().map(|&z| q(z, mu)).sum::<f64>() - 1.0
    });
    z.iter().map(|&z| q(z, mu)).collect()
}

/// Best-of-K by bisection in bisection.
pub fn best_of_k(l: &[f64], log_r: &[f64], lam: f64, beta_bar: f64, w: &[f64], k: f64) -> Vec<f64> {
    let c = |i: usize| l[i] / lam + log_r[i];
    let a = |i: usize| beta_bar * w[i] * k / lam;
    let u = |i: usize, nu: f64| {
        bisect(-800.0, 0.0, |u| {
            c(i) - nu - u + a(i) * ((k - 1.0) * (-u.exp_m1()).ln()).exp()
        })
    };
    let top = (0..l.len()).map(c).fold(f64::NEG_INFINITY, f64::max);
    let high = (0..l.len()).map(|i| c(i) + a(i)).fold(f64::NEG_INFINITY, f64::max) + (l.len() as f64).ln();
    let nu = bisect(top, high, |nu| (0..l.len()).map(|i| u(i, nu).exp()).sum::<f64>() - 1.0);
    (0..l.len()).map(|i| u(i, nu).exp()).collect()
}

/// Waterfilling by bisection for y, nu = max l + e^y.
pub fn waterfill(l: &[f64], beta_bar: f64, w: &[f64], k: f64) -> Vec<f64> {
    let a = |i: usize| beta_bar * w[i] * k;
    let top = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let q = |i: usize, y: f64| (1.0 - (((top - l[i]) + y.exp()) / a(i)).powf(1.0 / (k - 1.0))).max(0.0);
    let high = (0..l.len()).map(|i| l[i] + a(i)).fold(f64::NEG_INFINITY, f64::max);
    let y = bisect(-700.0, (high - top).ln(), |y| {
        (0..l.len()).map(|i| q(i, y)).sum::<f64>() - 1.0
    });
    (0..l.len()).map(|i| q(i, y)).collect()
}

/// A generator good enough for test data.
pub struct Rng(pub u64);

impl Rng {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn normals(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| scale * self.normal()).collect()
    }
}

/// Rows that break naive code, all finite.
pub fn adversarial() -> Vec<(&'static str, Vec<f64>)> {
    let mut rng = Rng(7);
    let cauchy = (0..257)
        .map(|_| (std::f64::consts::PI * (rng.uniform() - 0.5)).tan())
        .collect();
    let mut one_hot = vec![0.0; 64];
    one_hot[17] = 1e30;
    vec![
        ("one token", vec![3.5]),
        ("one huge token", vec![-1e30]),
        ("all equal", vec![2.0; 100]),
        ("all equal and huge", vec![1e30; 33]),
        ("ties at the top", vec![1.0, 5.0, 5.0, 5.0, 0.0, 5.0, -3.0]),
        ("two levels", (0..50).map(|i| f64::from(i % 2)).collect()),
        ("one hot", one_hot),
        ("plus and minus 1e30", vec![1e30, -1e30, 0.0, 1e30, 1.0, -1.0]),
        ("largest floats", vec![f64::MAX, f64::MIN, 0.0, 1e300]),
        ("denormals", vec![5e-324, 0.0, -5e-324, 1e-310, -0.0]),
        ("near ties", vec![1.0, 1.0 + f64::EPSILON, 1.0 - f64::EPSILON, 1.0]),
        ("cauchy", cauchy),
        ("normal", rng.normals(500, 4.0)),
        ("geometric", (0..60).map(|i| -0.5_f64.powi(i)).collect()),
        ("steps of one half", (0..200).map(|i| -0.5 * f64::from(i)).collect()),
    ]
}

/// A plan with supports, each raw or not.
pub fn supported(objective: Objective, rules: &[(Rule, bool)]) -> Plan {
    Plan {
        supports: rules.iter().map(|&(rule, raw)| Support { rule, raw }).collect(),
        ..plan(objective)
    }
}

/// A plan with one chain of rules, each raw or not.
pub fn chained(objective: Objective, rules: &[(Rule, bool)]) -> Plan {
    let Plan { supports, .. } = supported(objective.clone(), rules);
    Plan {
        chains: vec![supports],
        ..plan(objective)
    }
}

/// The scores as f64, exactly.
pub fn widened(scores: Scores<'_>) -> Vec<f64> {
    match scores {
        Scores::F64(x) => x.to_vec(),
        Scores::F32(x) => x.iter().map(|&x| x.into()).collect(),
        Scores::F16(x) => x.iter().map(|&x| x.into()).collect(),
        Scores::Bf16(x) => x.iter().map(|&x| x.into()).collect(),
    }
}

/// Whether the prefix that ends with a token has, but for 2e-6 of it, the entropy that a TopH of the plan allows: one that is this near
/// to a threshold may be on either side of it.
pub fn is_at_top_h(plan: &Plan, row: &Row<'_>, id: u32) -> bool {
    let x = widened(row.scores);
    let allowed = |&id: &usize| x[id].is_finite() && row.mask.is_none_or(|mask| mask.allows(id));
    let mut order: Vec<usize> = (0..x.len()).filter(allowed).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
    plan.supports.iter().any(|support| {
        let Rule::TopH(alpha) = support.rule else {
            return false;
        };
        let temperature = if support.raw { 1.0 } else { plan.temperature };
        let distance = |id: usize| (x[order[0]] - x[id]) / temperature;
        let (mut mass, mut bits) = (0.0, 0.0);
        let entropies: Vec<f64> = (order.iter().map(|&id| (distance(id), (-distance(id)).exp())))
            .map(|(distance, term)| {
                (mass, bits) = (mass + term, bits + if term > 0.0 { term * distance } else { 0.0 });
                mass.ln() + bits / mass
            })
            .collect();
        let place = order.iter().position(|&other| other == id as usize);
        let most = alpha * entropies[order.len() - 1];
        place.is_some_and(|place| (entropies[place] - most).abs() <= 2e-6 * most)
    })
}

/// Calls `check` with the scores in every width below f64, with and without a mask.
pub fn in_narrow_widths(x: &[f64], flags: &[bool], mut check: impl FnMut(&Row<'_>)) {
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let half: Vec<f16> = x.iter().map(|&x| f16::from_f64(x)).collect();
    let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
    for scores in [Scores::F32(&single), Scores::F16(&half), Scores::Bf16(&brain)] {
        for mask in [None, Some(Mask::Flags(flags))] {
            check(&Row {
                scores,
                mask,
                ..row(&[])
            });
        }
    }
}
