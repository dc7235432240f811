//! Draws from candidates: the same tokens, log-probabilities and statuses as from the whole distribution, bit for bit, at
//! every level of this machine.

mod common;

use common::*;
use half::{bf16, f16};
use optdecode_core::par::Scratch;
use optdecode_core::plan::*;
use optdecode_core::row::{Mask, Row, Scores};
use optdecode_core::sample::{Coupling, draw_row, draw_tokens};
use optdecode_core::{Level, Status, Workspace, solve_for_draw, solve_row};
use proptest::prelude::*;

const INF: f64 = f64::INFINITY;

fn tempered(rule: Rule) -> Support {
    Support { rule, raw: false }
}

fn drawn(ws: &Workspace) -> (Vec<i64>, Vec<u64>) {
    let (mut tokens, mut log_probs) = (vec![0; 40], vec![0.0; 40]);
    let (tokens_out, log_probs_out) = (&mut tokens[..], &mut log_probs[..]);
    let (face, q, log_q) = (ws.face(), ws.q(), ws.log_q());
    let coupling = Coupling::Iid;
    draw_row(face, q, log_q, 7, 3, coupling, tokens_out, log_probs_out, &mut vec![]);
    (tokens, log_probs.into_iter().map(f64::to_bits).collect())
}

/// The tokens with probability (underflowed or not), their q and log q, in bits.
fn positive(ws: &Workspace) -> Vec<(u32, u64, u64)> {
    let tokens = ws.face().iter().zip(ws.q()).zip(ws.log_q());
    tokens
        .filter(|(_, log_q)| **log_q > -INF)
        .map(|((id, q), log_q)| (*id, q.to_bits(), log_q.to_bits()))
        .collect()
}

/// One row under one plan, at every level, against `solve_row`.
fn check(plan: &Plan, row: &Row<'_>, ws: &mut [Workspace; 2]) {
    let [expected, found] = ws;
    let status = solve_row(plan, row, expected).status;
    for level in Level::available() {
        assert_eq!(solve_for_draw(plan, row, level, found), status, "{level:?} {plan:?}");
        assert_eq!(positive(found), positive(expected), "{level:?} {plan:?}");
        assert_eq!(drawn(found), drawn(expected), "{level:?} {plan:?}");
        assert!(found.face().is_sorted_by(|a, b| a < b));
        assert_eq!(found.face().len(), found.q().len());
    }
}

/// All widths of a row, with no mask and masks of both kinds.
fn check_row(plans: &[Plan], x: &[f64], flags: &[bool], ws: &mut [Workspace; 2]) {
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let half: Vec<f16> = x.iter().map(|&x| f16::from_f64(x)).collect();
    let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
    let mut words = vec![0_u32; flags.len().div_ceil(32)];
    for (i, &flag) in flags.iter().enumerate() {
        words[i / 32] |= u32::from(flag) << (i % 32);
    }
    for scores in [
        Scores::F64(x),
        Scores::F32(&single),
        Scores::F16(&half),
        Scores::Bf16(&brain),
    ] {
        for mask in [None, Some(Mask::Flags(flags)), Some(Mask::Bits(&words))] {
            let row = Row {
                scores,
                mask,
                ..row(&[])
            };
            plans.iter().for_each(|plan| check(plan, &row, ws));
        }
    }
}

/// Every plan with a reach, and some without.
fn plans() -> Vec<Plan> {
    let of = |objective, supports: &[Support]| Plan {
        supports: supports.to_vec(),
        ..plan(objective)
    };
    let softmax = Objective::Softmax { lam: 1.0 };
    let tsallis = |alpha| Objective::Tsallis { lam: 1.0, alpha };
    let top_k = |k| tempered(Rule::TopK(k));
    let min_p = |rho| tempered(Rule::MinP(rho));
    let raw_min_p = Support {
        rule: Rule::MinP(0.05),
        raw: true,
    };
    let mut plans = vec![
        of(Objective::Argmax, &[]),
        of(Objective::Argmax, &[top_k(3), tempered(Rule::TopP(0.5))]),
        of(softmax.clone(), &[]),
        of(softmax.clone(), &[min_p(0.0)]),
        of(softmax.clone(), &[top_k(5), tempered(Rule::TopP(0.9))]),
        of(softmax.clone(), &[raw_min_p, top_k(7)]),
        of(softmax.clone(), &[min_p(0.05), top_k(50), top_k(20)]),
        of(Objective::Quadratic { lam: 1.0 }, &[]),
        of(Objective::Quadratic { lam: 1e-3 }, &[]),
        of(Objective::Quadratic { lam: 1e-300 }, &[]),
        of(Objective::Quadratic { lam: 3.0 }, &[top_k(4)]),
        of(Objective::Quadratic { lam: 3.0 }, &[top_k(2), min_p(0.3)]),
        of(tsallis(1.5), &[]),
        of(tsallis(1.5), &[min_p(0.3)]),
        of(tsallis(1.5), &[top_k(40)]),
        of(tsallis(1.5), &[tempered(Rule::TopP(0.9))]),
        of(tsallis(1.01), &[]),
        of(tsallis(1.2), &[min_p(0.1), top_k(9)]),
        of(tsallis(1.7), &[]),
        of(tsallis(2.0), &[]),
        of(tsallis(3.5), &[]),
        of(tsallis(50.0), &[top_k(6)]),
    ];
    plans.extend([1, 2, 3, 50, 400, 1 << 40].map(|k| of(softmax.clone(), &[top_k(k)])));
    plans.extend([1e-9, 0.05, 0.5, 1.0, 1.5, f64::NAN].map(|rho| of(softmax.clone(), &[min_p(rho)])));
    let base = plans.len();
    for i in 0..base {
        let (temperature, score_weight) = [(0.7, 1.0), (2.5, 0.3), (1e-3, 4.0)][i % 3];
        plans.push(Plan {
            temperature,
            score_weight,
            raw_scores: i % 2 == 0,
            ..plans[i].clone()
        });
    }
    plans.push(Plan {
        score_weight: -1.0,
        ..plans[0].clone()
    });
    plans.push(Plan {
        score_weight: 0.0,
        ..of(Objective::Quadratic { lam: 1.0 }, &[])
    });
    plans.push(Plan {
        allowed: Some(vec![1, 3, 64, 70]),
        ..of(softmax, &[top_k(2)])
    });
    plans
}

/// The general family, and targets and caps beside what plans without them have a short way for.
fn constrained_plans() -> Vec<Plan> {
    let mut plans: Vec<Plan> = family().into_iter().map(|(_, plan)| plan).collect();
    let anchored = plan(Objective::AnchoredSoftmax { lam: 1.0 });
    let mirrored = plan(Objective::Softmax { lam: 1.0 });
    for base in [anchored, mirrored, plan(Objective::Tsallis { lam: 1.0, alpha: 1.5 })] {
        for rules in [&[][..], &[tempered(Rule::TopK(7))], &[tempered(Rule::TopP(0.7))]] {
            let supports = rules.to_vec();
            plans.push(towards(
                Target::Entropy(0.7),
                Plan {
                    supports,
                    ..base.clone()
                },
            ));
        }
    }
    plans
}

#[test]
fn constrained_plans_are_drawn_from_as_solved() {
    let (plans, mut ws) = (constrained_plans(), workspaces());
    let mut rng = Rng(31);
    for length in [1, 2, 9, 64, 300, 9000] {
        let x = rng.normals(length, 3.0);
        let flags: Vec<bool> = x.iter().map(|_| rng.uniform() < 0.6).collect();
        check_row(&plans, &x, &flags, &mut ws);
    }
    for (_, x) in adversarial() {
        check_row(&plans, &x, &vec![true; x.len()], &mut ws);
    }
}

fn workspaces() -> [Workspace; 2] {
    [Workspace::new(), Workspace::new()]
}

#[test]
fn adversarial_rows() {
    let (plans, mut ws) = (plans(), workspaces());
    let mut rng = Rng(11);
    for (_, x) in adversarial() {
        let flags: Vec<bool> = x.iter().map(|_| rng.uniform() < 0.6).collect();
        check_row(&plans, &x, &flags, &mut ws);
    }
}

#[test]
fn rows_with_what_is_not_finite() {
    let (plans, mut ws) = (plans(), workspaces());
    for length in [1, 5, 64, 65, 200] {
        for odd in [f64::NAN, INF, -INF] {
            let mut x: Vec<f64> = (0..length).map(|i| f64::from(i % 7)).collect();
            x[length as usize / 2] = odd;
            let flags: Vec<bool> = x.iter().map(|x| x.is_finite()).collect();
            check_row(&plans, &x, &flags, &mut ws);
        }
        let nothing = vec![-INF; length as usize];
        check_row(&plans, &nothing, &vec![true; length as usize], &mut ws);
        check_row(&plans, &nothing, &vec![false; length as usize], &mut ws);
    }
}

#[test]
fn lengths_around_blocks() {
    let (plans, mut ws) = (plans(), workspaces());
    let mut rng = Rng(5);
    for length in (1..70).chain([127, 128, 129, 255, 256, 257, 300]) {
        let x = rng.normals(length, 4.0);
        // Masks shorter than the row, too.
        let flags: Vec<bool> = (0..length.saturating_sub(length % 5))
            .map(|_| rng.uniform() < 0.5)
            .collect();
        check_row(&plans, &x, &flags, &mut ws);
    }
}

#[test]
fn large_rows() {
    let (plans, mut ws) = (plans(), workspaces());
    let mut rng = Rng(3);
    let length = 20_011;
    let flags: Vec<bool> = (0..length).map(|i| i % 1000 < 3).collect();
    let mut masked = rng.normals(length, 3.0);
    masked[777] = f64::NAN;
    let rounded = rng
        .normals(length, 1.0)
        .iter()
        .map(|x| (4.0 * x).round() / 4.0)
        .collect();
    let rows: [Vec<f64>; 5] = [
        rng.normals(length, 0.5),
        rng.normals(length, 6.0),
        rounded,
        vec![1.25; length],
        masked,
    ];
    for x in rows {
        check_row(&plans, &x, &flags, &mut ws);
    }
}

/// Scores of many kinds: few levels, so that ties abound, ordinary ones, extremes.
fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-8_i32..8).prop_map(f64::from),
        6 => -20.0..20.0,
        1 => Just(-INF),
        1 => prop::sample::select(vec![0.0, -0.0, 5e-324, -1e-310, 1e-40, 1e30, -1e30, 6e4, 1e300, -1e300]),
    ]
}

fn plan_strategy() -> impl Strategy<Value = Plan> {
    let support = prop_oneof![
        (1_usize..80).prop_map(Rule::TopK),
        (-12.0..0.1_f64).prop_map(|x| Rule::MinP(x.exp())),
    ];
    let supports = prop::collection::vec((support, any::<bool>()), 0..3);
    let lam = || (-5.0..3.0_f64).prop_map(f64::exp);
    let objective = prop_oneof![
        Just(Objective::Argmax),
        lam().prop_map(|lam| Objective::Softmax { lam }),
        lam().prop_map(|lam| Objective::Quadratic { lam }),
        (lam(), 1.05..6.0_f64).prop_map(|(lam, alpha)| Objective::Tsallis { lam, alpha }),
        lam().prop_map(|lam| Objective::Tsallis { lam, alpha: 1.5 }),
    ];
    (objective, supports, -2.0..2.0_f64, -2.0..2.0_f64, any::<bool>()).prop_map(
        |(objective, supports, temperature, weight, raw_scores)| Plan {
            temperature: temperature.exp(),
            score_weight: weight.exp(),
            raw_scores,
            supports: supports.into_iter().map(|(rule, raw)| Support { rule, raw }).collect(),
            ..plan(objective)
        },
    )
}

/// Chains whose first rule says which tokens the others are measured on.
fn chain_strategy() -> impl Strategy<Value = Plan> {
    let unit = || 0.01..1.0_f64;
    let later = prop_oneof![
        unit().prop_map(Rule::TopP),
        unit().prop_map(Rule::MinP),
        (0.01..0.3_f64).prop_map(Rule::Epsilon),
        (0.01..0.3_f64).prop_map(Rule::Eta),
        Just(Rule::PLess),
        (0.1..2.0_f64).prop_map(Rule::TopNSigma),
        (1_usize..80).prop_map(Rule::TopK),
    ];
    let later = prop::collection::vec((later, any::<bool>()), 1..4);
    (1_usize..80, later, -2.0..2.0_f64).prop_map(|(k, later, temperature)| Plan {
        temperature: temperature.exp(),
        ..chained(
            Objective::Softmax { lam: 1.0 },
            &[vec![(Rule::TopK(k), false)], later].concat(),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_chain(
        x in prop::collection::vec(score(), 1..400),
        flags in prop::collection::vec(any::<bool>(), 1..400),
        plan in chain_strategy(),
    ) {
        check_row(&[plan], &x, &flags, &mut workspaces());
    }

    #[test]
    fn any_row(
        x in prop::collection::vec(score(), 1..400),
        flags in prop::collection::vec(any::<bool>(), 1..400),
        plan in plan_strategy(),
    ) {
        check_row(&[plan], &x, &flags, &mut workspaces());
    }
}

/// Sparse plans, with what may be said besides.
fn sparse_plans() -> Vec<Plan> {
    let tsallis = |lam, alpha| Objective::Tsallis { lam, alpha };
    let quadratic = |lam| Objective::Quadratic { lam };
    let mut plans = vec![];
    for objective in [
        quadratic(1.0),
        quadratic(0.03),
        quadratic(40.0),
        tsallis(1.0, 1.5),
        tsallis(0.1, 1.5),
        tsallis(20.0, 1.5),
        tsallis(1.0, 2.0),
        tsallis(1.0, 1.7),
        tsallis(0.3, 1.3),
        tsallis(1.0, 2.5),
    ] {
        for (temperature, rules) in [
            (1.0, &[][..]),
            (0.6, &[Rule::MinP(0.2)]),
            (3.0, &[Rule::MinP(0.9)]),
            (1.0, &[Rule::MinP(f64::NAN)]),
            (1.0, &[Rule::TopK(700), Rule::MinP(0.1)]),
        ] {
            plans.push(Plan {
                temperature,
                supports: rules.iter().map(|&rule| tempered(rule)).collect(),
                ..plan(objective.clone())
            });
        }
    }
    plans
}

#[test]
fn flat_rows() {
    let (plans, mut ws) = (sparse_plans(), workspaces());
    let mut rng = Rng(21);
    for (length, spread) in [
        (2, 0.5),
        (63, 0.1),
        (64, 0.5),
        (65, 0.5),
        (130, 0.1),
        (1000, 0.5),
        (17_000, 0.5),
    ] {
        let flags: Vec<bool> = (0..length).map(|_| rng.uniform() < 0.3).collect();
        check_row(&plans, &rng.normals(length, spread), &flags, &mut ws);
    }
}

#[test]
fn flat_rows_with_ties() {
    let (plans, mut ws) = (sparse_plans(), workspaces());
    let mut rng = Rng(22);
    for length in [64, 65, 700] {
        let flags: Vec<bool> = (0..length).map(|_| rng.uniform() < 0.8).collect();
        let grid = |step: f64, x: f64| (x / step).round() * step;
        let all_equal = vec![-7.25; length];
        let levels = (0..length).map(|i| (i * 31 % 8) as f64 / 8.0).collect();
        // Where thresholds fall on scores: 1, 1/2 and 1/4 more than these have sums of one.
        let few = (0..length).map(|i| [-0.5, 0.0, -0.25, -1.0][i.min(3)]).collect();
        let rounded = rng.normals(length, 0.5).iter().map(|&x| grid(0.125, x)).collect();
        // Best tokens next to each other, in few blocks.
        let slope = (0..length).map(|i| -(i as f64) / 500.0).collect();
        for x in [all_equal, levels, few, rounded, slope] {
            check_row(&plans, &x, &flags, &mut ws);
        }
    }
}

#[test]
fn many_first_tokens() {
    // More than a bound can be found for, and more than can be drawn from by terms.
    let x: Vec<f32> = Rng(2).normals(50_000, 1.0).iter().map(|&x| x as f32).collect();
    let scores = Scores::F32(&x);
    let row = Row { scores, ..row(&[]) };
    let plan = Plan {
        supports: vec![tempered(Rule::TopK(40_000))],
        ..plan(Objective::Softmax { lam: 1.0 })
    };
    let (mut ws, mut scratch) = (Workspace::new(), Scratch::default());
    solve_row(&plan, &row, &mut ws);
    for level in Level::available() {
        let (mut tokens, mut log_probs) = (vec![0; 40], vec![0.0; 40]);
        draw_tokens(
            &plan,
            &row,
            level,
            7,
            3,
            Coupling::Iid,
            &mut tokens,
            &mut log_probs,
            &mut scratch,
        );
        let log_probs = log_probs.into_iter().map(f64::to_bits).collect();
        assert_eq!((tokens, log_probs), drawn(&ws));
    }
}

#[test]
fn sparse_faces_are_short() {
    // That candidates are used at all shows in the face, which keeps no far token.
    let x: Vec<f32> = Rng(1).normals(5000, 4.0).iter().map(|&x| x as f32).collect();
    let row = Row {
        scores: Scores::F32(&x),
        ..row(&[])
    };
    let mut ws = Workspace::new();
    for level in Level::available() {
        for objective in [
            Objective::Argmax,
            Objective::Quadratic { lam: 1.0 },
            Objective::Tsallis { lam: 1.0, alpha: 1.5 },
        ] {
            assert_eq!(solve_for_draw(&plan(objective), &row, level, &mut ws), Status::Ok);
            assert!(ws.face().len() < 50);
        }
    }
}

#[test]
fn sparse_faces_of_flat_rows_are_short() {
    let x: Vec<f32> = Rng(1).normals(100_000, 0.5).iter().map(|&x| x as f32).collect();
    let scores = Scores::F32(&x);
    let row = Row { scores, ..row(&[]) };
    let tsallis = |alpha| Objective::Tsallis { lam: 1.0, alpha };
    let mut ws = Workspace::new();
    for level in Level::available() {
        for (objective, most) in [
            (Objective::Quadratic { lam: 1.0 }, 30),
            (tsallis(1.5), 200),
            (tsallis(1.7), 300),
            (tsallis(1.3), 20_000),
        ] {
            assert_eq!(solve_for_draw(&plan(objective), &row, level, &mut ws), Status::Ok);
            assert!(ws.face().len() < most, "{}", ws.face().len());
        }
    }
}
