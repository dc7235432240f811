//! `draw_tokens`: plain softmax of narrow rows by block sums, everything else as by `solve_row` and `draw_row`.

mod common;

use common::*;
use half::{bf16, f16};
use optdecode_core::par::Scratch;
use optdecode_core::plan::*;
use optdecode_core::row::{Mask, Row, Scores};
use optdecode_core::sample::{Coupling, draw_row, draw_tokens};
use optdecode_core::{Level, Status, Workspace, solve_row};

const INF: f64 = f64::INFINITY;

fn softmax(temperature: f64, score_weight: f64, lam: f64) -> Plan {
    Plan {
        temperature,
        score_weight,
        ..plan(Objective::Softmax { lam })
    }
}

/// Tokens, log-probabilities in bits, status.
type Drawn = (Vec<i64>, Vec<u64>, Status);

fn drawn(plan: &Plan, row: &Row<'_>, level: Level, n: usize, coupling: Coupling, scratch: &mut Scratch) -> Drawn {
    let (mut tokens, mut log_probs) = (vec![-7; n], vec![7.0; n]);
    let (tokens_out, log_probs_out) = (&mut tokens[..], &mut log_probs[..]);
    let status = draw_tokens(plan, row, level, 11, 4, coupling, tokens_out, log_probs_out, scratch);
    (tokens, log_probs.into_iter().map(f64::to_bits).collect(), status)
}

/// The same by the whole distribution, and the distribution.
fn reference(plan: &Plan, row: &Row<'_>, n: usize, coupling: Coupling) -> (Drawn, Solution) {
    let mut ws = Workspace::new();
    let status = solve_row(plan, row, &mut ws).status;
    let (mut tokens, mut log_probs) = (vec![-1; n], vec![f64::NAN; n]);
    if status.is_solved() {
        let (tokens_out, log_probs_out) = (&mut tokens[..], &mut log_probs[..]);
        let (face, q, log_q) = (ws.face(), ws.q(), ws.log_q());
        draw_row(face, q, log_q, 11, 4, coupling, tokens_out, log_probs_out, &mut vec![]);
    }
    let drawn = (tokens, log_probs.into_iter().map(f64::to_bits).collect(), status);
    (drawn, solve(plan, row))
}

/// One row at every level: the same draws everywhere, the status of `solve_row`, and nearly its draws.
fn check(plan: &Plan, row: &Row<'_>, scratch: &mut Scratch) {
    for coupling in [Coupling::Iid, Coupling::Systematic] {
        let (expected, solution) = reference(plan, row, 50, coupling);
        let found = drawn(plan, row, Level::SCALAR, 50, coupling, scratch);
        assert_eq!(found.2, expected.2, "{plan:?}");
        for level in Level::available() {
            assert_eq!(drawn(plan, row, level, 50, coupling, scratch), found, "{level:?}");
            if coupling == Coupling::Iid {
                let (tokens, log_probs, _) = drawn(plan, row, level, 7, coupling, scratch);
                assert_eq!((&tokens[..], &log_probs[..]), (&found.0[..7], &found.1[..7]));
            }
        }
        // A uniform that falls next to a boundary may go to the neighbour: here none does, by the choice of the seed.
        assert_eq!(found.0, expected.0);
        if let Scores::F64(_) = row.scores {
            assert_eq!(found, expected);
        }
        for (&token, &bits) in found.0.iter().zip(&found.1).filter(|_| found.2.is_solved()) {
            let (log_prob, exact) = (f64::from_bits(bits), solution.log_q[token as usize]);
            assert!(
                (log_prob - exact).abs() <= 3e-6 && log_prob <= 0.0,
                "{log_prob} {exact}"
            );
        }
    }
}

fn check_row(x: &[f64], flags: &[bool], scratch: &mut Scratch) {
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let half: Vec<f16> = x.iter().map(|&x| f16::from_f64(x)).collect();
    let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
    let mut words = vec![0_u32; flags.len().div_ceil(32)];
    for (i, &flag) in flags.iter().enumerate() {
        words[i / 32] |= u32::from(flag) << (i % 32);
    }
    let plans = [
        softmax(1.0, 1.0, 1.0),
        softmax(0.7, 2.0, 1.3),
        softmax(30.0, 1.0, 1.0),
        softmax(1e-9, 1.0, 1.0),
        Plan {
            raw_scores: true,
            ..softmax(0.5, 1.5, 0.8)
        },
        softmax(1.0, -0.5, 1.0),
        softmax(1.0, 0.0, 1.0),
    ];
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
            plans.iter().for_each(|plan| check(plan, &row, scratch));
        }
    }
}

#[test]
fn rows_of_many_kinds() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(4));
    for (_, x) in adversarial() {
        let flags: Vec<bool> = x.iter().map(|_| rng.uniform() < 0.6).collect();
        check_row(&x, &flags, &mut scratch);
    }
}

#[test]
fn lengths_around_blocks() {
    let (mut scratch, mut rng) = (Scratch::default(), Rng(5));
    for length in (1..20).chain([63, 64, 65, 129, 1023, 1024, 1025, 2047, 2048, 2049, 10_007]) {
        let x = rng.normals(length, 4.0);
        let flags: Vec<bool> = (0..length - length % 5).map(|_| rng.uniform() < 0.5).collect();
        check_row(&x, &flags, &mut scratch);
    }
}

#[test]
fn rows_with_what_is_not_finite() {
    let mut scratch = Scratch::default();
    for length in [0_usize, 1, 5, 65, 1100] {
        for odd in [f64::NAN, INF, -INF] {
            let mut x: Vec<f64> = (0..length).map(|i| (i % 7) as f64).collect();
            x.iter_mut().skip(length / 2).take(1).for_each(|x| *x = odd);
            let flags: Vec<bool> = x.iter().map(|x| x.is_finite()).collect();
            check_row(&x, &flags, &mut scratch);
        }
        let nothing = vec![-INF; length];
        check_row(&nothing, &vec![false; length], &mut scratch);
    }
}

#[test]
fn many_draws_of_a_row_follow_the_law() {
    let x: Vec<f32> = Rng(9).normals(3000, 1.5).iter().map(|&x| x as f32).collect();
    let row = Row {
        scores: Scores::F32(&x),
        ..row(&[])
    };
    let plan = softmax(0.9, 1.0, 1.0);
    let n = 1_000_000;
    let solution = solve(&plan, &row);
    let (tokens, ..) = drawn(&plan, &row, Level::best(), n, Coupling::Iid, &mut Scratch::default());
    let mut counts = vec![0.0; x.len()];
    tokens.iter().for_each(|&token| counts[token as usize] += 1.0);
    let statistic: f64 = counts
        .iter()
        .zip(&solution.q)
        .map(|(count, q)| (count - n as f64 * q).powi(2) / (n as f64 * q))
        .sum();
    // Chi squared with 2999 degrees of freedom: six standard deviations.
    assert!(
        (statistic - 2999.0).abs() < 6.0 * (2.0 * 2999.0_f64).sqrt(),
        "{statistic}"
    );
}
