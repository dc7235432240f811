//! `draw_distinct` and `draw_by_code`: what they have in common with `draw_tokens`, on every way that a row is drawn from.

mod common;

use common::{coverage, plan, row};
use optdecode_core::par::Scratch;
use optdecode_core::plan::*;
use optdecode_core::row::{Row, Scores};
use optdecode_core::sample::{
    Code, Coupling, Distinct, STREAM_DRAWS, draw_by_code, draw_distinct, draw_tokens, philox4x32_10, uniform,
};
use optdecode_core::{Level, Status, Workspace, solve_row};

const SEED: u64 = 77;
const POSITION: u64 = 5;

fn plans() -> Vec<Plan> {
    let softmax = |rules: &[Rule]| Plan {
        supports: rules.iter().map(|&rule| Support { rule, raw: false }).collect(),
        ..plan(Objective::Softmax { lam: 1.0 })
    };
    vec![
        plan(Objective::Argmax),
        softmax(&[]),
        softmax(&[Rule::TopK(5)]),
        softmax(&[Rule::TopK(700)]),
        softmax(&[Rule::TopP(0.9)]),
        softmax(&[Rule::MinP(0.05)]),
        plan(Objective::Quadratic { lam: 1.0 }),
        plan(Objective::Tsallis { lam: 1.0, alpha: 1.3 }),
        coverage(0.2, 0.004, 8, Weights::Model),
        coverage(1.0, 0.5, 64, Weights::Uniform),
    ]
}

/// Nearly normal scores.
fn scores(length: u32, spread: f64) -> Vec<f32> {
    let uniforms = |id: u32, part: u32| philox4x32_10([id, part, 0, 0], [3, length]).map(|word| f64::from(word >> 8));
    let sum = |id| (0..3).flat_map(|part| uniforms(id, part)).sum::<f64>();
    (0..length)
        .map(|id| (spread * (sum(id) / f64::from(1 << 24) - 6.0)) as f32)
        .collect()
}

/// Flat, steep, with one token that has nearly all, tied, and with tokens that are forbidden or as good as that.
fn rows() -> Vec<Vec<f32>> {
    let mut rows = vec![vec![0.5], vec![1.0; 40]];
    for length in [3, 70, 5003, 20_000] {
        rows.extend([0.3, 2.0, 9.0].map(|spread| scores(length, spread)));
        let mut peaked = scores(length, 1.0);
        peaked[1] = 45.0;
        rows.push(peaked);
        let mut forbidden = scores(length, 1.0);
        forbidden[0] = f32::NEG_INFINITY;
        forbidden[2] = -1e9;
        rows.push(forbidden);
    }
    rows
}

fn single(x: &[f32]) -> Row<'_> {
    Row {
        scores: Scores::F32(x),
        ..row(&[])
    }
}

type Found = (Vec<i64>, Vec<f64>, Vec<f64>, Status);

fn distinct(plan: &Plan, row: &Row<'_>, level: Level, n: usize, scratch: &mut Scratch) -> Found {
    let (mut tokens, mut log_probs, mut log_inclusion) = (vec![-7; n], vec![7.0; n], vec![7.0; n]);
    let out = &mut Distinct {
        tokens: &mut tokens,
        log_probs: &mut log_probs,
        log_inclusion: &mut log_inclusion,
    };
    let status = draw_distinct(plan, row, level, SEED, POSITION, out, scratch);
    (tokens, log_probs, log_inclusion, status)
}

#[test]
fn distinct_tokens_have_probability_and_come_once() {
    let mut scratch = Scratch::default();
    for x in rows() {
        let row = single(&x);
        for plan in plans() {
            let mut ws = Workspace::new();
            solve_row(&plan, &row, &mut ws);
            let mut q = vec![0.0; x.len()];
            ws.face().iter().zip(ws.q()).for_each(|(&id, &p)| q[id as usize] = p);
            let support = q.iter().filter(|&&q| q > 0.0).count();
            let (mut first, mut log_prob) = ([0], [0.0]);
            let level = Level::best();
            draw_tokens(
                &plan,
                &row,
                level,
                SEED,
                POSITION,
                Coupling::Iid,
                &mut first,
                &mut log_prob,
                &mut scratch,
            );
            for n in [1, 2, 9, 60] {
                let (tokens, log_probs, log_inclusion, status) = distinct(&plan, &row, level, n, &mut scratch);
                // `near`: a support that is about sums may end a token earlier or later.
                let near = matches!(
                    plan.supports.first(),
                    Some(Support {
                        rule: Rule::TopP(_),
                        ..
                    })
                );
                if !near || support.abs_diff(n) > 1 {
                    let expected = [Status::TooFewTokens, Status::Ok][usize::from(support >= n)];
                    assert_eq!(status, expected, "{plan:?}: {support} for {n}");
                    assert_eq!(tokens.iter().filter(|&&token| token >= 0).count(), support.min(n));
                }
                assert_eq!((tokens[0], log_probs[0]), (first[0], log_prob[0]));
                let mut seen = vec![false; x.len()];
                for ((&token, log_prob), log_inclusion) in tokens.iter().zip(log_probs).zip(log_inclusion) {
                    if token < 0 {
                        assert!(log_prob.is_nan() && log_inclusion.is_nan());
                        continue;
                    }
                    assert!(!std::mem::replace(&mut seen[token as usize], true), "{token} twice");
                    assert!(near || q[token as usize] > 0.0);
                    assert!(log_inclusion <= 0.0 && log_prob.is_finite());
                    assert!(support > n || near || log_inclusion == 0.0);
                }
            }
        }
    }
}

#[test]
fn distinct_tokens_are_the_same_at_every_level() {
    let mut scratch = Scratch::default();
    for x in rows() {
        for plan in plans() {
            let bits = |(tokens, log_probs, log_inclusion, status): Found| {
                let bits = |x: Vec<f64>| x.into_iter().map(f64::to_bits).collect::<Vec<_>>();
                (tokens, bits(log_probs), bits(log_inclusion), status)
            };
            let scalar = bits(distinct(&plan, &single(&x), Level::SCALAR, 12, &mut scratch));
            for level in Level::available() {
                assert_eq!(bits(distinct(&plan, &single(&x), level, 12, &mut scratch)), scalar);
            }
        }
    }
}

#[test]
fn all_of_a_vocabulary_can_be_drawn() {
    // More than are taken before what is left is laid out anew; the last ones are 1e-20 of the first.
    let x: Vec<f32> = (0..3000).map(|id| -(id % 50) as f32).collect();
    let plan = plan(Objective::Softmax { lam: 1.0 });
    let (mut tokens, _, log_inclusion, status) =
        distinct(&plan, &single(&x), Level::best(), 3000, &mut Scratch::default());
    assert_eq!(status, Status::Ok);
    assert!(log_inclusion.iter().all(|&log| log == 0.0));
    tokens.sort_unstable();
    assert_eq!(tokens, (0..3000).collect::<Vec<i64>>());
}

#[test]
fn a_code_draws_what_its_uniform_draws_and_goes_on() {
    let mut scratch = Scratch::default();
    for x in rows() {
        for plan in plans() {
            let (mut token, mut log_prob) = ([0], [0.0]);
            let row = single(&x);
            let scalar = Level::SCALAR;
            let (tokens_out, log_probs_out) = (&mut token[..], &mut log_prob[..]);
            draw_tokens(
                &plan,
                &row,
                scalar,
                SEED,
                0,
                Coupling::Iid,
                tokens_out,
                log_probs_out,
                &mut scratch,
            );
            let first = Code::first(SEED, 0, 6);
            assert_eq!(first.value, uniform(SEED, 0, 0, STREAM_DRAWS));
            let mut after = vec![];
            for level in Level::available() {
                let mut code = first;
                let (draw, status) = draw_by_code(&plan, &row, level, SEED, 0, &mut code, &mut scratch);
                assert_eq!((draw.token, draw.log_prob, status), (token[0], log_prob[0], Status::Ok));
                assert_eq!(code.step, 1);
                after.push(code.value);
            }
            assert!(after.iter().all(|&value| value == after[0]));
            // A token that has everything is no news.
            assert!(log_prob[0] < 0.0 || after[0].abs_diff(first.value) < 1 << 30);
        }
    }
}

#[test]
fn rows_without_a_distribution_draw_nothing_and_leave_the_code() {
    for (x, expected) in [
        ([f32::NAN, 0.0], Status::NanScores),
        ([f32::INFINITY, 0.0], Status::InfScores),
        ([f32::NEG_INFINITY; 2], Status::Infeasible),
    ] {
        for plan in plans() {
            let mut scratch = Scratch::default();
            let (tokens, log_probs, log_inclusion, status) =
                distinct(&plan, &single(&x), Level::best(), 3, &mut scratch);
            assert_eq!((tokens, status), (vec![-1; 3], expected));
            assert!(log_probs.iter().chain(&log_inclusion).all(|log| log.is_nan()));
            let mut code = Code { value: 9, step: 4 };
            let level = Level::best();
            let (draw, status) = draw_by_code(&plan, &single(&x), level, SEED, 1, &mut code, &mut scratch);
            assert_eq!((draw.token, status, code), (-1, expected, Code { value: 9, step: 4 }));
            assert!(draw.log_prob.is_nan());
        }
    }
}
