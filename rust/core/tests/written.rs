//! Whole distributions as `solve_into` writes them, against those of `solve_row` in f64, at every level of this machine.

mod common;

use common::*;
use optdecode_core::plan::*;
use optdecode_core::row::{Row, Scores};
use optdecode_core::solve::{Wanted, solve_into, solve_whole_into};
use optdecode_core::{Level, Outcome, Status, Workspace};
use proptest::prelude::*;

/// What was written; it starts as something that must not be left anywhere.
#[derive(Debug)]
struct Written {
    probs: Vec<f32>,
    log_probs: Vec<f32>,
    face: Vec<bool>,
    outcome: Outcome,
}

impl Written {
    fn new(plan: &Plan, row: &Row<'_>, level: Level, ws: &mut Workspace) -> Self {
        let v = row.scores.len();
        let (mut probs, mut log_probs) = (vec![7.0; v], vec![7.0; v]);
        let mut face: Vec<bool> = (0..v).map(|i| i % 2 == 0).collect();
        let mut wanted = Wanted {
            probs: Some(&mut probs),
            log_probs: Some(&mut log_probs),
            face: Some(&mut face),
            scalars: true,
            zeroed: false,
        };
        let outcome = solve_into(plan, row, level, &mut wanted, ws);
        Written {
            probs,
            log_probs,
            face,
            outcome,
        }
    }

    fn bits(&self) -> (Vec<u32>, Vec<u32>, &[bool], [u64; 5]) {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
        (
            bits(&self.probs),
            bits(&self.log_probs),
            &self.face,
            scalars(&self.outcome).map(f64::to_bits),
        )
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

/// One row under one plan.
fn check(plan: &Plan, row: &Row<'_>, ws: &mut Workspace) {
    let expected = solve(plan, row);
    let found = Written::new(plan, row, Level::SCALAR, ws);
    for level in Level::available() {
        let other = Written::new(plan, row, level, ws);
        assert_eq!(found.bits(), other.bits(), "{level:?} {plan:?}");
    }
    check_alone(plan, row, &found, ws);
    let outcome = &found.outcome;
    assert_eq!(
        (outcome.status, outcome.iterations),
        (expected.outcome.status, expected.outcome.iterations),
        "{plan:?}"
    );
    if !outcome.status.is_solved() {
        assert!(found.probs.iter().chain(&found.log_probs).all(|q| q.is_nan()));
        assert!(scalars(outcome).iter().all(|scalar| scalar.is_nan()));
        assert!(found.face.iter().all(|&face| !face));
        return;
    }
    check_tokens(plan, row, &expected, &found);
    check_scalars(plan, row, &expected, &found);
}

/// What is written by itself, to fresh memory, is the same.
fn check_alone(plan: &Plan, row: &Row<'_>, found: &Written, ws: &mut Workspace) {
    let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    // Without a face, and from a sparse optimum on a face, other ways may be open.
    let close = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs() || a.is_nan())
    };
    let mut zeros = vec![0.0; found.probs.len()];
    let mut wanted = Wanted {
        probs: Some(&mut zeros),
        zeroed: true,
        ..Wanted::default()
    };
    let outcome = solve_into(plan, row, Level::best(), &mut wanted, ws);
    assert_eq!(outcome.status, found.outcome.status);
    assert!(scalars(&outcome).iter().all(|scalar| scalar.is_nan()));
    let softmax = matches!(
        plan.objective,
        Objective::Softmax { .. } | Objective::AnchoredSoftmax { .. }
    );
    let equal = if softmax { same } else { close };
    assert!(equal(&zeros, &found.probs), "{plan:?}");
}

/// Tokens at the very end of a support that is about sums may be in it or not, and the others have what they leave.
fn check_tokens(plan: &Plan, row: &Row<'_>, expected: &Solution, found: &Written) {
    let x = widened(row.scores);
    let on = |id: u32| found.face[id as usize];
    let mut missing = vec![true; x.len()];
    expected.face.iter().for_each(|&id| missing[id as usize] = false);
    let scores = || expected.face.iter().map(|&id| x[id as usize]);
    let (least, top) = (
        scores().fold(f64::INFINITY, f64::min),
        scores().fold(f64::NEG_INFINITY, f64::max),
    );
    let ends = 4e-6 * plan.temperature.max(1.0) + 1e-15 * least.abs();
    // A typical set has an end above, too.
    let is_band = plan
        .supports
        .iter()
        .any(|support| matches!(support.rule, Rule::Typical(_)));
    let at_end = |x: f64| (x - least).abs() <= ends || is_band && (x - top).abs() <= ends;
    let (mut lost, mut gained) = (0.0, 0.0);
    for id in 0..x.len() as u32 {
        let i = id as usize;
        if on(id) == missing[i] {
            assert!(
                at_end(x[i]) || is_at_top_h(plan, row, id),
                "{plan:?}: {id} of {} in {least}..{top}",
                x[i]
            );
            lost += if missing[i] { 0.0 } else { expected.q[i] };
            gained += if missing[i] { f64::from(found.probs[i]) } else { 0.0 };
        }
    }
    let moved = lost + gained;
    for i in 0..x.len() {
        let (q, log_q) = (f64::from(found.probs[i]), f64::from(found.log_probs[i]));
        if !found.face[i] {
            assert_eq!((q, log_q), (0.0, f64::NEG_INFINITY));
        } else if !missing[i] {
            let (exact, log_exact) = (expected.q[i], expected.log_q[i]);
            let error = (q - exact).abs();
            assert!(
                error <= (3e-6 + 2.0 * moved) * exact + 2.0_f64.powi(-40),
                "{plan:?}: {i} {q} {exact}"
            );
            let lowest = log_exact.min(x[i] - top);
            if lowest < f64::from(f32::MIN) {
                assert_eq!(log_q, f64::NEG_INFINITY, "{plan:?}: {i} {log_exact}");
            } else if lowest > f64::from(f32::MIN) * (1.0 - 2e-6) {
                let error = (log_q - log_exact).abs();
                assert!(
                    error <= 2e-6 + 2.0 * moved + 2e-7 * log_exact.abs(),
                    "{plan:?}: {i} {log_q} {log_exact}"
                );
            }
        }
    }
}

fn check_scalars(plan: &Plan, row: &Row<'_>, expected: &Solution, found: &Written) {
    let differing = (0..row.scores.len())
        .filter(|&i| found.face[i] != expected.face.binary_search(&(i as u32)).is_ok())
        .collect::<Vec<_>>();
    let moved: f64 = if differing.is_empty() {
        0.0
    } else {
        let model = Plan {
            temperature: plan.temperature,
            ..supported(Objective::Softmax { lam: 1.0 }, &[])
        };
        let p = solve(&model, row).q;
        let mass = |&i: &usize| p[i].max(expected.q[i]).max(f64::from(found.probs[i]));
        differing.iter().map(mass).sum()
    };
    // What is large cancels in them: linear terms, and the offset.
    let unit = 1.0 + plan.score_weight.abs();
    let names = ["threshold", "objective", "entropy", "kl", "kept mass"];
    let pairs = scalars(&found.outcome).into_iter().zip(scalars(&expected.outcome));
    for (name, (found, exact)) in names.iter().zip(pairs) {
        let error = (found - exact).abs();
        let lam = match plan.objective {
            Objective::Softmax { lam } | Objective::AnchoredSoftmax { lam } => lam,
            _ => 1.0,
        };
        let slack = (3e-6 + 30.0 * moved) * unit * lam.max(1.0) + 1e-5 * exact.abs();
        assert!(error <= slack, "{plan:?}: {name} {found} {exact}");
    }
}

fn check_widths(plans: &[Plan], x: &[f64], flags: &[bool], ws: &mut Workspace) {
    in_narrow_widths(x, flags, |row| plans.iter().for_each(|plan| check(plan, row, ws)));
}

/// Every objective with a way of its own, on every support.
fn plans() -> Vec<Plan> {
    let faces: [&[(Rule, bool)]; 20] = [
        &[],
        &[(Rule::TopK(1), false)],
        &[(Rule::TopK(50), false)],
        &[(Rule::TopK(700), false)],
        &[(Rule::MinP(1e-3), false)],
        &[(Rule::MinP(0.3), true)],
        &[(Rule::TopP(0.5), false)],
        &[(Rule::TopP(0.95), false)],
        &[(Rule::TopP(0.999), true), (Rule::TopK(2000), false)],
        &[(Rule::PLess, false)],
        &[(Rule::Epsilon(3e-4), false)],
        &[(Rule::Epsilon(1e-12), true), (Rule::TopP(0.99), false)],
        &[(Rule::Eta(2e-3), false)],
        &[(Rule::TopH(0.4), false)],
        &[(Rule::TopH(0.93), false)],
        &[(Rule::Typical(0.07), false)],
        &[(Rule::Typical(0.93), false)],
        &[(Rule::Typical(0.41), true)],
        &[(Rule::Typical(0.21), true), (Rule::TopP(0.83), false)],
        &[(Rule::TopP(1.0), false)],
    ];
    let mut plans = vec![];
    for rules in faces {
        plans.push(supported(Objective::Softmax { lam: 1.0 }, rules));
        plans.push(supported(Objective::AnchoredSoftmax { lam: 0.7 }, rules));
    }
    plans.extend([
        supported(Objective::Argmax, &[]),
        supported(Objective::Argmax, &[(Rule::TopP(0.9), true)]),
        supported(Objective::Argmax, &[(Rule::Typical(0.23), false)]),
        supported(Objective::Quadratic { lam: 2.0 }, &[(Rule::Typical(0.27), false)]),
        supported(Objective::Quadratic { lam: 2.0 }, &[]),
        supported(Objective::Quadratic { lam: 2.0 }, &[(Rule::TopP(0.6), false)]),
        supported(Objective::Tsallis { lam: 1.0, alpha: 1.5 }, &[]),
        supported(Objective::Tsallis { lam: 3.0, alpha: 1.2 }, &[(Rule::TopK(9), false)]),
        supported(Objective::Tsallis { lam: 1.0, alpha: 2.5 }, &[]),
    ]);
    for i in 0..plans.len() {
        let (temperature, score_weight) = [(0.7, 1.0), (1.8, 0.6), (0.8, 2.0)][i % 3];
        plans.push(Plan {
            temperature,
            score_weight,
            raw_scores: i % 4 == 1,
            ..plans[i].clone()
        });
    }
    let kl = supported(Objective::AnchoredSoftmax { lam: 1.0 }, &[]);
    for score_weight in [0.0, -0.5, -3.0] {
        plans.push(Plan {
            score_weight,
            ..kl.clone()
        });
        plans.push(Plan {
            score_weight,
            ..supported(Objective::Softmax { lam: 1.0 }, &[])
        });
    }
    plans.push(Plan {
        allowed: Some(vec![0, 2]),
        ..kl
    });
    plans.extend(family().into_iter().map(|(_, plan)| plan));
    plans
}

#[test]
fn adversarial_rows() {
    let (mut ws, mut rng) = (Workspace::new(), Rng(4));
    for (_, x) in adversarial() {
        let flags: Vec<bool> = x.iter().map(|_| rng.uniform() < 0.6).collect();
        check_widths(&plans(), &x, &flags, &mut ws);
        // Short rows are solved whole.
        let long: Vec<f64> = x
            .iter()
            .copied()
            .cycle()
            .take(x.len().max(150 + x.len() % 64))
            .collect();
        let flags: Vec<bool> = long.iter().map(|_| rng.uniform() < 0.8).collect();
        check_widths(&plans(), &long, &flags, &mut ws);
    }
}

#[test]
fn rows_without_a_distribution() {
    let mut ws = Workspace::new();
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for (x, status) in [
        ([1.0, nan, inf].repeat(50), Status::NanScores),
        ([1.0, inf, -inf].repeat(50), Status::InfScores),
        (vec![-inf; 170], Status::Infeasible),
        (vec![-inf; 3], Status::Infeasible),
    ] {
        check_widths(&plans(), &x, &vec![true; x.len()], &mut ws);
        let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let scores = Scores::F32(&single);
        let found = Written::new(
            &supported(Objective::Argmax, &[]),
            &Row { scores, ..row(&[]) },
            Level::best(),
            &mut ws,
        );
        assert_eq!(found.outcome.status, status);
    }
}

#[test]
fn lengths_around_blocks() {
    let (mut ws, mut rng) = (Workspace::new(), Rng(5));
    for length in (1..8).chain([65, 127, 128, 129, 130, 191, 192, 193, 1023, 1024, 1025, 2049, 5_007]) {
        let x = rng.normals(length, 4.0);
        let flags: Vec<bool> = (0..length - length % 5).map(|_| rng.uniform() < 0.5).collect();
        check_widths(&plans(), &x, &flags, &mut ws);
    }
}

#[test]
fn large_rows() {
    let (mut ws, mut rng) = (Workspace::new(), Rng(6));
    let length = 30_013;
    let flat = rng.normals(length, 0.5);
    let mut peaked = flat.clone();
    peaked[29_999] = 13.3;
    let mut tail: Vec<f64> = rng.normals(length, 1.5);
    (0..900).for_each(|rank| tail[(rank * 7919) % length] = 14.0 - 1.2 * (1.0 + rank as f64).ln());
    let rounded: Vec<f64> = flat.iter().map(|x| (x * 4.0).round() / 4.0).collect();
    let flags: Vec<bool> = (0..length).map(|i| i % 1000 < 700).collect();
    for x in [flat, peaked, tail, rounded, vec![0.5; length]] {
        check_widths(&plans(), &x, &flags, &mut ws);
    }
}

#[test]
fn huge_scores_and_small_temperatures() {
    let (mut ws, mut rng) = (Workspace::new(), Rng(7));
    let low = rng.normals(3000, 2.0);
    let high: Vec<f64> = low.iter().map(|x| 3e6 + 0.25 * (4.0 * x).round()).collect();
    for temperature in [1.0, 0.01, 30.0] {
        let plans: Vec<Plan> = plans()
            .into_iter()
            .map(|plan| Plan {
                temperature: temperature * plan.temperature,
                ..plan
            })
            .collect();
        let single: Vec<f32> = high.iter().map(|&x| x as f32).collect();
        let row = Row {
            scores: Scores::F32(&single),
            ..row(&[])
        };
        plans.iter().for_each(|plan| check(plan, &row, &mut ws));
        check_widths(&plans, &low, &vec![true; low.len()], &mut ws);
    }
}

#[test]
fn whole_rows_in_both_widths() {
    let (mut ws, x) = (Workspace::new(), Rng(8).normals(100, 2.0));
    for plan in plans() {
        let expected = solve(&plan, &row(&x));
        let (mut q, mut log_q) = (vec![7.0; 100], vec![7.0; 100]);
        let mut wanted = Wanted {
            probs: Some(&mut q),
            log_probs: Some(&mut log_q),
            scalars: true,
            ..Wanted::default()
        };
        let outcome = solve_whole_into(&plan, &row(&x), &mut wanted, &mut ws);
        assert_eq!((outcome, &q, &log_q), (expected.outcome, &expected.q, &expected.log_q));
        let found = Written::new(&plan, &row(&x), Level::best(), &mut ws);
        assert!(found.probs.iter().zip(&q).all(|(&found, &q)| found == q as f32));
        assert_eq!(found.outcome, expected.outcome);
    }
}

fn rule() -> impl Strategy<Value = (Rule, bool)> {
    let rule = prop_oneof![
        (1_usize..300).prop_map(Rule::TopK),
        (0.001..1.0_f64).prop_map(Rule::TopP),
        (-7.0..0.0_f64).prop_map(|x| Rule::TopP(1.0 - x.exp())),
        (-12.0..0.1_f64).prop_map(|x| Rule::MinP(x.exp())),
        (-12.0..-0.1_f64).prop_map(|x| Rule::Epsilon(x.exp())),
        (-12.0..-0.1_f64).prop_map(|x| Rule::Eta(x.exp())),
        (0.01..1.0_f64).prop_map(Rule::Typical),
        (0.01..1.0_f64).prop_map(Rule::TopH),
        Just(Rule::PLess),
    ];
    (rule, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_row(
        seed in any::<u64>(),
        length in 1_usize..3000,
        spread in -3.0..2.5_f64,
        grain in prop::sample::select(vec![0.0, 0.125, 1.0]),
        rules in prop::collection::vec(rule(), 0..4),
        temperature in -1.0..1.0_f64,
        anchored in any::<bool>(),
    ) {
        let mut rng = Rng(seed);
        let x: Vec<f64> = rng.normals(length, spread.exp());
        let x: Vec<f64> = if grain > 0.0 { x.iter().map(|x| (x / grain).round() * grain).collect() } else { x };
        let flags: Vec<bool> = (0..length).map(|_| rng.uniform() < 0.8).collect();
        let objective = match anchored {
            true => Objective::AnchoredSoftmax { lam: 0.8 },
            false => Objective::Softmax { lam: 1.0 },
        };
        let plan = Plan { temperature: temperature.exp(), ..supported(objective, &rules) };
        check_widths(&[plan], &x, &flags, &mut Workspace::new());
    }
}
