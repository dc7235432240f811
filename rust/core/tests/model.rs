//! The model's own log-probabilities, and its best tokens.

mod common;

use common::*;
use optdecode_core::plan::*;
use optdecode_core::row::{Mask, Row, Scores};
use optdecode_core::solve::{Asked, model_log_probs};
use optdecode_core::{Level, Status, Workspace};
use proptest::prelude::*;

struct Answer {
    log_probs: Vec<f64>,
    top_tokens: Vec<i64>,
    top_log_probs: Vec<f64>,
    status: Status,
}

fn ask(plan: &Plan, row: &Row<'_>, level: Level, tokens: &[i64], count: usize) -> Answer {
    let mut answer = Answer {
        log_probs: vec![7.0; tokens.len()],
        top_tokens: vec![7; count],
        top_log_probs: vec![7.0; count],
        status: Status::Ok,
    };
    let mut asked = Asked {
        tokens,
        log_probs: &mut answer.log_probs,
        top_tokens: &mut answer.top_tokens,
        top_log_probs: &mut answer.top_log_probs,
    };
    answer.status = model_log_probs(plan, row, level, &mut asked, &mut Workspace::new());
    answer
}

/// Against a sort and a softmax in f64, at every level.
fn check(temperature: f64, row: &Row<'_>, count: usize) {
    let plan = Plan {
        temperature,
        ..plan(Objective::Softmax { lam: 1.0 })
    };
    let x = widened(row.scores);
    let allowed = |id: usize| row.mask.is_none_or(|mask| mask.allows(id)) && x[id] > f64::NEG_INFINITY;
    let mut order: Vec<usize> = (0..x.len()).filter(|&id| allowed(id)).collect();
    order.sort_by(|&a, &b| x[b].partial_cmp(&x[a]).expect("no NaN").then(a.cmp(&b)));
    let tokens: Vec<i64> = (-1..x.len() as i64).collect();
    let scalar = ask(&plan, row, Level::SCALAR, &tokens, count);
    for level in Level::available() {
        let other = ask(&plan, row, level, &tokens, count);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&other.log_probs), bits(&scalar.log_probs), "{level:?}");
        assert_eq!(bits(&other.top_log_probs), bits(&scalar.top_log_probs), "{level:?}");
        assert_eq!(
            (other.top_tokens, other.status),
            (scalar.top_tokens.clone(), scalar.status)
        );
    }
    let Answer {
        log_probs,
        top_tokens,
        top_log_probs,
        status,
    } = scalar;
    // Large scores are infinite as f16.
    let infinite = order.iter().any(|&id| x[id] == f64::INFINITY);
    if order.is_empty() || infinite {
        assert_eq!(
            status,
            if infinite {
                Status::InfScores
            } else {
                Status::Infeasible
            }
        );
        assert!(log_probs.iter().chain(&top_log_probs).all(|log| log.is_nan()));
        assert!(top_tokens.iter().all(|&token| token == -1));
        return;
    }
    assert_eq!(status, Status::Ok);
    let expected = log_softmax(&order.iter().map(|&id| x[id] / temperature).collect::<Vec<_>>());
    assert!(log_probs[0].is_nan(), "of no token");
    let mut model = vec![f64::NEG_INFINITY; x.len()];
    for (&id, &log_p) in order.iter().zip(&expected) {
        model[id] = log_p;
    }
    for (id, (&found, &expected)) in log_probs[1..].iter().zip(&model).enumerate() {
        // What is further below counts as 1e200 below.
        let expected = if expected > f64::NEG_INFINITY {
            expected.max(-1e200)
        } else {
            expected
        };
        let close = found == expected || (found - expected).abs() <= 2e-6 + 2e-7 * expected.abs();
        assert!(close, "{id}: {found} {expected}");
    }
    for place in 0..count {
        let (token, log) = (top_tokens[place], top_log_probs[place]);
        match order.get(place) {
            Some(&id) => assert_eq!((token, log.to_bits()), (id as i64, log_probs[id + 1].to_bits())),
            None => assert_eq!((token, log), (-1, f64::NEG_INFINITY)),
        }
    }
}

#[test]
fn adversarial_rows() {
    let mut rng = Rng(3);
    for (_, x) in adversarial() {
        let flags: Vec<bool> = x.iter().map(|_| rng.uniform() < 0.6).collect();
        for count in [0, 1, 5, 70] {
            in_narrow_widths(&x, &flags, |row| check(0.7, row, count));
            check(1.3, &row(&x), count);
        }
    }
}

#[test]
fn rows_without_a_distribution() {
    for (x, status) in [
        ([0.0_f32, f32::NAN, 1.0], Status::NanScores),
        ([0.0, f32::INFINITY, 1.0], Status::InfScores),
        ([f32::NEG_INFINITY; 3], Status::Infeasible),
    ] {
        let row = Row {
            scores: Scores::F32(&x),
            ..row(&[])
        };
        let answer = ask(&plan(Objective::Argmax), &row, Level::best(), &[0, 1], 2);
        assert_eq!(answer.status, status);
        assert!(
            answer
                .log_probs
                .iter()
                .chain(&answer.top_log_probs)
                .all(|log| log.is_nan())
        );
        assert_eq!(answer.top_tokens, [-1, -1]);
    }
}

#[test]
fn only_allowed_tokens_count() {
    let x = [0.5_f32, 2.0, 1.0, 3.0];
    let narrow = Row {
        scores: Scores::F32(&x),
        ..row(&[])
    };
    let some = Plan {
        allowed: Some(vec![0, 2]),
        ..plan(Objective::Softmax { lam: 1.0 })
    };
    let answer = ask(&some, &narrow, Level::best(), &[0, 1, 2, 9], 3);
    let z = (0.5_f64.exp() + 1.0_f64.exp()).ln();
    assert!((answer.log_probs[0] - (0.5 - z)).abs() < 1e-12 && (answer.log_probs[2] - (1.0 - z)).abs() < 1e-12);
    assert_eq!(
        (answer.log_probs[1], answer.log_probs[3]),
        (f64::NEG_INFINITY, f64::NEG_INFINITY)
    );
    assert_eq!(answer.top_tokens, [2, 0, -1]);
}

proptest! {
    #[test]
    fn any_row(
        x in prop::collection::vec(prop_oneof![8 => -20.0..20.0_f64, 1 => Just(f64::NEG_INFINITY), 1 => Just(3.0)], 1..3000),
        flags in prop::collection::vec(any::<bool>(), 0..3000),
        masked in any::<bool>(),
        temperature in 0.1..3.0_f64,
        count in 0_usize..200,
    ) {
        let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let row = Row {
            scores: Scores::F32(&single),
            mask: masked.then_some(Mask::Flags(&flags)),
            ..row(&[])
        };
        check(temperature, &row, count);
    }
}
