//! Draws where a support is about sums over all tokens: the face of `solve_row` but for tokens at its very end, its
//! distribution on it, and the same tokens at every level.

mod common;

use common::*;
use optdecode_core::par::Scratch;
use optdecode_core::plan::*;
use optdecode_core::row::{Row, Scores};
use optdecode_core::sample::{Coupling, draw_row, draw_tokens};
use optdecode_core::{Level, Status, Workspace, solve_row};
use proptest::prelude::*;

const DRAWS: usize = 200;

fn drawn(plan: &Plan, row: &Row<'_>, level: Level, scratch: &mut Scratch) -> (Vec<i64>, Vec<f64>, Status) {
    let (mut tokens, mut log_probs) = (vec![-7; DRAWS], vec![7.0; DRAWS]);
    let (tokens_out, log_probs_out) = (&mut tokens[..], &mut log_probs[..]);
    let coupling = Coupling::Iid;
    let status = draw_tokens(plan, row, level, 11, 4, coupling, tokens_out, log_probs_out, scratch);
    (tokens, log_probs, status)
}

/// One row under one plan.
fn check(plan: &Plan, row: &Row<'_>, scratch: &mut Scratch) {
    let expected = solve(plan, row);
    let (tokens, log_probs, status) = drawn(plan, row, Level::SCALAR, scratch);
    assert_eq!(status, expected.outcome.status, "{plan:?}");
    for level in Level::available() {
        let (others, logs, _) = drawn(plan, row, level, scratch);
        assert_eq!(others, tokens, "{level:?} {plan:?}");
        let same = logs.iter().zip(&log_probs).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{level:?} {plan:?}");
    }
    if !status.is_solved() {
        assert!(tokens.iter().all(|&token| token == -1) && log_probs.iter().all(|log| log.is_nan()));
        return;
    }
    let x = widened(row.scores);
    let kept = expected
        .face
        .iter()
        .map(|&id| id as usize)
        .filter(|&id| expected.q[id] > 0.0);
    let ends = (f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY);
    let (lowest, highest, smallest) = kept.fold(ends, |(lowest, highest, smallest), id| {
        (lowest.min(x[id]), highest.max(x[id]), smallest.min(expected.q[id]))
    });
    // A softmax's normaliser is off by what the faces differ in: a token at the end, and rounding. A sparse optimum, having
    // no mass there, hardly notices.
    let slack = 6e-6 + 2.0 * smallest;
    for (&token, &log_prob) in tokens.iter().zip(&log_probs) {
        let id = token as usize;
        assert!(row.mask.is_none_or(|mask| mask.allows(id)));
        let ends = 4e-6 * plan.temperature.max(1.0) + 1e-15 * lowest.abs();
        assert!(
            x[id] >= lowest - ends && x[id] <= highest + ends || is_at_top_h(plan, row, token as u32),
            "{plan:?}: {token} of {} is not in {lowest}..{highest}",
            x[id]
        );
        if expected.q[id] > 0.0 {
            let error = (log_prob - expected.log_q[id]).abs();
            assert!(error <= slack, "{plan:?}: {token} {log_prob} {}", expected.log_q[id]);
        }
    }
}

fn check_widths(plans: &[Plan], x: &[f64], flags: &[bool], scratch: &mut Scratch) {
    in_narrow_widths(x, flags, |row| plans.iter().for_each(|plan| check(plan, row, scratch)));
}

fn plans() -> Vec<Plan> {
    let softmax = Objective::Softmax { lam: 1.0 };
    let mut plans: Vec<Plan> = [1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, 0.999_999_9, 1.0]
        .map(|p| supported(softmax.clone(), &[(Rule::TopP(p), false)]))
        .into();
    plans.extend([
        supported(softmax.clone(), &[(Rule::TopP(0.9), true)]),
        supported(softmax.clone(), &[(Rule::TopK(50), false), (Rule::TopP(0.95), false)]),
        supported(softmax.clone(), &[(Rule::TopP(0.7), true), (Rule::MinP(1e-4), false)]),
        supported(softmax.clone(), &[(Rule::TopK(3000), false), (Rule::TopP(0.99), false)]),
        supported(softmax.clone(), &[(Rule::PLess, false)]),
        supported(softmax.clone(), &[(Rule::PLess, true)]),
        supported(softmax.clone(), &[(Rule::Epsilon(3e-4), false)]),
        supported(
            softmax.clone(),
            &[(Rule::Epsilon(1e-12), true), (Rule::TopP(0.99), false)],
        ),
        supported(softmax.clone(), &[(Rule::Eta(2e-3), false)]),
        supported(softmax.clone(), &[(Rule::Eta(0.3), true), (Rule::PLess, false)]),
        supported(softmax.clone(), &[(Rule::MinP(1e-3), false)]),
        supported(softmax.clone(), &[(Rule::TopH(0.4), false)]),
        supported(softmax.clone(), &[(Rule::TopH(0.93), false)]),
        supported(softmax.clone(), &[(Rule::TopH(0.7), true), (Rule::TopK(90), false)]),
        supported(softmax.clone(), &[(Rule::Typical(0.07), false)]),
        supported(softmax.clone(), &[(Rule::Typical(0.93), false)]),
        supported(softmax.clone(), &[(Rule::Typical(0.41), true)]),
        supported(
            softmax.clone(),
            &[(Rule::Typical(0.61), false), (Rule::TopK(700), false)],
        ),
        supported(
            softmax.clone(),
            &[(Rule::Typical(0.21), true), (Rule::TopP(0.83), false)],
        ),
        supported(softmax, &[(Rule::TopK(700), false)]),
        supported(Objective::Quadratic { lam: 2.0 }, &[(Rule::TopP(0.6), false)]),
        supported(Objective::Tsallis { lam: 3.0, alpha: 1.5 }, &[(Rule::PLess, false)]),
        supported(Objective::Tsallis { lam: 1.0, alpha: 1.2 }, &[(Rule::TopP(0.9), true)]),
        supported(Objective::Argmax, &[(Rule::TopP(0.9), true)]),
        supported(Objective::Argmax, &[(Rule::Typical(0.23), false)]),
        supported(Objective::Quadratic { lam: 2.0 }, &[(Rule::Typical(0.27), false)]),
        supported(
            Objective::Tsallis { lam: 3.0, alpha: 1.5 },
            &[(Rule::Typical(0.57), true)],
        ),
    ]);
    let softmax = Objective::Softmax { lam: 1.0 };
    plans.extend([
        chained(softmax.clone(), &[(Rule::TopK(50), false), (Rule::TopP(0.95), false)]),
        chained(
            softmax.clone(),
            &[
                (Rule::TopK(700), false),
                (Rule::TopP(0.9), true),
                (Rule::MinP(0.02), true),
            ],
        ),
        chained(softmax.clone(), &[(Rule::TopP(0.9), false), (Rule::TopP(0.9), false)]),
        chained(
            softmax.clone(),
            &[
                (Rule::MinP(1e-3), false),
                (Rule::TopP(0.8), false),
                (Rule::Epsilon(1e-3), false),
            ],
        ),
        chained(
            softmax.clone(),
            &[(Rule::TopP(0.99), true), (Rule::TopK(9), false), (Rule::PLess, false)],
        ),
        chained(softmax.clone(), &[(Rule::TopK(40), false), (Rule::Eta(3e-2), false)]),
        chained(softmax, &[(Rule::TopK(40), false), (Rule::Typical(0.63), true)]),
        chained(
            Objective::Quadratic { lam: 2.0 },
            &[(Rule::TopK(30), false), (Rule::TopP(0.6), false)],
        ),
    ]);
    let anchored = Objective::AnchoredSoftmax { lam: 0.7 };
    plans.extend([
        supported(anchored.clone(), &[]),
        supported(anchored.clone(), &[(Rule::TopK(60), false)]),
        supported(anchored.clone(), &[(Rule::TopK(700), false)]),
        supported(anchored.clone(), &[(Rule::TopP(0.9), false)]),
        supported(anchored, &[(Rule::Typical(0.43), false)]),
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
    plans
}

/// Spreads that f32 sums can resolve: a threshold of standard deviations on anything else is left to f64.
fn sigma_plans() -> Vec<Plan> {
    let softmax = Objective::Softmax { lam: 1.0 };
    [0.5, 1.0, 3.0]
        .map(|n| supported(softmax.clone(), &[(Rule::TopNSigma(n), false)]))
        .into()
}

#[test]
fn adversarial_rows() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(4));
    for (_, x) in adversarial() {
        let flags: Vec<bool> = x.iter().map(|_| rng.uniform() < 0.6).collect();
        check_widths(&plans(), &x, &flags, &mut scratch);
        check_widths(&sigma_plans(), &x, &flags, &mut scratch);
    }
}

#[test]
fn lengths_around_blocks() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(5));
    let plans = [plans(), sigma_plans()].concat();
    for length in (1..20).chain([63, 64, 65, 129, 1023, 1024, 1025, 2049, 5_007]) {
        let x = rng.normals(length, 4.0);
        let flags: Vec<bool> = (0..length - length % 5).map(|_| rng.uniform() < 0.5).collect();
        check_widths(&plans, &x, &flags, &mut scratch);
    }
}

#[test]
fn large_rows() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(6));
    let plans = [plans(), sigma_plans()].concat();
    let length = 70_013;
    let flat = rng.normals(length, 0.5);
    let mut peaked = flat.clone();
    // A token with most of the mass, the rest needed all the same.
    peaked[69_999] = 13.3;
    let mut tail: Vec<f64> = rng.normals(length, 1.5);
    (0..900).for_each(|rank| tail[(rank * 7919) % length] = 14.0 - 1.2 * (1.0 + rank as f64).ln());
    let rounded: Vec<f64> = flat.iter().map(|x| (x * 4.0).round() / 4.0).collect();
    let flags: Vec<bool> = (0..length).map(|i| i % 1000 < 700).collect();
    for x in [flat, peaked, tail, rounded, vec![0.5; length]] {
        check_widths(&plans, &x, &flags, &mut scratch);
    }
}

#[test]
fn thousands_of_ties() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(8));
    let plans = [plans(), sigma_plans()].concat();
    let length = 40_009;
    let low = rng.normals(length, 1.0);
    let mut with_best = |share: f64| -> Vec<f64> {
        let tie = |&x: &f64| if rng.uniform() < share { 9.0 } else { x };
        low.iter().map(tie).collect()
    };
    // What ties with the best has nearly all of the mass: too few to be in every block of sets, more than are gathered.
    let (few, many) = (with_best(0.04), with_best(0.3));
    // One token above them with half of the mass, and some that the first k take along.
    let mut under = many.clone();
    under[34_321] = 18.5;
    (0..30).for_each(|i| under[(i * 1733 + 5) % length] = 9.5);
    // Two scores share the threshold's neighbourhood.
    let steps: Vec<f64> = (0..length).map(|i| f64::from(i as u32 % 5 / 2)).collect();
    let flags: Vec<bool> = (0..length).map(|i| i % 1000 < 700).collect();
    for x in [few, many, under, steps] {
        check_widths(&plans, &x, &flags, &mut scratch);
        // As few as the exact solvers take: the very draws from the whole distribution.
        let first = supported(
            Objective::Softmax { lam: 1.0 },
            &[(Rule::TopK(100), false), (Rule::TopP(0.999), false)],
        );
        in_narrow_widths(&x, &flags, |row| {
            let mut ws = Workspace::new();
            solve_row(&first, row, &mut ws);
            let (mut tokens, mut log_probs) = ([0; DRAWS], [0.0; DRAWS]);
            let (face, q, log_q) = (ws.face(), ws.q(), ws.log_q());
            let (tokens_out, log_probs_out) = (&mut tokens[..], &mut log_probs[..]);
            draw_row(
                face,
                q,
                log_q,
                11,
                4,
                Coupling::Iid,
                tokens_out,
                log_probs_out,
                &mut vec![],
            );
            assert_eq!(drawn(&first, row, Level::best(), &mut scratch).0, tokens);
        });
    }
}

#[test]
fn p_less_where_nearly_all_tie() {
    let mut scratch = Scratch::default();
    let plans = [false, true].map(|raw| supported(Objective::Softmax { lam: 1.0 }, &[(Rule::PLess, raw)]));
    // The best tie with each other; some are below them by less, or more, than sums could tell from the threshold.
    for below in [0.0, 3e-7, 9e-7, 2e-6, 1.2e-5, 2e-5, 4e-5] {
        let x: Vec<f32> = (0..5000)
            .map(|i| if i % 7 == 3 { (0.5 - below) as f32 } else { 0.5 })
            .collect();
        let row = Row {
            scores: Scores::F32(&x),
            ..row(&[])
        };
        plans.iter().for_each(|plan| check(plan, &row, &mut scratch));
        let (found, expected) = (kept(&plans[0], &row, &mut scratch), solve(&plans[0], &row).face);
        assert_eq!(found, expected, "{below}");
    }
}

#[test]
fn a_nucleus_of_ties_ends_with_the_very_token() {
    let (mut scratch, x) = (Scratch::default(), vec![0.5_f32; 30_007]);
    let row = Row {
        scores: Scores::F32(&x),
        ..row(&[])
    };
    for p in [0.1, 0.3, 0.5, 0.95] {
        for rule in [Rule::TopP(p), Rule::Typical(p), Rule::TopH(p)] {
            let plan = supported(Objective::Softmax { lam: 1.0 }, &[(rule, false)]);
            assert_eq!(kept(&plan, &row, &mut scratch), solve(&plan, &row).face, "{rule:?}");
        }
    }
}

/// Few tokens above thousands that tie, and as many that tie below these: the band has the first so many of either.
#[test]
fn a_band_of_ties_ends_with_the_very_token() {
    let mut scratch = Scratch::default();
    let score = |i: usize| match (i % 7001, i % 3) {
        (5, _) => 3.0,
        (_, 0) => 0.9,
        _ => 1.0,
    };
    let x: Vec<f32> = (0..60_007).map(score).collect();
    let row = Row {
        scores: Scores::F32(&x),
        ..row(&[])
    };
    for (p, ends) in [(0.1, 1.0), (0.3, 1.0), (0.6, 1.0), (0.8, 0.9), (0.95, 0.9)] {
        let plan = supported(Objective::Softmax { lam: 1.0 }, &[(Rule::Typical(p), false)]);
        let expected = solve(&plan, &row).face;
        let last = expected.iter().map(|&id| x[id as usize]).fold(f32::INFINITY, f32::min);
        assert_eq!(last, ends, "{p}: the row is none that tells");
        assert!(!expected.contains(&5), "the best token is left out");
        assert_eq!(kept(&plan, &row, &mut scratch), expected, "{p}");
    }
}

/// The tokens that systematic draws fall on: where all of the face are about as likely, all of it.
fn kept(plan: &Plan, row: &Row<'_>, scratch: &mut Scratch) -> Vec<u32> {
    let count = 40 * row.scores.len();
    let (mut tokens, mut log_probs) = (vec![0; count], vec![0.0; count]);
    let (level, coupling) = (Level::best(), Coupling::Systematic);
    draw_tokens(plan, row, level, 1, 0, coupling, &mut tokens, &mut log_probs, scratch);
    let mut tokens: Vec<u32> = tokens.into_iter().map(|token| token as u32).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[test]
fn huge_scores_and_small_temperatures() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(7));
    let x: Vec<f64> = rng
        .normals(3000, 2.0)
        .iter()
        .map(|x| 3e6 + 0.25 * (4.0 * x).round())
        .collect();
    let flags = vec![true; x.len()];
    let low = rng.normals(3000, 2.0);
    for temperature in [1.0, 0.01, 30.0] {
        let plans: Vec<Plan> = plans()
            .into_iter()
            .map(|plan| Plan {
                temperature: temperature * plan.temperature,
                ..plan
            })
            .collect();
        let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let row = Row {
            scores: Scores::F32(&single),
            ..row(&[])
        };
        plans.iter().for_each(|plan| check(plan, &row, &mut scratch));
        check_widths(&plans, &low, &flags, &mut scratch);
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
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_row(
        seed in any::<u64>(),
        length in 1_usize..3000,
        spread in -3.0..2.5_f64,
        grain in prop::sample::select(vec![0.0, 0.125, 1.0]),
        rules in prop::collection::vec(rule(), 1..4),
        temperature in -1.0..1.0_f64,
    ) {
        let mut rng = Rng(seed);
        let x: Vec<f64> = rng.normals(length, spread.exp());
        let x: Vec<f64> = if grain > 0.0 { x.iter().map(|x| (x / grain).round() * grain).collect() } else { x };
        let flags: Vec<bool> = (0..length).map(|_| rng.uniform() < 0.8).collect();
        let plan = Plan { temperature: temperature.exp(), ..supported(Objective::Softmax { lam: 1.0 }, &rules) };
        check_widths(&[plan], &x, &flags, &mut Scratch::default());
    }
}
