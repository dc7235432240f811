//! Masks, statuses, what rows bring along, and the scalars that come with them.

mod common;

use common::*;
use half::{bf16, f16};
use optdecode_core::plan::*;
use optdecode_core::row::{Mask, Row, Scores};
use optdecode_core::status::Status;
use optdecode_core::{Workspace, solve_row};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

fn softmax_on(supports: &[Support]) -> Plan {
    Plan {
        supports: supports.to_vec(),
        ..plan(Objective::Softmax { lam: 1.0 })
    }
}

fn tempered(rule: Rule) -> Support {
    Support { rule, raw: false }
}

fn face(plan: &Plan, x: &[f64]) -> Vec<u32> {
    solve(plan, &row(x)).face
}

#[test]
fn masks_forbid_what_they_do_not_cover() {
    let x: Vec<f64> = (0..70).map(f64::from).collect();
    let plan = plan(Objective::Softmax { lam: 1.0 });
    let with = |mask| {
        solve(
            &plan,
            &Row {
                mask: Some(mask),
                ..row(&x)
            },
        )
        .face
    };
    assert_eq!(with(Mask::Bits(&[0b1010, 1 << 31])), [1, 3, 63]);
    assert_eq!(with(Mask::Bits(&[u32::MAX, u32::MAX, u32::MAX])).len(), 70);
    assert_eq!(with(Mask::Bits(&[u32::MAX])).len(), 32);
    assert_eq!(with(Mask::Flags(&[true, false, true])), [0, 2]);
    let closed = solve(
        &plan,
        &Row {
            mask: Some(Mask::Bits(&[0, 0, 0b1100_0000])),
            ..row(&x)
        },
    );
    assert_eq!(closed.outcome.status, Status::Infeasible);
    let listed = Plan {
        allowed: Some(vec![2, 5, 69, 400]),
        ..plan.clone()
    };
    assert_eq!(face(&listed, &x), [2, 5, 69]);
    assert_eq!(
        solve(
            &listed,
            &Row {
                mask: Some(Mask::Bits(&[0b100])),
                ..row(&x)
            }
        )
        .face,
        [2]
    );
}

#[test]
fn statuses() {
    let plan_of = |anchor| Plan {
        anchor,
        ..plan(Objective::AnchoredSoftmax { lam: 1.0 })
    };
    let model = plan_of(Anchor::Model);
    let status = |plan: &Plan, row: Row<'_>| {
        let solution = solve(plan, &row);
        let outcome = solution.outcome;
        let scalars = [
            outcome.threshold,
            outcome.objective,
            outcome.entropy,
            outcome.kl,
            outcome.kept_mass,
        ];
        assert_eq!(outcome.status.is_solved(), !solution.face.is_empty());
        assert_eq!(
            outcome.status.is_solved(),
            scalars.iter().all(|scalar| !scalar.is_nan())
        );
        outcome.status
    };
    assert_eq!(status(&model, row(&[])), Status::Infeasible);
    assert_eq!(status(&model, row(&[-INF, -INF])), Status::Infeasible);
    assert_eq!(status(&model, row(&[1.0, NAN, INF])), Status::NanScores);
    assert_eq!(status(&model, row(&[1.0, INF, -INF])), Status::InfScores);
    assert_eq!(status(&model, row(&[1.0, -INF])), Status::Ok);
    // Excluded tokens are never looked at.
    let flags = [true, false, false];
    assert_eq!(
        status(
            &model,
            Row {
                mask: Some(Mask::Flags(&flags)),
                ..row(&[1.0, NAN, INF])
            }
        ),
        Status::Ok
    );

    let given = plan_of(Anchor::Given);
    let anchored = |anchor: &'static [f64], x: &'static [f64]| Row {
        anchor: Some(anchor),
        ..row(x)
    };
    assert_eq!(
        status(&given, anchored(&[0.0, -INF, -1.0], &[1.0, 2.0, 3.0])),
        Status::Ok
    );
    assert_eq!(
        solve(&given, &anchored(&[0.0, -INF, -1.0], &[1.0, 2.0, 3.0])).face,
        [0, 2]
    );
    assert_eq!(status(&given, anchored(&[0.0, NAN], &[1.0, 2.0])), Status::BadAnchor);
    assert_eq!(status(&given, anchored(&[0.0, INF], &[1.0, 2.0])), Status::BadAnchor);
    assert_eq!(status(&given, anchored(&[0.0, NAN], &[1.0, -INF])), Status::Ok);
    assert_eq!(status(&given, anchored(&[0.0, NAN], &[1.0, NAN])), Status::NanScores);
    assert_eq!(status(&given, anchored(&[-INF, -INF], &[1.0, 2.0])), Status::Infeasible);
    assert_eq!(status(&given, row(&[1.0, 2.0])), Status::BadAnchor);

    let weighted = coverage(1.0, 1.0, 4, Weights::Model);
    for (weights, expected) in [
        ([1.0, -1.0], Status::BadWeights),
        ([1.0, NAN], Status::BadWeights),
        ([1.0, INF], Status::BadWeights),
        ([0.0, 0.0], Status::Ok),
    ] {
        assert_eq!(
            status(
                &weighted,
                Row {
                    weights: Some(&weights),
                    ..row(&[1.0, 2.0])
                }
            ),
            expected
        );
        assert_eq!(
            status(
                &weighted,
                Row {
                    weights: Some(&weights),
                    ..row(&[1.0, -INF])
                }
            ),
            Status::Ok
        );
        assert_eq!(
            status(
                &model,
                Row {
                    weights: Some(&weights),
                    ..row(&[1.0, 2.0])
                }
            ),
            Status::Ok
        );
    }
    let short = coverage(1.0, 1.0, 4, Weights::Array(vec![1.0]));
    assert_eq!(status(&short, row(&[1.0, 2.0])), Status::BadWeights);
}

#[test]
fn rows_bring_their_own_budget_and_weights() {
    let x = [1.0, 0.5, -2.0, 0.0];
    let w = [0.0, 1.0, 3.0, 0.5];
    let own = solve(
        &coverage(0.5, 1.0, 4, Weights::Model),
        &Row {
            weights: Some(&w),
            budget: Some(16),
            ..row(&x)
        },
    );
    let plan = coverage(0.5, 1.0, 16, Weights::Array(w.to_vec()));
    assert_eq!(own.q, solve(&plan, &row(&x)).q);
    // The indicator of a face.
    let on = coverage(0.5, 1.0, 16, Weights::Support(vec![tempered(Rule::TopK(2))]));
    let array = coverage(0.5, 1.0, 16, Weights::Array(vec![1.0, 1.0, 0.0, 0.0]));
    assert_eq!(solve(&on, &row(&x)).q, solve(&array, &row(&x)).q);
}

#[test]
fn weights_and_anchors_are_measured_before_the_face_is_cut() {
    let x = [3.0, 2.0, 1.0, 0.0];
    let log_p = log_softmax(&x);
    let p: Vec<f64> = log_p.iter().map(|l| l.exp()).collect();
    let cut = Plan {
        supports: vec![tempered(Rule::TopK(2))],
        ..coverage(0.5, 1.0, 16, Weights::Model)
    };
    let solution = solve(&cut, &row(&x));
    assert_eq!(solution.face, [0, 1]);
    let oracle = best_of_k(&x[..2], &log_p[..2], 0.5, 1.0, &p[..2], 16.0);
    assert!(total_variation(&solution.q[..2], &oracle) <= 1e-12);
    assert!((solution.outcome.kept_mass - p[0] - p[1]).abs() <= 1e-15);
}

#[test]
fn scalars_of_a_plain_softmax() {
    let x = [0.1_f64, 0.4, 0.2, 0.2, 0.1].map(f64::ln);
    let outcome = solve(&softmax_on(&[tempered(Rule::TopK(2))]), &row(&x)).outcome;
    let (a, b) = (2.0 / 3.0_f64, 1.0 / 3.0_f64);
    assert!((outcome.entropy + a * a.ln() + b * b.ln()).abs() < 1e-15);
    assert!((outcome.kl - (1.0 / 0.6_f64).ln()).abs() < 1e-15);
    assert!((outcome.kept_mass - 0.6).abs() < 1e-15);
    // lam log sum e^l is the value of the problem.
    assert!((outcome.objective - 0.6_f64.ln()).abs() < 1e-15);
    assert!((outcome.threshold - (0.6_f64.ln() - 1.0)).abs() < 1e-15);
    assert_eq!((outcome.iterations, outcome.status), (0, Status::Ok));
}

#[test]
fn widths_widen_exactly() {
    let half: Vec<f16> = [1.5, -2.25, 0.125, 60000.0].map(f16::from_f64).to_vec();
    let brain: Vec<bf16> = half.iter().map(|x| bf16::from_f64(x.to_f64())).collect();
    let single: Vec<f32> = half.iter().map(|x| x.to_f32()).collect();
    let double: Vec<f64> = half.iter().map(|x| x.to_f64()).collect();
    let plan = Plan {
        temperature: 2e4,
        ..plan(Objective::Softmax { lam: 1.0 })
    };
    let of = |scores| solve(&plan, &Row { scores, ..row(&[]) }).q;
    let expected = of(Scores::F64(&double));
    assert_eq!(of(Scores::F16(&half)), expected);
    assert_eq!(of(Scores::F32(&single)), expected);
    let rounded: Vec<f64> = brain.iter().map(|x| x.to_f64()).collect();
    assert_eq!(of(Scores::Bf16(&brain)), of(Scores::F64(&rounded)));
}

#[test]
fn a_workspace_carries_nothing_over() {
    let mut rng = Rng(2);
    let mut ws = Workspace::new();
    let rows: Vec<Vec<f64>> = [40, 3, 200, 1, 40].iter().map(|&n| rng.normals(n, 2.0)).collect();
    let plans = [
        coverage(0.3, 1.0, 8, Weights::Rank),
        coverage(0.0, 1.0, 8, Weights::Uniform),
        plan(Objective::Quadratic { lam: 1.0 }),
        plan(Objective::Tsallis { lam: 1.0, alpha: 3.0 }),
        softmax_on(&[tempered(Rule::TopP(0.8)), tempered(Rule::TopK(5))]),
    ];
    let family: Vec<Plan> = family().into_iter().map(|(_, plan)| plan).collect();
    for x in &rows {
        for plan in plans.iter().chain(&family) {
            let outcome = solve_row(plan, &row(x), &mut ws);
            let mut fresh = Workspace::new();
            let again = solve_row(plan, &row(x), &mut fresh);
            // Debug, where NaN is NaN.
            assert_eq!(format!("{outcome:?}"), format!("{again:?}"));
            assert_eq!(
                (ws.face(), ws.q(), ws.log_q()),
                (fresh.face(), fresh.q(), fresh.log_q())
            );
        }
    }
}
