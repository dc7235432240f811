use half::{bf16, f16};

use super::super::{block_sums, count_from};
use super::*;

fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1_u64 << 22) as f64 - 2.0
    }
}

/// Scores of eighths, so that there are ties, in every width.
fn with_rows(mut check: impl FnMut(Scores<'_>, Option<Mask<'_>>, &[Option<f32>])) {
    let mut next = noise(5);
    for length in [1, 15, 64, 65, 1000, 1024, 1025, 5003] {
        let mut x: Vec<f32> = (0..length).map(|_| (next() * 8.0).round() as f32 / 8.0).collect();
        x[length / 2] = f32::NEG_INFINITY;
        let flags: Vec<bool> = x.iter().map(|_| next() < 1.0).collect();
        for mask in [None, Some(Mask::Flags(&flags))] {
            let scores: Vec<Option<f32>> = (0..length)
                .map(|id| Some(x[id]).filter(|x| x.is_finite() && mask.is_none_or(|mask| mask.allows(id))))
                .collect();
            let half: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
            let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            check(Scores::F32(&x), mask, &scores);
            check(Scores::F16(&half), mask, &scores);
            check(Scores::Bf16(&brain), mask, &scores);
        }
    }
}

#[test]
fn a_split_sums_what_is_above_and_gathers_what_is_between() {
    let exponential = Exponential::new(0.8, 2.0).expect("ordinary");
    with_rows(|scores, mask, x| {
        for (least, below) in [(-0.3, 0.7), (0.0, 0.125), (f64::MIN, 0.0), (1.0, 1e300), (0.5, 0.5)] {
            let inside = |x: f32| f64::from(x) >= least && f64::from(x) < below;
            let wanted: Vec<(u32, f32)> = (0..)
                .zip(x)
                .filter_map(|(id, &x)| x.filter(|&x| inside(x)).map(|x| (id, x)))
                .collect();
            let mut expected = vec![];
            block_sums(Level::SCALAR, scores, mask, &exponential.from(below), &mut expected);
            for level in Level::available() {
                for limit in [usize::MAX, wanted.len(), wanted.len().saturating_sub(1), 0] {
                    let (mut sums, mut ids, mut values) = (vec![7.0], vec![], vec![]);
                    let bounds = Bounds { least, limit };
                    let out = (&mut ids, &mut values);
                    let complete = split(level, scores, mask, &exponential, (bounds, below), &mut sums, out);
                    assert_eq!(complete, wanted.len() <= limit);
                    assert_eq!(sums, expected, "{level:?}");
                    let found: Vec<(u32, f32)> = ids.into_iter().zip(values).collect();
                    assert_eq!(found[..], wanted[..found.len()], "{level:?}");
                    assert!(!complete || found.len() == wanted.len());
                }
            }
        }
    });
}

#[test]
fn ties_are_counted_up_to_the_last() {
    with_rows(|scores, mask, x| {
        for score in [0.0, -0.0, 0.125, 2.0, 3.0] {
            for last in [0, 1, 62, 63, 64, 1023, 1024, 4000, u32::MAX] {
                let is_tied = |(id, x): &(usize, &Option<f32>)| *id <= last as usize && **x == Some(score);
                let mut expected = vec![0; x.len().div_ceil(SUM_BLOCK)];
                for (id, _) in x.iter().enumerate().filter(is_tied) {
                    expected[id / SUM_BLOCK] += 1;
                }
                for level in Level::available() {
                    let mut counts = vec![9];
                    count_ties(level, scores, mask, score, last, &mut counts);
                    assert_eq!(counts, expected, "{level:?} {score} {last}");
                }
            }
        }
    });
}

#[test]
fn what_is_kept_stays_in_order() {
    let mut next = noise(6);
    for length in [0, 1, 7, 8, 16, 31, 100, 3000] {
        let values: Vec<f32> = (0..length).map(|_| next() as f32).collect();
        let terms: Vec<f32> = (0..length).map(|_| next() as f32).collect();
        for window in [[-1.0, 1.0], [0.1, 0.2], [f32::MIN, f32::INFINITY], [0.0, 0.0]] {
            let inside = |x: f32| x >= window[0] && x < window[1];
            let wanted: Vec<(f32, f32)> = values
                .iter()
                .copied()
                .zip(terms.iter().copied())
                .filter(|&(x, _)| inside(x))
                .collect();
            for level in Level::available() {
                let (mut x, mut e) = (vec![5.0; 3], vec![5.0]);
                keep_between(level, (&values, &terms), window, (&mut x, &mut e));
                let found: Vec<(f32, f32)> = x.iter().copied().zip(e).collect();
                assert_eq!(found, wanted, "{level:?}");
                assert_eq!(count_from(level, &x, window[0]), x.len());
            }
        }
    }
}
