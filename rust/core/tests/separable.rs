//! The general family: sums of terms, caps, prices and targets, against the conditions of optimality, brute force and closed forms.

mod common;

use common::*;
use optdecode_core::plan::*;
use optdecode_core::row::Row;
use optdecode_core::{Status, solve_row};
use proptest::prelude::*;

const INF: f64 = f64::INFINITY;

/// What a row of a test has beside its scores: log p, the log of the given anchor, and the weights.
struct Known {
    log_p: Vec<f64>,
    log_r: Vec<f64>,
    w: Vec<f64>,
    budget: u32,
}

impl Known {
    fn of(plan: &Plan, row: &Row<'_>) -> Self {
        let x = widened(row.scores);
        let top = x.iter().copied().fold(-INF, f64::max);
        // Shifted first, since scores may be huge.
        let log_p = log_softmax(&x.iter().map(|x| (x - top) / plan.temperature).collect::<Vec<_>>());
        let coverage = plan.objective.coverage();
        let w = match (row.weights, coverage.map(|coverage| &coverage.weights)) {
            (Some(w), _) => w.to_vec(),
            (_, Some(Weights::Array(w))) => w.clone(),
            (_, Some(Weights::Uniform)) => vec![1.0; x.len()],
            _ => log_p.iter().map(|log| log.exp()).collect(),
        };
        Known {
            log_r: row.anchor.map_or(log_p.clone(), log_softmax),
            log_p,
            w,
            budget: row.budget.or(coverage.map(|coverage| coverage.budget)).unwrap_or(1),
        }
    }

    /// The derivative of the terms at a token.
    fn marginal(&self, terms: &[Term], i: usize, lq: f64) -> f64 {
        let of = |term: &Term| {
            let log_r = if term.kind.anchor() == Anchor::Given {
                &self.log_r
            } else {
                &self.log_p
            };
            term_marginal(term, lq, log_r[i], self.w[i], self.budget)
        };
        terms.iter().map(of).sum()
    }
}

/// The distribution of a sum under its cap: feasible, and optimal by its own derivatives, token by token.
fn check(plan: &Plan, row: &Row<'_>, name: &str) {
    let Objective::Separable { terms, .. } = &plan.objective else {
        unreachable!("the others are no sums");
    };
    let solution = solve(plan, row);
    let cap = plan.cap;
    let n = solution.face.len() as f64;
    if solution.outcome.status == Status::Infeasible {
        let allowed = widened(row.scores).iter().filter(|x| x.is_finite()).count() as f64;
        assert!(allowed * cap < 1.0, "{name}");
        return;
    }
    assert_eq!(solution.outcome.status, Status::Ok, "{name} {plan:?}");
    let total: f64 = solution.q.iter().sum();
    assert!((total - 1.0).abs() <= 1e-12 * n.max(10.0), "{name} {plan:?}: {total}");
    let (x, known, nu) = (widened(row.scores), Known::of(plan, row), solution.outcome.threshold);
    for &id in &solution.face {
        let i = id as usize;
        let (q, lq, l) = (
            solution.q[i],
            solution.log_q[i],
            plan.score_weight * x[i] / plan.temperature,
        );
        assert!((0.0..=cap).contains(&q), "{name} {plan:?}: {q}");
        // Where two numbers next to each other have the root between them, either is the root.
        let near = 1e-9 + 1e-13 * lq.abs().min(1e3);
        let at = |lq: f64| l - known.marginal(terms, i, lq);
        let size = |lq: f64| {
            1.0 + l.abs()
                + nu.abs()
                + terms
                    .iter()
                    .map(|t| known.marginal(std::slice::from_ref(t), i, lq).abs())
                    .sum::<f64>()
        };
        let slack = |lq: f64| 1e-11 * size(lq);
        if lq > -700.0 {
            assert!(
                at(lq - near) >= nu - slack(lq - near),
                "{name} {plan:?}: token {i} has too much, {lq}"
            );
        }
        if q < cap && lq.exp() > 1e-300 {
            assert!(
                at((lq + near).min(0.0)) <= nu + slack(lq),
                "{name} {plan:?}: token {i} has too little, {lq}"
            );
        }
        if lq == -INF {
            assert!(
                at(-700.0) <= nu + slack(-700.0),
                "{name} {plan:?}: token {i} has nothing"
            );
        }
    }
}

fn kinds() -> Vec<TermKind> {
    let model = Anchor::Model;
    let divergence = |alpha| TermKind::Divergence { alpha, anchor: model };
    vec![
        TermKind::Entropy,
        TermKind::Quadratic,
        TermKind::Tsallis { alpha: 1.5 },
        TermKind::Tsallis { alpha: 3.0 },
        TermKind::Kl(model),
        divergence(2.0),
        divergence(1.0),
        divergence(0.0),
        divergence(0.5),
        divergence(-2.0),
        divergence(5.0),
        TermKind::Coverage,
        TermKind::LogCoverage,
    ]
}

/// Sums of one, two and three terms of which at most one covers.
fn sums() -> Vec<Vec<(TermKind, f64)>> {
    let kinds = kinds();
    let mut sums: Vec<Vec<_>> = kinds.iter().map(|&kind| vec![(kind, 0.7)]).collect();
    for (i, &a) in kinds.iter().enumerate() {
        for (j, &b) in kinds.iter().enumerate().skip(i + 1) {
            if !(a.covers() && b.covers()) {
                sums.push(vec![(a, 1.0), (b, [0.01, 0.5, 20.0][(i + j) % 3])]);
            }
        }
    }
    let (entropy, quadratic) = (TermKind::Entropy, TermKind::Quadratic);
    sums.extend([
        vec![(entropy, 1.0), (quadratic, -0.9)],
        vec![(entropy, 1.0), (quadratic, -0.999)],
        vec![(TermKind::Tsallis { alpha: 1.5 }, 1.0), (quadratic, -0.6)],
        vec![(TermKind::Kl(Anchor::Model), 1.0), (entropy, -0.9)],
        vec![(entropy, 0.1), (kinds[5], 1.0), (TermKind::LogCoverage, 0.2)],
        vec![(kinds[6], 1e-6), (kinds[8], 1e-6)],
    ]);
    sums
}

#[test]
fn every_sum_is_optimal_by_its_own_derivatives() {
    let mut rng = Rng(3);
    for terms in sums() {
        for cap in [1.0, 0.4, 0.07] {
            let plan = sum(&terms, cap);
            for (length, scale) in [(1, 1.0), (2, 3.0), (15, 2.0), (16, 0.1), (33, 6.0), (500, 2.0)] {
                let x = rng.normals(length, scale);
                check(&plan, &row(&x), "normal");
            }
        }
    }
}

/// Rows whose model distribution does not underflow, so that textbook formulas can check them.
#[test]
fn ties_and_denormals() {
    let rows = [
        vec![2.0; 100],
        vec![1.0, 5.0, 5.0, 5.0, 0.0, 5.0, -3.0],
        (0..50).map(|i| f64::from(i % 2)).collect(),
        vec![5e-324, 0.0, -5e-324, 1e-310, -0.0],
        vec![1.0, 1.0 + f64::EPSILON, 1.0 - f64::EPSILON, 1.0],
        (0..60).map(|i| -0.5_f64.powi(i)).collect(),
        vec![0.0, -INF, 1.0, -INF],
    ];
    for terms in sums() {
        for cap in [1.0, 0.3] {
            for x in &rows {
                check(&sum(&terms, cap), &row(x), "ties");
            }
        }
    }
}

/// Anything finite has a distribution, or says that none has been found exactly.
#[test]
fn adversarial_rows_have_distributions() {
    for (name, x) in adversarial() {
        for terms in sums() {
            for cap in [1.0, 0.5, 0.03] {
                let solution = solve(&sum(&terms, cap), &row(&x));
                if (x.len() as f64) * cap < 1.0 {
                    assert_eq!(solution.outcome.status, Status::Infeasible);
                    assert!(solution.face.is_empty() && solution.outcome.threshold.is_nan());
                    continue;
                }
                assert!(solution.outcome.status.is_solved());
                let total: f64 = solution.q.iter().sum();
                assert!((total - 1.0).abs() <= 1e-11, "{name} {terms:?} {cap}: {total}");
                assert!(
                    solution.q.iter().all(|q| (0.0..=cap).contains(q)),
                    "{name} {terms:?} {cap}"
                );
                assert!(!solution.outcome.threshold.is_nan());
            }
        }
    }
}

#[test]
fn anchors_that_underflow() {
    let x = [1.0, 3.0, -2.0, 0.5];
    let anchors = [
        [0.0, -1e200, -1.0, -INF],
        [-1e200, -1e200, -1e200, 0.0],
        [-800.0, 0.0, -1e30, -2.0],
        [0.0, 0.0, 0.0, -1e300],
    ];
    for alpha in [-16.0, -1.0, 0.0, 0.5, 1.0, 1.001, 2.0, 16.0] {
        let kind = TermKind::Divergence {
            alpha,
            anchor: Anchor::Given,
        };
        for anchor in &anchors {
            for cap in [1.0, 0.4] {
                for other in [
                    (TermKind::Entropy, 1e-3),
                    (TermKind::Kl(Anchor::Model), 2.0),
                    (TermKind::Quadratic, 1.0),
                ] {
                    let plan = sum(&[(kind, 1.0), other], cap);
                    let row = Row {
                        anchor: Some(anchor),
                        ..row(&x)
                    };
                    let solution = solve(&plan, &row);
                    assert!(solution.outcome.status.is_solved(), "{alpha} {anchor:?} {cap}");
                    let total: f64 = solution.q.iter().sum();
                    assert!((total - 1.0).abs() <= 1e-11, "{alpha} {anchor:?} {cap}: {total}");
                    let least = anchor.iter().copied().fold(INF, f64::min);
                    if least >= -INF && anchor[3] == -INF {
                        assert_eq!(solution.q[3], 0.0);
                    }
                }
            }
        }
    }
}

/// With the terms of both anchors, against nothing but their own derivatives.
#[test]
fn two_anchors() {
    let mut rng = Rng(9);
    for length in [2, 17, 200] {
        let x = rng.normals(length, 2.0);
        let anchor = rng.normals(length, 2.0);
        let row = Row {
            anchor: Some(&anchor),
            ..row(&x)
        };
        let given = |alpha| TermKind::Divergence {
            alpha,
            anchor: Anchor::Given,
        };
        for terms in [
            vec![(TermKind::Kl(Anchor::Given), 1.0), (TermKind::Kl(Anchor::Model), 0.5)],
            vec![(given(2.0), 1.0), (kinds()[5], 0.5)],
            vec![(given(0.0), 1.0), (kinds()[8], 0.5), (TermKind::Coverage, 0.5)],
            vec![(TermKind::Kl(Anchor::Given), 1.0), (TermKind::Kl(Anchor::Model), -0.5)],
        ] {
            for cap in [1.0, 0.6] {
                check(&sum(&terms, cap), &row, "two anchors");
            }
        }
    }
}

#[test]
fn sums_of_one_are_what_their_own_solvers_find() {
    let mut rng = Rng(12);
    let x = rng.normals(300, 2.0);
    let apart = |terms: &[(TermKind, f64)], objective| {
        let (a, b) = (solve(&sum(terms, 1.0), &row(&x)), solve(&plan(objective), &row(&x)));
        let scalars = |o: &optdecode_core::Outcome| [o.threshold, o.objective, o.entropy, o.kl, o.kept_mass];
        for (a, b) in scalars(&a.outcome).into_iter().zip(scalars(&b.outcome)) {
            assert!((a - b).abs() <= 1e-11 * (1.0 + b.abs()), "{terms:?}: {a} {b}");
        }
        assert!(total_variation(&a.q, &b.q) <= 1e-12, "{terms:?}");
    };
    let tsallis = |alpha| TermKind::Tsallis { alpha };
    let coverage = Coverage {
        beta_bar: 0.5,
        budget: 8,
        weights: Weights::Model,
    };
    apart(&[(TermKind::Entropy, 0.3)], Objective::Softmax { lam: 0.3 });
    apart(
        &[(TermKind::Kl(Anchor::Model), 2.0)],
        Objective::AnchoredSoftmax { lam: 2.0 },
    );
    apart(&[(TermKind::Quadratic, 3.0)], Objective::Quadratic { lam: 3.0 });
    for alpha in [1.01, 1.5, 1.7, 2.0, 3.5] {
        apart(&[(tsallis(alpha), 2.0)], Objective::Tsallis { lam: 2.0, alpha });
    }
    let terms = [(TermKind::Kl(Anchor::Model), 0.4), (TermKind::Coverage, 0.5)];
    apart(&terms, Objective::Coverage { lam: 0.4, coverage });
}

/// Terms that cancel leave a linear objective: the vertex, or the fill.
#[test]
fn linear_objectives_are_filled_in_order() {
    let x = [1.0, 3.0, 3.0, 2.0, -1.0];
    let nothing = [(TermKind::Quadratic, 1.0), (TermKind::Tsallis { alpha: 2.0 }, -1.0)];
    assert_eq!(solve(&sum(&nothing, 1.0), &row(&x)).q, [0.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(
        solve(&sum(&nothing, 0.4), &row(&x)).q,
        [0.0, 0.4, 0.4, 0.19999999999999996, 0.0]
    );
    // One draw covers w q; given weights make the order.
    let mut plan = sum(&[(TermKind::Coverage, 2.0)], 0.4);
    if let Objective::Separable {
        coverage: Some(coverage),
        ..
    } = &mut plan.objective
    {
        (coverage.budget, coverage.weights) = (1, Weights::Array(vec![1.0, 0.0, 0.0, 0.6, 2.0]));
    }
    let solution = solve(&plan, &row(&x));
    // The scores 1 + 2, 3, 3, 2 + 1.2, -1 + 4 come first, of equal ones the logits, then the ids.
    assert_eq!(solution.q, [0.0, 0.4, 0.19999999999999996, 0.4, 0.0]);
    assert_eq!(solution.outcome.threshold, 3.0);
}

/// Tokens of weight 0 have a linear objective beside those that have not.
#[test]
fn linear_tokens_beside_others() {
    let mut rng = Rng(17);
    for case in 0..300 {
        let n = 1 + case % 12;
        let x = rng.normals(n, 1.0);
        let w: Vec<f64> = (0..n)
            .map(|_| if rng.uniform() < 0.5 { 0.0 } else { rng.uniform() })
            .collect();
        for kind in [TermKind::Coverage, TermKind::LogCoverage] {
            let mut plan = sum(&[(kind, 0.5)], [1.0, 0.5, 0.21][case % 3]);
            if let Objective::Separable {
                coverage: Some(coverage),
                ..
            } = &mut plan.objective
            {
                (coverage.budget, coverage.weights) = ([1, 2, 8][case / 3 % 3], Weights::Array(w.clone()));
            }
            check(&plan, &row(&x), "linear");
        }
    }
}

#[test]
fn caps_that_fit_exactly_are_uniform() {
    for n in [1, 3, 7, 49, 1000] {
        let x = Rng(n as u64).normals(n, 5.0);
        for terms in sums() {
            let solution = solve(&sum(&terms, 1.0 / n as f64), &row(&x));
            assert_eq!(solution.outcome.status, Status::Ok);
            assert!(solution.q.iter().all(|q| (q * n as f64 - 1.0).abs() <= 1e-14));
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------ fill

fn fill(cap: f64) -> Plan {
    Plan {
        cap,
        ..plan(Objective::GreedyFill)
    }
}

#[test]
fn fills_are_those_of_a_full_sort() {
    let mut rng = Rng(23);
    for case in 0..400 {
        let n = 1 + case % 60;
        let grid = case % 2 == 0;
        let x: Vec<f64> = rng
            .normals(n, 2.0)
            .iter()
            .map(|x| if grid { x.round() + 0.0 } else { *x }) // not -0, which a sort tells from 0
            .collect();
        let cap = [1.0, 0.5, 0.3, 1.0 / 3.0, 0.1, 0.017][case % 6];
        let solution = solve(&fill(cap), &row(&x));
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
        let (mut rest, mut expected, mut threshold) = (1.0, vec![0.0; n], f64::NAN);
        for &i in &order {
            if rest > 1e-12 {
                threshold = x[i];
                expected[i] = cap.min(rest);
                rest -= expected[i];
            }
        }
        if rest > 1e-12 {
            assert_eq!(solution.outcome.status, Status::Infeasible);
            continue;
        }
        assert!(total_variation(&solution.q, &expected) <= 1e-14, "{n} {cap}");
        assert!((solution.outcome.threshold - threshold).abs() <= 1e-14 * (1.0 + threshold.abs()));
        let objective: f64 = x.iter().zip(&expected).map(|(x, q)| x * q).sum();
        assert!((solution.outcome.objective - objective).abs() <= 1e-12 * (1.0 + objective.abs()));
    }
}

// ----------------------------------------------------------------------------------------------------------------- price

fn priced(kind: TermKind, coefficient: f64, price: f64) -> Plan {
    let base = Term { kind, coefficient };
    Plan {
        anchor: if kind == TermKind::Kl(Anchor::Model) {
            Anchor::Model
        } else {
            Anchor::None
        },
        ..plan(Objective::AdaptiveK { base, price })
    }
}

#[test]
fn the_number_of_tokens_is_the_best_one() {
    let mut rng = Rng(29);
    let tsallis = |alpha| TermKind::Tsallis { alpha };
    let bases = [
        (TermKind::Entropy, Objective::Softmax { lam: 0.8 }),
        (TermKind::Kl(Anchor::Model), Objective::AnchoredSoftmax { lam: 0.8 }),
        (TermKind::Quadratic, Objective::Quadratic { lam: 0.8 }),
        (tsallis(1.5), Objective::Tsallis { lam: 0.8, alpha: 1.5 }),
        (tsallis(1.2), Objective::Tsallis { lam: 0.8, alpha: 1.2 }),
        (tsallis(2.0), Objective::Tsallis { lam: 0.8, alpha: 2.0 }),
        (tsallis(3.0), Objective::Tsallis { lam: 0.8, alpha: 3.0 }),
    ];
    for case in 0..120 {
        let n = [1, 2, 7, 20, 90][case % 5];
        let x: Vec<f64> = match case % 4 {
            0 => rng.normals(n, 0.3),
            1 => rng.normals(n, 2.0).iter().map(|x| x.round()).collect(),
            2 => vec![1.25; n],
            _ => rng.normals(n, 2.0),
        };
        for (kind, objective) in &bases {
            let price = [1e-4, 0.003, 0.02, 0.1, 5.0][(case / 5) % 5] * 1.001;
            let solution = solve(&priced(*kind, 0.8, price), &row(&x));
            let value = |k| {
                let top = supported(objective.clone(), &[(Rule::TopK(k), false)]);
                solve(&top, &row(&x)).outcome.objective - price * k as f64
            };
            let best = (1..=n).map(value).fold(-INF, f64::max);
            let k = solution.face.len();
            assert!(
                (solution.outcome.objective - best).abs() <= 1e-11 * (1.0 + best.abs()),
                "{kind:?} {price} {k}"
            );
            let top = solve(&supported(objective.clone(), &[(Rule::TopK(k), false)]), &row(&x));
            assert_eq!(solution.face, top.face, "{kind:?} {price}");
            assert_eq!(solution.q, top.q, "{kind:?} {price}");
        }
    }
}

#[test]
fn a_token_that_adds_its_price_is_not_kept() {
    // Of equal tokens the second adds log 2 and the third log 3/2 to the sum of exponentials.
    for (price, count) in [(2.0_f64.ln(), 1), (2.0_f64.ln() - 1e-15, 2), (1.5_f64.ln() + 1e-15, 2)] {
        let solution = solve(&priced(TermKind::Entropy, 1.0, price), &row(&[0.0; 3]));
        assert_eq!(solution.face.len(), count, "{price}");
    }
    // 1/4 at k = 1 -> 2, with z = (0, 0): c / 2 * 1/2 * (0 + 1)^2.
    assert_eq!(
        solve(&priced(TermKind::Quadratic, 1.0, 0.25), &row(&[0.0; 2])).face,
        [0]
    );
    assert_eq!(
        solve(&priced(TermKind::Quadratic, 1.0, 0.249), &row(&[0.0; 2])).face,
        [0, 1]
    );
}

// --------------------------------------------------------------------------------------------------------------- targets

fn entropy(q: &[f64]) -> f64 {
    q.iter().filter(|q| **q > 0.0).map(|q| -q * q.ln()).sum()
}

/// The same regulariser m times over.
fn scaled(plan: &Plan, m: f64) -> Plan {
    let objective = match plan.objective.clone() {
        Objective::Softmax { lam } => Objective::Softmax { lam: m * lam },
        Objective::AnchoredSoftmax { lam } => Objective::AnchoredSoftmax { lam: m * lam },
        Objective::Quadratic { lam } => Objective::Quadratic { lam: m * lam },
        Objective::Tsallis { lam, alpha } => Objective::Tsallis { lam: m * lam, alpha },
        Objective::Coverage { lam, coverage } => Objective::Coverage {
            lam: m * lam,
            coverage: Coverage {
                beta_bar: m * coverage.beta_bar,
                ..coverage
            },
        },
        Objective::Separable { terms, coverage } => Objective::Separable {
            terms: terms
                .into_iter()
                .map(|term| Term {
                    coefficient: m * term.coefficient,
                    ..term
                })
                .collect(),
            coverage: coverage.map(|coverage| Coverage {
                beta_bar: m * coverage.beta_bar,
                ..coverage
            }),
        },
        other => other,
    };
    Plan {
        objective,
        target: None,
        ..plan.clone()
    }
}

fn targeted() -> Vec<Plan> {
    let model = Anchor::Model;
    let chi_square = TermKind::Divergence {
        alpha: 2.0,
        anchor: model,
    };
    vec![
        plan(Objective::Softmax { lam: 0.5 }),
        plan(Objective::AnchoredSoftmax { lam: 2.0 }),
        plan(Objective::Quadratic { lam: 1.0 }),
        plan(Objective::Tsallis { lam: 1.0, alpha: 1.5 }),
        plan(Objective::Tsallis { lam: 1.0, alpha: 1.2 }),
        plan(Objective::Tsallis { lam: 1.0, alpha: 3.0 }),
        coverage(0.5, 0.3, 8, Weights::Model),
        supported(Objective::Softmax { lam: 1.0 }, &[(Rule::TopK(9), false)]),
        sum(&[(TermKind::Entropy, 1.0), (TermKind::Quadratic, 1.0)], 1.0),
        sum(&[(TermKind::Kl(model), 1.0), (chi_square, 1.0)], 1.0),
        sum(&[(TermKind::Entropy, 1.0)], 0.3),
        sum(&[(chi_square, 1.0)], 0.3),
    ]
}

#[test]
fn entropies_rise_with_the_multiplier_and_the_smallest_is_found() {
    let mut rng = Rng(41);
    for n in [12, 60] {
        let x = rng.normals(n, 2.0);
        for plan in targeted() {
            let at = |m: f64| entropy(&solve(&scaled(&plan, m), &row(&x)).q);
            let grid: Vec<f64> = (-40..=40).map(|i| at((0.4 * f64::from(i)).exp())).collect();
            assert!(grid.is_sorted_by(|a, b| *a <= b + 1e-12), "{plan:?}");
            let (least, most) = (grid[0], grid[80]);
            for share in [0.05, 0.3, 0.7, 0.95] {
                let h = least + share * (most - least);
                let solution = solve(&towards(Target::Entropy(h), plan.clone()), &row(&x));
                let m = solution.outcome.multiplier;
                assert_eq!(solution.outcome.status, Status::Ok);
                assert!((entropy(&solution.q) - h).abs() <= 3e-12 * h.max(1.0), "{plan:?} {h}");
                assert!(at(m * (1.0 - 1e-6)) < h, "{plan:?} {h}: {m} is not the smallest");
                // All else is that of the problem with this multiplier.
                let known = solve(&scaled(&plan, m), &row(&x));
                assert!(total_variation(&known.q, &solution.q) <= 1e-11);
                for (a, b) in [
                    (known.outcome.threshold, solution.outcome.threshold),
                    (known.outcome.objective, solution.outcome.objective),
                    (known.outcome.kl, solution.outcome.kl),
                ] {
                    assert!((a - b).abs() <= 1e-9 * (1.0 + a.abs()), "{plan:?} {h}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn divergences_are_respected_by_the_smallest_multiplier() {
    let mut rng = Rng(43);
    let given = TermKind::Divergence {
        alpha: 0.5,
        anchor: Anchor::Given,
    };
    for n in [5, 80] {
        let (x, anchor) = (rng.normals(n, 2.0), rng.normals(n, 1.0));
        let log_r = log_softmax(&anchor);
        let log_p = log_softmax(&x);
        let row = Row {
            anchor: Some(&anchor),
            ..row(&x)
        };
        for plan in [
            plan(Objective::AnchoredSoftmax { lam: 1.0 }),
            sum(&[(given, 1.0)], 1.0),
            sum(&[(TermKind::Kl(Anchor::Given), 1.0)], 0.5),
        ] {
            let log_r = if plan.anchor == Anchor::Given { &log_r } else { &log_p };
            let kl = |q: &[f64]| {
                let tokens = q.iter().zip(log_r).filter(|(q, _)| **q > 0.0);
                tokens.map(|(q, log_r)| q * (q.ln() - log_r)).sum::<f64>()
            };
            for most in [1e-3, 0.1, 0.5] {
                let solution = solve(&towards(Target::Divergence(most), plan.clone()), &row);
                let m = solution.outcome.multiplier;
                if m == 0.0 {
                    assert!(kl(&solution.q) <= most);
                    continue;
                }
                assert!((kl(&solution.q) - most).abs() <= 3e-12, "{plan:?} {most}");
                assert!(kl(&solve(&scaled(&plan, m * (1.0 - 1e-6)), &row).q) > most);
            }
        }
    }
}

#[test]
fn ends_of_targets() {
    let softmax = || plan(Objective::Softmax { lam: 1.0 });
    let of = |target, x: &[f64]| solve(&towards(target, softmax()), &row(x));
    // Nothing asked for: the vertex, first of the best.
    let vertex = of(Target::Entropy(0.0), &[1.0, 2.0, 2.0]);
    assert_eq!(vertex.q, [0.0, 1.0, 0.0]);
    let outcome = vertex.outcome;
    assert_eq!(
        (outcome.multiplier, outcome.threshold, outcome.objective),
        (0.0, 2.0, 2.0)
    );
    // Ties at the top have more than is asked for, whatever the multiplier.
    let ties = of(Target::Entropy(0.5), &[1.0, 2.0, 2.0]);
    assert_eq!(ties.q, [0.0, 0.5, 0.5]);
    assert!(ties.outcome.multiplier <= 1e-90);
    // The most there is, and more.
    let most = of(Target::Entropy(3.0_f64.ln()), &[1.0, 2.0, 0.0]);
    assert_eq!(most.outcome.status, Status::Ok);
    assert!(most.q.iter().all(|q| (q - 1.0 / 3.0).abs() <= 1e-6));
    assert_eq!(
        of(Target::Entropy(1.1), &[1.0, 2.0, 0.0]).outcome.status,
        Status::Infeasible
    );
    // Under a cap the fill is the vertex.
    let capped = solve(
        &towards(Target::Entropy(0.6), sum(&[(TermKind::Entropy, 1.0)], 0.5)),
        &row(&[1.0, 2.0, 0.0]),
    );
    assert_eq!(capped.q, [0.5, 0.5, 0.0]);
    // A face has a divergence of its own.
    let face = supported(Objective::AnchoredSoftmax { lam: 1.0 }, &[(Rule::TopK(1), false)]);
    for (most, status) in [(0.1, Status::Infeasible), (0.5, Status::Ok)] {
        let solution = solve(&towards(Target::Divergence(most), face.clone()), &row(&[0.0, 0.5]));
        assert_eq!(solution.outcome.status, status, "{most}");
    }
}

#[test]
fn one_bad_row_harms_no_other() {
    let mut ws = optdecode_core::Workspace::new();
    let good = Rng(3).normals(40, 2.0);
    let bad = [vec![f64::NAN; 3], vec![-INF; 5], vec![1.0]];
    for (name, plan) in family() {
        let expected = solve(&plan, &row(&good));
        for x in &bad {
            solve_row(&plan, &row(x), &mut ws);
            let outcome = solve_row(&plan, &row(&good), &mut ws);
            assert_eq!(outcome, expected.outcome, "{name}");
            assert!(
                ws.face()
                    .iter()
                    .zip(ws.q())
                    .all(|(&id, q)| *q == expected.q[id as usize])
            );
        }
    }
}

// ------------------------------------------------------------------------------------------------------------ properties

fn any_kind() -> impl Strategy<Value = TermKind> {
    let anchored = prop_oneof![Just(Anchor::Model), Just(Anchor::Given)];
    prop_oneof![
        Just(TermKind::Entropy),
        Just(TermKind::Quadratic),
        (1.001..6.0_f64).prop_map(|alpha| TermKind::Tsallis { alpha }),
        anchored.clone().prop_map(TermKind::Kl),
        (-6.0..6.0_f64, anchored.clone()).prop_map(|(alpha, anchor)| TermKind::Divergence { alpha, anchor }),
        (0..3_i32, anchored).prop_map(|(alpha, anchor)| TermKind::Divergence {
            alpha: f64::from(alpha),
            anchor
        }),
        Just(TermKind::Coverage),
        Just(TermKind::LogCoverage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_sum_is_optimal(
        seed in any::<u64>(),
        length in 1_usize..120,
        spread in -3.0..2.0_f64,
        terms in prop::collection::vec((any_kind(), -3.0..3.0_f64), 1..4),
        cap in prop_oneof![Just(1.0), 0.02..1.0_f64],
        budget in prop_oneof![1_u32..4, 4_u32..3000],
        uniform in any::<bool>(),
        grid in any::<bool>(),
    ) {
        let mut rng = Rng(seed);
        let mut covers = false;
        let terms: Vec<_> = terms
            .into_iter()
            .filter(|(kind, _)| !(kind.covers() && std::mem::replace(&mut covers, true)))
            .map(|(kind, size)| (kind, size.exp()))
            .collect();
        let mut x = rng.normals(length, spread.exp());
        if grid {
            x.iter_mut().for_each(|x| *x = x.round());
        }
        let anchor = rng.normals(length, 1.5);
        let mut plan = sum(&terms, cap);
        if let Objective::Separable { coverage: Some(coverage), .. } = &mut plan.objective {
            coverage.budget = budget;
            if uniform {
                coverage.weights = Weights::Uniform;
            }
        }
        let row = Row { anchor: Some(&anchor), ..row(&x) };
        check(&plan, &row, "any");
    }
}
