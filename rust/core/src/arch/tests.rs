use half::{bf16, f16};

use super::*;
use crate::row::{Mask, Scores};

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

fn widened(scores: Scores<'_>) -> Vec<f64> {
    match scores {
        Scores::F64(x) => x.to_vec(),
        Scores::F32(x) => x.iter().map(|&x| f64::from(x)).collect(),
        Scores::F16(x) => x.iter().map(|&x| f64::from(x)).collect(),
        Scores::Bf16(x) => x.iter().map(|&x| f64::from(x)).collect(),
    }
}

/// Both kernels at every level against plain loops.
fn check(scores: Scores<'_>, mask: Option<Mask<'_>>, bounds: &[f64]) {
    let x = widened(scores);
    let allowed = |id: &usize| mask.is_none_or(|mask| mask.allows(*id));
    let max = |ids: std::ops::Range<usize>| ids.filter(allowed).fold(f64::NEG_INFINITY, |max, id| max.max(x[id]));
    let expected: Vec<f64> = (0..x.len())
        .step_by(BLOCK)
        .map(|start| max(start..x.len().min(start + BLOCK)))
        .collect();
    let nan = (0..x.len()).filter(allowed).any(|id| x[id].is_nan());
    for level in Level::available() {
        let mut maxima = vec![f64::NAN; 3];
        let summary = block_maxima(level, scores, mask, &mut maxima);
        assert_eq!(summary.nan, nan, "{level:?}");
        if nan {
            continue;
        }
        assert_eq!(summary.max, max(0..x.len()), "{level:?}");
        assert_eq!(maxima, expected, "{level:?}");
        for &least in bounds {
            let (mut ids, mut values) = (vec![], vec![]);
            collect_above(
                level,
                scores,
                mask,
                &maxima,
                Bounds::from(least),
                (&mut ids, &mut values),
            );
            let kept: Vec<usize> = (0..x.len()).filter(allowed).filter(|&id| x[id] >= least).collect();
            assert_eq!(
                ids.iter().map(|&id| id as usize).collect::<Vec<_>>(),
                kept,
                "{level:?} {least}"
            );
            assert!(
                kept.iter()
                    .zip(&values)
                    .all(|(&id, value)| value.to_bits() == x[id].to_bits())
            );
        }
    }
}

fn check_widths(x: &[f64], mask: Option<Mask<'_>>, bounds: &[f64]) {
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let half: Vec<f16> = x.iter().map(|&x| f16::from_f64(x)).collect();
    let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
    check(Scores::F64(x), mask, bounds);
    check(Scores::F32(&single), mask, bounds);
    check(Scores::F16(&half), mask, bounds);
    check(Scores::Bf16(&brain), mask, bounds);
}

const BOUNDS: [f64; 7] = [f64::MIN, -1e300, -1.0, -0.0, 0.3, 1.9999, 1e300];

#[test]
fn kernels_agree_with_plain_loops_at_every_length_and_mask() {
    let mut next = noise(1);
    for length in (0..200).chain([255, 256, 257, 1000, 4095, 4097]) {
        let mut x: Vec<f64> = (0..length).map(|_| next()).collect();
        check_widths(&x, None, &BOUNDS);
        for i in (0..length).step_by(3) {
            x[i] = f64::NEG_INFINITY;
        }
        check_widths(&x, None, &BOUNDS);
        for share in [-1.9, 0.0, 1.9] {
            let flags: Vec<bool> = (0..length).map(|_| next() < share).collect();
            let mut words = vec![0_u32; length.div_ceil(32)];
            for (i, &flag) in flags.iter().enumerate() {
                words[i / 32] |= u32::from(flag) << (i % 32);
            }
            for cut in [0, 1, 2] {
                check_widths(&x, Some(Mask::Flags(&flags[..length - length.min(cut * 37)])), &BOUNDS);
                check_widths(
                    &x,
                    Some(Mask::Bits(&words[..words.len() - words.len().min(cut)])),
                    &BOUNDS,
                );
            }
        }
    }
}

#[test]
fn nan_and_infinities_count_only_where_allowed() {
    for length in [1, 63, 64, 65, 200] {
        for place in [0, length / 2, length - 1] {
            for odd in [f64::NAN, f64::INFINITY] {
                let mut x = vec![0.5; length];
                x[place] = odd;
                check_widths(&x, None, &[0.0]);
                let flags: Vec<bool> = (0..length).map(|i| i != place).collect();
                check_widths(&x, Some(Mask::Flags(&flags)), &[0.0]);
                // Past the end of a row nothing counts, whatever the mask says.
                check_widths(&x, Some(Mask::Bits(&[u32::MAX; 9])), &[0.0]);
            }
        }
    }
}

#[test]
fn of_ties_with_the_bound_the_first_are_collected() {
    let mut next = noise(2);
    let x: Vec<f32> = (0..5000).map(|_| next().round() as f32).collect();
    let flags: Vec<bool> = x.iter().map(|_| next() < 1.0).collect();
    for (least, limit) in [
        (1.0, 0),
        (1.0, 1),
        (1.0, 50),
        (0.0, 700),
        (-0.0, 1),
        (2.0, 3),
        (-2.0, 100_000),
    ] {
        let ids = || (0..x.len()).filter(|&id| flags[id]);
        let above = ids().filter(|&id| f64::from(x[id]) > least);
        let tied = ids().filter(|&id| f64::from(x[id]) == least);
        let mut wanted: Vec<usize> = above.chain(tied.take(limit)).collect();
        wanted.sort_unstable();
        for level in Level::available() {
            let (mut maxima, mut ids, mut values) = (vec![], vec![], vec![]);
            let (scores, mask) = (Scores::F32(&x), Some(Mask::Flags(&flags)));
            block_maxima(level, scores, mask, &mut maxima);
            let bounds = Bounds { least, limit };
            collect_above(level, scores, mask, &maxima, bounds, (&mut ids, &mut values));
            let ids: Vec<usize> = ids.into_iter().map(|id| id as usize).collect();
            assert!(ids.is_sorted() && wanted.iter().all(|id| ids.binary_search(id).is_ok()));
            assert!(
                ids.iter()
                    .zip(&values)
                    .all(|(&id, &value)| flags[id] && value == f64::from(x[id]))
            );
            assert!(values.iter().all(|&value| value >= least));
            // Not more than the rest of a block.
            assert!(ids.len() <= wanted.len() + BLOCK, "{level:?} {least} {limit}");
        }
    }
}

#[test]
fn levels_have_names() {
    let available: Vec<Level> = Level::available().collect();
    assert_eq!(available[0], Level::SCALAR);
    assert_eq!(available.last(), Some(&Level::best()));
    assert!(available.iter().all(|level| Level::NAMES.contains(&level.name())));
    assert!(available.iter().all(|level| Level::named(level.name()) == Some(*level)));
    assert_eq!(Level::named("mmx"), None);
}

#[test]
fn bounds_round_to_the_next_score() {
    for bound in [
        f64::MIN,
        -1e300,
        -1.0,
        -1e-320,
        0.0,
        1e-50,
        0.1,
        1.0 + f64::EPSILON,
        3e38,
        f64::MAX,
    ] {
        let least = lanes::f32_from(bound);
        assert!(
            f64::from(least) >= bound && f64::from(least.next_down()) < bound,
            "{bound}"
        );
    }
}
