//! Tokens that must never change: what a seed has drawn once it draws for ever, on every machine, level and version.
//!
//! `golden.txt` holds them. A change of it is a change of what users see, and belongs in the changelog; after one,
//! `OPTDECODE_FREEZE=1 cargo test -p optdecode-core --test golden` writes it anew.

mod common;

use std::fmt::Write;

use common::{coverage, family, plan};
use half::{bf16, f16};
use optdecode_core::Level;
use optdecode_core::par::Scratch;
use optdecode_core::plan::*;
use optdecode_core::row::{Mask, Row, Scores};
use optdecode_core::sample::{Code, Coupling, Distinct, draw_by_code, draw_distinct, draw_tokens, philox4x32_10};

const GOLDEN: &str = include_str!("golden.txt");
const V: usize = 5003;

/// Nearly normal scores by exact arithmetic alone: twelve uniforms of 24 bits.
fn row(seed: u32, spread: f64) -> Vec<f64> {
    let uniforms = |id: u32, part: u32| philox4x32_10([id, part, 0, 0], [seed, 7]).map(|word| f64::from(word >> 8));
    let sum = |id| (0..3).flat_map(|part| uniforms(id, part)).sum::<f64>();
    (0..V as u32)
        .map(|id| spread * (sum(id) / f64::from(1 << 24) - 6.0))
        .collect()
}

fn plans() -> Vec<(&'static str, Plan)> {
    let of = |objective, rules: &[Rule]| Plan {
        supports: rules.iter().map(|&rule| Support { rule, raw: false }).collect(),
        ..plan(objective)
    };
    let softmax = |rules: &[Rule]| of(Objective::Softmax { lam: 1.0 }, rules);
    let tempered = |plan, temperature| Plan { temperature, ..plan };
    let tsallis = |alpha| of(Objective::Tsallis { lam: 1.0, alpha }, &[]);
    let mirror = Objective::Mirror {
        lam: 0.2,
        coverage: Coverage {
            beta_bar: 0.004,
            budget: 8,
            weights: Weights::Model,
        },
        steps: 5,
        eta: Some(1.0),
        tolerance: None,
    };
    vec![
        ("greedy", of(Objective::Argmax, &[])),
        ("softmax", softmax(&[])),
        ("softmax T .6", tempered(softmax(&[]), 0.6)),
        ("top-k 50", softmax(&[Rule::TopK(50)])),
        ("top-k 700", softmax(&[Rule::TopK(700)])),
        ("top-p .9", softmax(&[Rule::TopP(0.9)])),
        ("min-p .05", softmax(&[Rule::MinP(0.05)])),
        (
            "T .8, k 50, p .95",
            tempered(softmax(&[Rule::TopK(50), Rule::TopP(0.95)]), 0.8),
        ),
        ("top-n-sigma 1", softmax(&[Rule::TopNSigma(1.0)])),
        ("p-less", softmax(&[Rule::PLess])),
        ("epsilon 3e-4", softmax(&[Rule::Epsilon(3e-4)])),
        ("eta 2e-3", softmax(&[Rule::Eta(2e-3)])),
        ("sparsemax", of(Objective::Quadratic { lam: 1.0 }, &[])),
        ("entmax 1.5", tsallis(1.5)),
        ("entmax 1.3", tsallis(1.3)),
        ("best of 8, model", coverage(0.2, 0.004, 8, Weights::Model)),
        ("best of 8, uniform", coverage(0.2, 0.004, 8, Weights::Uniform)),
        ("best of 64, uniform", coverage(1.0, 0.5, 64, Weights::Uniform)),
        ("best of 8, mirror", plan(mirror)),
    ]
}

fn drawn(plan: &Plan, row: &Row<'_>, level: Level, coupling: Coupling, scratch: &mut Scratch) -> Vec<i64> {
    let (mut tokens, mut log_probs) = ([0; 6], [0.0; 6]);
    let (tokens_out, log_probs_out) = (&mut tokens[..], &mut log_probs[..]);
    let seed = 0x0123_4567_89AB_CDEF;
    let status = draw_tokens(plan, row, level, seed, 42, coupling, tokens_out, log_probs_out, scratch);
    assert!(status.is_solved());
    tokens.to_vec()
}

/// Distinct tokens.
fn distinct(plan: &Plan, row: &Row<'_>, level: Level, scratch: &mut Scratch) -> Vec<i64> {
    let (mut tokens, mut log_probs, mut log_inclusion) = ([0; 6], [0.0; 6], [0.0; 6]);
    let out = &mut Distinct {
        tokens: &mut tokens,
        log_probs: &mut log_probs,
        log_inclusion: &mut log_inclusion,
    };
    draw_distinct(plan, row, level, 0x0123_4567_89AB_CDEF, 42, out, scratch);
    tokens.to_vec()
}

/// A sequence on one row, and the code behind it.
fn sequence(plan: &Plan, row: &Row<'_>, level: Level, scratch: &mut Scratch) -> (Vec<i64>, u64) {
    let (seed, place) = (0x0123_4567_89AB_CDEF, 5);
    let mut code = Code::first(seed, place, 8);
    let mut draw = |_| draw_by_code(plan, row, level, seed, place, &mut code, scratch).0.token;
    let tokens = (0..6).map(&mut draw).collect();
    (tokens, code.value)
}

/// All of it, as the file has it: lines for new plans come last.
fn tokens(level: Level) -> String {
    tokens_of(&plans(), level) + &tokens_of(&family(), level)
}

fn tokens_of(plans: &[(&str, Plan)], level: Level) -> String {
    let (mut scratch, mut text) = (Scratch::default(), String::new());
    let flags: Vec<bool> = (0..V).map(|id| id % 5 != 3).collect();
    for (kind, spread) in [("flat", 0.5), ("steep", 3.0)] {
        let x = row(spread as u32, spread);
        let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let half: Vec<f16> = x.iter().map(|&x| f16::from_f64(x)).collect();
        let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
        let widths = [
            ("f64", Scores::F64(&x), None, Coupling::Iid),
            ("f32", Scores::F32(&single), None, Coupling::Iid),
            ("f32 systematic", Scores::F32(&single), None, Coupling::Systematic),
            (
                "f32 masked",
                Scores::F32(&single),
                Some(Mask::Flags(&flags)),
                Coupling::Iid,
            ),
            ("f16", Scores::F16(&half), None, Coupling::Iid),
            ("bf16", Scores::Bf16(&brain), None, Coupling::Iid),
        ];
        for (name, plan) in plans {
            for (width, scores, mask, coupling) in widths {
                let row = Row {
                    scores,
                    mask,
                    ..common::row(&[])
                };
                let tokens = drawn(plan, &row, level, coupling, &mut scratch);
                writeln!(text, "{kind} | {name} | {width} | {tokens:?}").expect("a string takes all");
            }
            let row = Row {
                scores: Scores::F32(&single),
                ..common::row(&[])
            };
            let tokens = distinct(plan, &row, level, &mut scratch);
            writeln!(text, "{kind} | {name} | f32 distinct | {tokens:?}").expect("a string takes all");
            let (tokens, code) = sequence(plan, &row, level, &mut scratch);
            writeln!(text, "{kind} | {name} | f32 codes | {tokens:?} {code:016x}").expect("a string takes all");
        }
    }
    text
}

#[test]
fn tokens_are_those_of_ever() {
    if std::env::var_os("OPTDECODE_FREEZE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt");
        std::fs::write(path, tokens(Level::best())).expect("the file can be written");
        return;
    }
    for level in Level::available() {
        for (found, golden) in tokens(level).lines().zip(GOLDEN.lines()) {
            assert_eq!(found, golden, "{level:?}");
        }
        assert_eq!(tokens(level).lines().count(), GOLDEN.lines().count());
    }
}
