//! Draws by Best-of-K, exact and by mirror ascent: the distribution of `solve_row`, and the same tokens at every level.

mod common;

use common::*;
use half::bf16;
use optdecode_core::par::Scratch;
use optdecode_core::plan::*;
use optdecode_core::row::{Mask, Row, Scores};
use optdecode_core::sample::{Coupling, draw_tokens};
use optdecode_core::solve::{Wanted, solve_into};
use optdecode_core::{Level, Outcome};
use proptest::prelude::*;

const DRAWS: usize = 300;

/// One row under one plan: draws in bits, and their log-probabilities against the exact ones.
fn check(plan: &Plan, row: &Row<'_>, scratch: &mut Scratch) {
    let exact = solve(plan, row);
    check_written(plan, row, &exact.q, scratch);
    check_whole(plan, row, &exact, scratch);
    let mut first: Option<(Vec<i64>, Vec<u64>)> = None;
    for level in Level::available() {
        let (mut tokens, mut log_probs) = (vec![-7; DRAWS], vec![7.0; DRAWS]);
        let (tokens_out, log_probs_out) = (&mut tokens[..], &mut log_probs[..]);
        let coupling = Coupling::Systematic;
        let status = draw_tokens(plan, row, level, 3, 9, coupling, tokens_out, log_probs_out, scratch);
        assert_eq!(status.is_solved(), exact.outcome.status.is_solved(), "{plan:?}");
        if !status.is_solved() {
            assert!(tokens.iter().all(|&token| token == -1));
            continue;
        }
        for (&token, &log_prob) in tokens.iter().zip(&log_probs) {
            let error = (log_prob - exact.log_q[token as usize]).abs();
            assert!(error <= 1e-5, "{level:?} {plan:?}: {token} {log_prob} {error}");
        }
        let bits = log_probs.iter().map(|log_prob| log_prob.to_bits()).collect();
        let drawn = (tokens, bits);
        match &first {
            Some(first) => assert!(*first == drawn, "{level:?} {plan:?}"),
            None => {
                check_counts(&drawn.0, &exact.q);
                first = Some(drawn);
            }
        }
    }
}

/// q alone, written to where something else was, and to zeros.
fn check_written(plan: &Plan, row: &Row<'_>, exact: &[f64], scratch: &mut Scratch) {
    let mut first: Option<Vec<u32>> = None;
    for (level, zeroed) in Level::available().flat_map(|level| [(level, false), (level, true)]) {
        let mut probs = vec![if zeroed { 0.0 } else { 7.0 }; exact.len()];
        let mut wanted = Wanted {
            probs: Some(&mut probs[..]),
            zeroed,
            ..Wanted::default()
        };
        if !solve_into(plan, row, level, &mut wanted, &mut scratch.workspace)
            .status
            .is_solved()
        {
            assert!(probs.iter().all(|q| q.is_nan()));
            continue;
        }
        for (&q, &exact) in probs.iter().zip(exact) {
            let error = (f64::from(q) - exact).abs();
            assert!(
                error <= 1e-5 * exact + 2.0_f64.powi(-39),
                "{level:?} {plan:?}: {q} {exact}"
            );
        }
        let bits = probs.iter().map(|q| q.to_bits()).collect();
        match &first {
            Some(first) => assert!(*first == bits, "{level:?} {plan:?}"),
            None => first = Some(bits),
        }
    }
}

/// Everything at once, to where something else was.
fn check_whole(plan: &Plan, row: &Row<'_>, exact: &Solution, scratch: &mut Scratch) {
    let mut first: Option<(Vec<u32>, [u64; 5])> = None;
    for level in Level::available() {
        let v = exact.q.len();
        let (mut probs, mut log_probs, mut face) = (vec![7.0_f32; v], vec![7.0_f32; v], vec![true; v]);
        let mut wanted = Wanted {
            probs: Some(&mut probs),
            log_probs: Some(&mut log_probs),
            face: Some(&mut face),
            scalars: true,
            zeroed: false,
        };
        let outcome = solve_into(plan, row, level, &mut wanted, &mut scratch.workspace);
        assert_eq!(outcome.status, exact.outcome.status);
        if !outcome.status.is_solved() {
            assert!(log_probs.iter().all(|log_q| log_q.is_nan()));
            continue;
        }
        for id in 0..v {
            assert_eq!(
                face[id],
                exact.face.binary_search(&(id as u32)).is_ok(),
                "{plan:?}: {id}"
            );
            let (q, log_q) = (exact.q[id], exact.log_q[id]);
            let error = (f64::from(probs[id]) - q).abs();
            assert!(error <= 1e-5 * q + 2.0_f64.powi(-39), "{plan:?}: {} {q}", probs[id]);
            let error = (f64::from(log_probs[id]) - log_q).abs();
            let holds = error <= 1e-5 + 2e-7 * log_q.abs() || !face[id] && log_probs[id] == f32::NEG_INFINITY;
            assert!(holds, "{level:?} {plan:?}: {} {log_q}", log_probs[id]);
        }
        let found = scalars(&outcome);
        let names = ["threshold", "objective", "entropy", "kl", "kept mass"];
        for ((found, exact), name) in found.into_iter().zip(scalars(&exact.outcome)).zip(names) {
            let slack = 1e-5 * (1.0 + exact.abs()) * lam_of(plan).max(1.0);
            assert!((found - exact).abs() <= slack, "{plan:?}: {name} {found} {exact}");
        }
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let all = ([bits(&probs), bits(&log_probs)].concat(), found.map(f64::to_bits));
        match &first {
            Some(first) => assert!(*first == all, "{level:?} {plan:?}"),
            None => first = Some(all),
        }
    }
}

fn lam_of(plan: &Plan) -> f64 {
    match plan.objective {
        Objective::Coverage { lam, .. } | Objective::Mirror { lam, .. } => lam,
        _ => 0.0,
    }
}

fn scalars(outcome: &Outcome) -> [f64; 5] {
    let &Outcome {
        threshold,
        objective,
        entropy,
        kl,
        kept_mass,
        ..
    } = outcome;
    [threshold, objective, entropy, kl, kept_mass]
}

/// Systematic draws of a token number n q, give or take one; rounding of the bounds may add one more.
fn check_counts(tokens: &[i64], q: &[f64]) {
    let mut counts = std::collections::HashMap::new();
    tokens
        .iter()
        .for_each(|&token| *counts.entry(token as usize).or_insert(0) += 1);
    for (id, &q) in q.iter().enumerate().filter(|(_, q)| **q > 1e-3) {
        let count = f64::from(*counts.get(&id).unwrap_or(&0));
        assert!((count - q * tokens.len() as f64).abs() <= 2.0, "{id} {q} {count}");
    }
}

fn plans() -> Vec<Plan> {
    let mut plans = vec![];
    for weights in [Weights::Model, Weights::Uniform] {
        for (lam, beta_bar, budget) in [
            (0.2, 0.004, 8),
            (0.2, 0.004, 4),
            (0.2, 0.004, 64),
            (1.0, 0.5, 8),
            (1.0, 0.5, 2),
            (1.0, 1.0, 3),
            (0.3, 3.0, 64),
            (0.05, 0.0, 8),
            (2.0, 0.02, 10_000),
            (1.0, 0.5, 1),
        ] {
            plans.push(coverage(lam, beta_bar, budget, weights.clone()));
        }
    }
    let steps = [
        (5, None),
        (1, None),
        (5, Some(1.0)),
        (20, None),
        (7, Some(0.3)),
        (3, Some(9.0)),
    ];
    for (i, (steps, eta)) in steps.into_iter().enumerate() {
        // One with weights p, one with weights 1.
        for base in [[0, 3, 5, 7, 1, 3][i], [13, 10, 13, 14, 15, 19][i]] {
            plans.push(mirror(&plans[base], steps, eta));
        }
    }
    let rules = [Rule::TopK(20), Rule::TopP(0.9), Rule::MinP(1e-3), Rule::Epsilon(1e-3)];
    for i in 0..plans.len() {
        let supports = rules.iter().skip(i % 4).step_by(2);
        plans.push(Plan {
            temperature: [0.7, 1.5][i % 2],
            score_weight: [1.0, 0.0, 0.4][i % 3],
            raw_scores: i % 5 == 0,
            supports: match i % 3 {
                0 => supports.map(|&rule| Support { rule, raw: false }).collect(),
                _ => vec![],
            },
            ..plans[i].clone()
        });
    }
    plans
}

/// The same problem by mirror ascent.
fn mirror(plan: &Plan, steps: u32, eta: Option<f64>) -> Plan {
    let Objective::Coverage { lam, coverage } = plan.objective.clone() else {
        unreachable!("the others are no Best-of-K");
    };
    Plan {
        objective: Objective::Mirror {
            lam,
            coverage,
            steps,
            eta,
            tolerance: None,
        },
        ..plan.clone()
    }
}

fn check_widths(plans: &[Plan], x: &[f64], scratch: &mut Scratch) {
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
    let flags: Vec<bool> = (0..x.len()).map(|i| i % 7 != 2).collect();
    for (scores, mask) in [
        (Scores::F32(&single), None),
        (Scores::Bf16(&brain), Some(Mask::Flags(&flags))),
    ] {
        let row = Row {
            scores,
            mask,
            ..row(&[])
        };
        plans.iter().for_each(|plan| check(plan, &row, scratch));
    }
}

#[test]
fn rows_of_many_kinds() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(4));
    for length in [1, 2, 17, 64, 1000, 1025, 4000] {
        for spread in [0.0, 0.5, 3.0, 12.0] {
            check_widths(&plans(), &rng.normals(length, spread), &mut scratch);
        }
    }
}

#[test]
fn large_rows() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(8));
    let length = 15_000;
    let flat = rng.normals(length, 0.5);
    let mut peaked = flat.clone();
    peaked[13_333] = 9.0;
    let mut tail = rng.normals(length, 1.5);
    (0..900).for_each(|rank| tail[(rank * 7919) % length] = 14.0 - 1.2 * (1.0 + rank as f64).ln());
    let rounded = flat.iter().map(|x| (x * 4.0).round() / 4.0).collect();
    for x in [flat, peaked, tail, rounded, vec![0.5; length]] {
        check_widths(&plans()[..40], &x, &mut scratch);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_problem(
        seed in any::<u64>(),
        length in 1_usize..3000,
        spread in -3.0..2.5_f64,
        lam in -3.0..1.5_f64,
        beta_bar in -6.0..2.0_f64,
        budget in 2_u32..200,
        uniform in any::<bool>(),
        weight in 0.0..2.0_f64,
        temperature in -1.0..1.0_f64,
        shift in prop_oneof![Just(0.0), -2000.0..2000.0_f64],
        steps in 1_u32..30,
        eta in prop_oneof![Just(None), (-3.0..1.0_f64).prop_map(|eta| Some(eta.exp()))],
    ) {
        let mut x = Rng(seed).normals(length, spread.exp());
        x.iter_mut().for_each(|x| *x += shift);
        let weights = if uniform { Weights::Uniform } else { Weights::Model };
        let plan = Plan {
            temperature: temperature.exp(),
            score_weight: weight,
            ..coverage(lam.exp(), beta_bar.exp(), budget, weights)
        };
        let ascent = mirror(&plan, steps, eta);
        check_widths(&[plan, ascent], &x, &mut Scratch::default());
    }
}

/// Where Newton would stand still with every probability of the head at its bound.
#[test]
fn a_start_far_from_the_root() {
    let x = Rng(14_332_260_232_776_828_684).normals(2556, 1.972_204_449_102_268_8_f64.exp());
    let plan = Plan {
        temperature: 2.063_515_889_508_189_5,
        score_weight: 1.550_147_395_140_597_5,
        ..coverage(2.192_690_185_688_653_6, 4.200_898_589_856_518, 5, Weights::Uniform)
    };
    check_widths(&[plan], &x, &mut Scratch::default());
}

/// The head of weights 1 begins where the terms of q say, even if those of p were summed.
#[test]
fn a_support_that_keeps_every_token() {
    let mut plan = coverage(0.2, 0.004, 8, Weights::Uniform);
    plan.supports = [Rule::TopP(1.0), Rule::MinP(0.0)]
        .map(|rule| Support { rule, raw: false })
        .to_vec();
    let x = Rng(9).normals(15_000, 0.5);
    check_widths(&[plan], &x, &mut Scratch::default());
}

#[test]
fn adversarial_rows() {
    let mut scratch = Scratch::default();
    for (_, x) in adversarial() {
        let long: Vec<f64> = x
            .iter()
            .copied()
            .cycle()
            .take(x.len().max(150 + x.len() % 64))
            .collect();
        let mut holes = long.clone();
        holes.iter_mut().step_by(3).for_each(|x| *x = f64::NEG_INFINITY);
        for x in [long, holes] {
            check_widths(&plans()[..32], &x, &mut scratch);
        }
    }
}

/// A steep row whose head has tokens of next to no probability: their log q is told all the same.
#[test]
fn a_head_with_tokens_of_no_mass() {
    for seed in 0..40 {
        for spread in [0.74_f64, 3.0, 9.0] {
            let plan = Plan {
                temperature: 0.37,
                score_weight: 0.711,
                ..coverage(0.0517, 0.01034, 2, Weights::Model)
            };
            let mut x = Rng(seed).normals(414, spread);
            x.iter_mut().for_each(|x| *x += 450.158);
            check_widths(&[plan], &x, &mut Scratch::default());
        }
    }
}
