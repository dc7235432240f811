//! Draws and the kernels under them, V = 151,936, on rows that are cold: `cargo bench`, medians, about a minute.
//!
//! The floor `row_max` does nothing but read a row, on the best level; the figures to look at are ratios to it. `whole` is a
//! draw by way of `solve_row`, from the whole distribution in f64. Every draw is checked against that one. `written` are all
//! probabilities of a softmax.
#![allow(missing_docs)]

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use half::bf16;
use optdecode_core::arch::{block_maxima, row_max};
use optdecode_core::par::Scratch;
use optdecode_core::plan::{Anchor, Objective, Plan, Rule, Support};
use optdecode_core::sample::{Coupling, draw_row, draw_tokens};
use optdecode_core::solve::{Wanted, solve_into};
use optdecode_core::{Level, Row, row::Scores, solve_row};

#[path = "../tests/common/mod.rs"]
mod common;

const V: usize = 151_936;
/// More than a core's share of the last cache.
const BYTES: usize = 32 << 20;

/// A head of geometric decay over normal noise: nuclei (p = 0.95) of one to a thousand tokens.
fn language_model_row(index: usize) -> Vec<f64> {
    let mut rng = common::Rng(index as u64);
    let mut x = rng.normals(V, 2.0);
    let decay = 1.0 + 0.5 * (index % 8) as f64;
    for rank in 1..1000 {
        let id = (rng.uniform() * V as f64) as usize;
        x[id] = 18.0 - 12.0 / decay * f64::from(rank).ln();
    }
    x
}

/// Rows in rotation.
struct Rows<T> {
    rows: Vec<Vec<T>>,
    next: Cell<usize>,
}

impl<T> Rows<T> {
    fn new(narrow: impl Fn(f64) -> T) -> Self {
        let count = BYTES / (V * size_of::<T>());
        Rows {
            rows: (0..count)
                .map(|index| language_model_row(index).into_iter().map(&narrow).collect())
                .collect(),
            next: Cell::new(0),
        }
    }

    fn next(&self) -> &[T] {
        let index = self.next.get();
        self.next.set((index + 1) % self.rows.len());
        &self.rows[index]
    }
}

fn row(scores: Scores<'_>) -> Row<'_> {
    Row {
        scores,
        mask: None,
        anchor: None,
        weights: None,
        budget: None,
    }
}

fn decoders() -> [(&'static str, Plan); 6] {
    let of = |objective, rule: Option<Rule>| Plan {
        objective,
        temperature: 1.0,
        score_weight: 1.0,
        raw_scores: false,
        anchor: Anchor::None,
        supports: rule.map(|rule| Support { rule, raw: false }).into_iter().collect(),
        chains: vec![],
        allowed: None,
        cap: 1.0,
        target: None,
    };
    let softmax = Objective::Softmax { lam: 1.0 };
    [
        ("softmax", of(softmax.clone(), None)),
        ("greedy", of(Objective::Argmax, None)),
        ("top_k_50", of(softmax.clone(), Some(Rule::TopK(50)))),
        ("min_p_05", of(softmax, Some(Rule::MinP(0.05)))),
        ("sparsemax", of(Objective::Quadratic { lam: 1.0 }, None)),
        ("entmax_15", of(Objective::Tsallis { lam: 1.0, alpha: 1.5 }, None)),
    ]
}

/// One token from a row; no level stands for the whole distribution.
fn draw(plan: &Plan, scores: Scores<'_>, level: Option<Level>, scratch: &mut Scratch) -> i64 {
    let (mut token, mut log_prob) = ([0], [0.0]);
    if let Some(level) = level {
        let (token, log_prob) = (&mut token[..], &mut log_prob[..]);
        let status = draw_tokens(plan, &row(scores), level, 1, 2, Coupling::Iid, token, log_prob, scratch);
        assert!(status.is_solved());
        return token[0];
    }
    let ws = &mut scratch.workspace;
    assert!(solve_row(plan, &row(scores), ws).status.is_solved());
    draw_row(
        ws.face(),
        ws.q(),
        ws.log_q(),
        1,
        2,
        Coupling::Iid,
        &mut token,
        &mut log_prob,
        &mut scratch.masses,
    );
    token[0]
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700));
    group
}

fn width<T>(criterion: &mut Criterion, name: &str, rows: &Rows<T>, scores: impl for<'a> Fn(&'a [T]) -> Scores<'a>) {
    let mut kernels = group(criterion, name);
    kernels.bench_function("row_max", |bencher| {
        bencher.iter(|| black_box(row_max(Level::best(), scores(rows.next()))));
    });
    for level in Level::available() {
        let mut maxima = Vec::new();
        kernels.bench_function(format!("block_maxima/{}", level.name()), |bencher| {
            bencher.iter(|| black_box(block_maxima(level, scores(rows.next()), None, &mut maxima)));
        });
    }
    let [(_, softmax), ..] = decoders();
    for level in Level::available() {
        let (mut probs, mut scratch) = (vec![0.0; V], Scratch::default());
        kernels.bench_function(format!("written/{}", level.name()), |bencher| {
            bencher.iter(|| {
                let mut wanted = Wanted {
                    probs: Some(&mut probs),
                    ..Wanted::default()
                };
                let row = row(scores(rows.next()));
                black_box(solve_into(&softmax, &row, level, &mut wanted, &mut scratch.workspace))
            });
        });
    }
    for (decoder, plan) in decoders() {
        let mut scratch = Scratch::default();
        for level in Level::available().map(Some).chain([None]) {
            for x in rows.rows.iter().take(8) {
                let expected = draw(&plan, scores(x), None, &mut scratch);
                assert_eq!(draw(&plan, scores(x), level, &mut scratch), expected);
            }
            let label = level.map_or("whole", Level::name);
            kernels.bench_function(format!("{decoder}/{label}"), |bencher| {
                bencher.iter(|| black_box(draw(&plan, scores(rows.next()), level, &mut scratch)));
            });
        }
    }
}

fn decode(criterion: &mut Criterion) {
    width(criterion, "f32", &Rows::new(|x| x as f32), |x| Scores::F32(x));
    width(criterion, "bf16", &Rows::new(bf16::from_f64), |x| Scores::Bf16(x));
}

criterion_group!(benches, decode);
criterion_main!(benches);
