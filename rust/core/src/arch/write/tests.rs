use half::{bf16, f16};

use super::*;
use crate::arch::{block_maxima, block_sums, block_terms, term_of};

/// A generator good enough for test data.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1_u64 << 22) as f64 - 2.0
    }
}

/// The columns of a row at a level.
fn written(
    level: Level,
    scores: Scores<'_>,
    mask: Option<Mask<'_>>,
    density: &Density,
) -> (Vec<f32>, Vec<f32>, Vec<bool>) {
    let v = scores.len();
    let (mut probs, mut log_probs, mut face) = (vec![f32::NAN; v], vec![f32::NAN; v], vec![true; v]);
    let columns = Columns {
        probs: Some(&mut probs),
        log_probs: Some(&mut log_probs),
        face: Some(&mut face),
    };
    write_columns(level, scores, mask, density, columns);
    (probs, log_probs, face)
}

/// Columns of a row at every level: the same bits, each column the same without the others, q from the terms, log q by its
/// formula.
fn check(scores: Scores<'_>, mask: Option<Mask<'_>>, scale: f64, least: f64, last: u32) {
    let max = block_maxima(Level::SCALAR, scores, mask, &mut vec![]).max;
    let Some(exponential) = (max > f64::NEG_INFINITY)
        .then(|| Exponential::new(scale, max))
        .flatten()
    else {
        return;
    };
    let mut sums = vec![];
    block_sums(Level::SCALAR, scores, mask, &exponential, &mut sums);
    let z: f64 = sums.iter().sum();
    let density = Density {
        exponential,
        z,
        scale,
        max,
        depth: (z / f64::from(term_of(&exponential, max as f32))).ln(),
        least: least.min(max),
        last,
        bend: None,
    };
    let expected = written(Level::SCALAR, scores, mask, &density);
    for level in Level::available() {
        let (probs, log_probs, face) = written(level, scores, mask, &density);
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same(&probs, &expected.0), "{level:?} {density:?}");
        assert!(same(&log_probs, &expected.1), "{level:?} {density:?}");
        assert_eq!(face, expected.2, "{level:?} {density:?}");
        let mut alone = vec![f32::NAN; scores.len()];
        let columns = Columns {
            probs: Some(&mut alone),
            ..Columns::default()
        };
        write_columns(level, scores, mask, &density, columns);
        assert!(same(&probs, &alone));
    }
    for block in 0..sums.len() {
        let mut terms = [0.0; 1024];
        block_terms(Level::SCALAR, scores, mask, &exponential, block, &mut terms);
        for (id, term) in (block * 1024..scores.len()).zip(terms) {
            check_token(scores.at(id), id, f64::from(term), mask, &density, &expected);
        }
    }
}

fn check_token(
    x: f64,
    id: usize,
    term: f64,
    mask: Option<Mask<'_>>,
    density: &Density,
    (probs, log_probs, face): &(Vec<f32>, Vec<f32>, Vec<bool>),
) {
    let allowed = mask.is_none_or(|mask| mask.allows(id)) && x > f64::NEG_INFINITY;
    let kept = x > density.least || (x == density.least && id <= density.last as usize);
    assert_eq!(face[id], allowed && kept, "{id} {x} {density:?}");
    if !face[id] {
        assert_eq!((probs[id].to_bits(), log_probs[id]), (0, f32::NEG_INFINITY));
        return;
    }
    let (q, found) = (term / density.z, f64::from(probs[id]));
    assert!((found - q).abs() <= 2.4e-7 * q + 2.0_f64.powi(-113), "{x}: {found} {q}");
    let log_q = density.scale * (x - density.max) - density.depth;
    let found = f64::from(log_probs[id]);
    let lowest = log_q.min(x - density.max) / f64::from(f32::MAX);
    if lowest < -1.0 {
        assert_eq!(found, f64::NEG_INFINITY);
    } else if lowest > 2e-6 - 1.0 {
        assert!(
            (found - log_q).abs() <= 1e-6 + 6.1e-8 * log_q.abs(),
            "{x}: {found} {log_q} {density:?}"
        );
    }
}

/// All widths, scales, and cuts by score and by index.
fn check_widths(x: &[f64], mask: Option<Mask<'_>>) {
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let half: Vec<f16> = x.iter().map(|&x| f16::from_f64(x)).collect();
    let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
    let v = x.len();
    for scores in [Scores::F32(&single), Scores::F16(&half), Scores::Bf16(&brain)] {
        let some = match scores.at(v / 2) {
            x if x.is_finite() => x,
            _ => 0.0,
        };
        for scale in [1.0, 0.013, 30.0 / 7.0] {
            check(scores, mask, scale, f64::MIN, u32::MAX);
            check(scores, mask, scale, some, u32::MAX);
            for last in [0, v / 2, v - 1] {
                check(scores, mask, scale, some, last as u32);
            }
        }
    }
}

#[test]
fn all_levels_write_the_same_bits_at_every_length_and_mask() {
    let mut next = noise(3);
    for length in (1..140).chain([191, 192, 193, 1000, 1023, 1024, 1025, 1087, 2049, 5000]) {
        let mut x: Vec<f64> = (0..length).map(|_| (32.0 * next()).round() / 4.0).collect();
        check_widths(&x, None);
        for i in (0..length).step_by(3) {
            x[i] = f64::NEG_INFINITY;
        }
        check_widths(&x, None);
        let flags: Vec<bool> = (0..length).map(|_| next() < 0.5).collect();
        let mut words = vec![0_u32; length.div_ceil(32)];
        for (i, &flag) in flags.iter().enumerate() {
            words[i / 32] |= u32::from(flag) << (i % 32);
            if !flag {
                x[i] = [f64::NAN, f64::INFINITY][i % 2];
            }
        }
        check_widths(&x, Some(Mask::Flags(&flags)));
        check_widths(&x, Some(Mask::Bits(&words)));
        check_widths(&x, Some(Mask::Flags(&flags[..length - length.min(37)])));
    }
}

#[test]
fn logarithms_of_large_scores_do_not_cancel() {
    let mut next = noise(4);
    for top in [0.0, 1e3, 1.5e6, 3e7, 1e12, 3e38, -1.5e6, -3e38] {
        let x: Vec<f64> = (0..300)
            .map(|i| {
                let x = (top + [1.0, 30.0, 1e4][i % 3] * next()) as f32;
                f64::from(if i % 50 == 7 { -x } else { x })
            })
            .collect();
        let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        for scale in [1.0, 1.0 / 3.0, 1e-6, 1e-12, 1e-29, 1e3, 1e25] {
            check(Scores::F32(&single), None, scale, f64::MIN, u32::MAX);
        }
    }
}

#[test]
fn ties_by_the_thousand_end_at_an_index() {
    let single: Vec<f32> = (0..3000).map(|i| [2.0, 1.0, 1.0, -0.0, 0.0][i % 5]).collect();
    for least in [2.0, 1.0, 0.0, -0.0] {
        for last in [0, 1, 62, 63, 64, 65, 1023, 1024, 2987, 2999, u32::MAX] {
            check(Scores::F32(&single), None, 1.0, least, last);
        }
    }
}
