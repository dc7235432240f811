use half::{bf16, f16};

use super::*;
use crate::arch::exp::DEPTH;
use crate::arch::scalar::fused;
use crate::arch::{Sweep, block_maxima, sweep as fused_sweep};

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

/// Both kernels at every level: the same bits, sums of the terms, and terms near the exponentials.
fn check(scores: Scores<'_>, x: &[f64], mask: Option<Mask<'_>>, scale: f64) {
    let max = block_maxima(Level::SCALAR, scores, mask, &mut vec![]).max;
    let Some(exponential) = (max > f64::NEG_INFINITY)
        .then(|| Exponential::new(scale, max))
        .flatten()
    else {
        return;
    };
    let mut expected: Option<(Vec<u64>, Vec<u32>)> = None;
    for level in Level::available() {
        let mut sums = vec![f64::NAN; 2];
        block_sums(level, scores, mask, &exponential, &mut sums);
        let mut terms = vec![];
        for (block, &found) in sums.iter().enumerate() {
            let mut of_block = [f32::NAN; SUM_BLOCK];
            block_terms(level, scores, mask, &exponential, block, &mut of_block);
            let sum: f64 = of_block.iter().map(|&term| f64::from(term)).sum();
            assert!((found - sum).abs() <= 1e-6 * sum, "{level:?} {found} {sum}");
            terms.extend_from_slice(&of_block);
        }
        assert!(terms[x.len()..].iter().all(|&term| term.to_bits() == 0));
        let bits = (
            sums.iter().map(|sum| sum.to_bits()).collect(),
            terms.iter().map(|term| term.to_bits()).collect(),
        );
        match &expected {
            Some(expected) => assert!(*expected == bits, "{level:?}"),
            None => expected = Some(bits),
        }
        for (id, (&x, &term)) in x.iter().zip(&terms).enumerate() {
            let octaves = (x * exponential.scale() - exponential.offset()) * std::f64::consts::LOG2_E;
            if mask.is_some_and(|mask| !mask.allows(id)) || octaves < -DEPTH - 1.0 {
                assert_eq!(term.to_bits(), 0);
            } else if octaves > 1.0 - DEPTH {
                let error = f64::from(term) / libm::exp2(octaves) - 1.0;
                // Where x C is in the thousands and more, this reference itself is off.
                assert!(error.abs() <= 9e-7 + 1e-15 * (x * scale).abs(), "{x} {scale}: {error}");
            }
        }
    }
    assert!(expected.is_some());
    check_sweep(scores, x, mask, scale, &exponential);
}

/// The fused sweep at every level: the same bits, the maxima, and sums near those of the terms.
fn check_sweep(scores: Scores<'_>, x: &[f64], mask: Option<Mask<'_>>, scale: f64, exponential: &Exponential) {
    let allowed = |&id: &usize| id < x.len() && mask.is_none_or(|mask| mask.allows(id));
    let largest = |ids: &mut dyn Iterator<Item = usize>| {
        ids.filter(allowed)
            .fold(f32::NEG_INFINITY, |max, id| max.max(x[id] as f32))
    };
    let brain = matches!(scores, Scores::Bf16(_));
    let strided = |start: usize, lane: usize, count: usize| {
        (0..count / LANES).map(move |j| match brain {
            true => start + 2 * lane + j % 2 + 2 * LANES * (j / 2),
            false => start + lane + LANES * j,
        })
    };
    let maxima = |count: usize| -> Vec<f32> {
        let starts = (0..x.len()).step_by(count);
        starts
            .flat_map(|start| (0..LANES).map(move |lane| (start, lane)))
            .map(|(start, lane)| largest(&mut strided(start, lane, count)))
            .collect()
    };
    let mut expected: Option<Vec<u64>> = None;
    for level in Level::available() {
        let mut sweep = Sweep::default();
        let (summary, found) = fused_sweep(level, scores, mask, scale, true, &mut sweep).expect("a narrow row");
        assert_eq!(
            (summary.max, summary.nan),
            (f64::from(largest(&mut (0..x.len()))), false)
        );
        assert_eq!(found.as_ref(), Some(exponential));
        let spans = maxima(4 * BLOCK);
        assert_eq!(sweep.maxima[..spans.len()], spans);
        assert!(sweep.maxima[spans.len()..].iter().all(|&x| x == f32::NEG_INFINITY));
        assert_eq!(sweep.tops, maxima(SUM_BLOCK));
        let mut sums = vec![];
        block_sums(level, scores, mask, exponential, &mut sums);
        for (found, sum) in sweep.sums.iter().zip(&sums) {
            assert!((found - sum).abs() <= 2e-6 * sum + 1e-20, "{level:?} {found} {sum}");
        }
        let bits = sweep.sums.iter().map(|sum| sum.to_bits()).collect();
        match &expected {
            Some(expected) => assert!(*expected == bits, "{level:?}"),
            None => expected = Some(bits),
        }
    }
}

fn check_widths(x: &[f64], mask: Option<Mask<'_>>) {
    let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let half: Vec<f16> = x.iter().map(|&x| f16::from_f64(x)).collect();
    let brain: Vec<bf16> = x.iter().map(|&x| bf16::from_f64(x)).collect();
    let wide = |x: &mut dyn Iterator<Item = f64>| x.collect::<Vec<_>>();
    for scale in [1.0, 1.25, 0.013, 30.0, 1.0 / 3.0] {
        check(
            Scores::F32(&single),
            &wide(&mut single.iter().map(|&x| x.into())),
            mask,
            scale,
        );
        check(
            Scores::F16(&half),
            &wide(&mut half.iter().map(|&x| x.into())),
            mask,
            scale,
        );
        check(
            Scores::Bf16(&brain),
            &wide(&mut brain.iter().map(|&x| x.into())),
            mask,
            scale,
        );
    }
}

#[test]
fn all_levels_give_the_same_bits_at_every_length_and_mask() {
    let mut next = noise(1);
    for length in (1..200).chain([1000, 1023, 1024, 1025, 1087, 2047, 2048, 2049, 5000]) {
        let mut x: Vec<f64> = (0..length).map(|_| 8.0 * next()).collect();
        check_widths(&x, None);
        for i in (0..length).step_by(3) {
            x[i] = f64::NEG_INFINITY;
        }
        check_widths(&x, None);
        let flags: Vec<bool> = (0..length).map(|_| next() < 0.5).collect();
        let mut words = vec![0_u32; length.div_ceil(32)];
        for (i, &flag) in flags.iter().enumerate() {
            words[i / 32] |= u32::from(flag) << (i % 32);
            if !flag && i % 2 == 0 {
                x[i] = f64::NAN;
            } else if !flag {
                x[i] = f64::INFINITY;
            }
        }
        check_widths(&x, Some(Mask::Flags(&flags)));
        check_widths(&x, Some(Mask::Bits(&words)));
        let cut = length.min(37);
        check_widths(&x, Some(Mask::Flags(&flags[..length - cut])));
    }
}

#[test]
fn odd_scores() {
    let extremes = [
        0.0,
        -0.0,
        1e-45,
        -1e-40,
        1e-20,
        3.0,
        -3.0,
        1e4,
        -1e4,
        -1e30,
        -3.4e38,
        f64::NEG_INFINITY,
    ];
    for length in [1, 12, 65, 1500] {
        let x: Vec<f64> = (0..length).map(|i| extremes[i % extremes.len()]).collect();
        check_widths(&x, None);
        check_widths(&vec![-2.5; length], None);
        let mut peaked = vec![-60.0; length];
        peaked[length / 2] = 25.0;
        check_widths(&peaked, None);
        // All the way down to where terms are cut off.
        let slope: Vec<f64> = (0..length).map(|i| 7.0 - 0.06 * i as f64).collect();
        check_widths(&slope, None);
    }
}

#[test]
fn numbers_out_of_the_ordinary_are_refused() {
    for (scale, max, ordinary) in [
        (1.0, 1e6, true),
        (1.0, -1e6, true),
        (1.0, 3e38, true),
        (1e5, 30.0, true),
        (1e-31, 0.0, false),
        (1e31, 0.0, false),
        (f64::INFINITY, 0.0, false),
        (0.0, 0.0, false),
        (1e-20, 1e25, true),
    ] {
        assert_eq!(Exponential::new(scale, max).is_some(), ordinary, "{scale} {max}");
    }
}

#[test]
fn fused_products_round_once() {
    let mut next = noise(2);
    for i in 0..200_000 {
        let (a, b) = (next() as f32, next() as f32);
        let c = match i % 4 {
            0 => -a * b,
            1 => (next() * 1e-8) as f32,
            2 => (next() * 1e7) as f32,
            _ => next() as f32,
        };
        assert_eq!(fused(a, b, c).to_bits(), a.mul_add(b, c).to_bits(), "{a} {b} {c}");
    }
    // In f64 the sum falls on the middle between two f32, from either side of which it came.
    let (a, c) = (1.0 + f32::EPSILON, 2.0_f32.powi(-60));
    for c in [c, -c, 0.0] {
        for b in [1.5, 0.5, 3.0 * f32::EPSILON] {
            assert_eq!(fused(a, b, c).to_bits(), a.mul_add(b, c).to_bits());
        }
    }
}
