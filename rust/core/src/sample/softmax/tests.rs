use super::*;
use crate::row::Scores;
use crate::sample::law::walk;

fn row(x: &[f32]) -> Row<'_> {
    Row {
        scores: Scores::F32(x),
        mask: None,
        anchor: None,
        weights: None,
        budget: None,
    }
}

fn masses<'a>(x: &'a [f32], scale: f64, level: Level, scratch: &'a mut SoftmaxScratch) -> Masses<'a> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponential = Exponential::new(scale, max.into()).expect("ordinary numbers");
    let mut sums = vec![];
    arch::block_sums(level, Scores::F32(x), None, &exponential, &mut sums);
    Masses::new(row(x), level, Terms::Cut(exponential, Cut::ALL), &sums, scratch)
}

/// Normal noise, or nearly.
fn noise(length: usize, spread: f64, seed: u64) -> Vec<f32> {
    let word = |i: usize, part| crate::sample::uniform(seed, i as u64, part, 9) as f64 / 2_f64.powi(64) - 0.5;
    (0..length)
        .map(|i| (spread * (0..12).map(|part| word(i, part)).sum::<f64>()) as f32)
        .collect()
}

/// The probability of each token, by exact arithmetic on the masses but for a rounding at the end.
fn law(masses: &mut Masses<'_>, length: usize) -> Vec<f64> {
    let mut q = vec![];
    let mut below = 0;
    for block in 0..masses.scratch.ends.len() {
        let end = masses.scratch.ends[block];
        let mass = (end - below) as f64 / masses.total as f64;
        below = end;
        let place = masses.open(block);
        let sum = masses.scratch.group_ends[place][GROUPS - 1] as f64;
        assert!(mass == 0.0 || sum > 0.0);
        let tokens = masses.scratch.terms[place * masses.width..][..masses.width]
            .iter()
            .map(|&term| token_mass(term));
        q.extend(tokens.map(|token| if mass > 0.0 { token as f64 / sum * mass } else { 0.0 }));
    }
    q.truncate(length);
    q
}

#[test]
fn masses_follow_the_softmax() {
    for (length, spread, scale) in [
        (1, 1.0, 1.0),
        (1000, 0.5, 1.0),
        (1025, 3.0, 1.25),
        (30_000, 2.0, 1.0),
        (30_000, 0.01, 0.3),
        (30_000, 12.0, 1.0),
        (150_000, 2.0, 1.0 / 0.7),
        (20_000, 40.0, 2.0),
    ] {
        let x = noise(length, spread, 5);
        let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let e = |x: &f32| libm::exp(scale * (f64::from(*x) - f64::from(top)));
        let z: f64 = x.iter().map(e).sum();
        let mut scratch = SoftmaxScratch::default();
        let found = law(&mut masses(&x, scale, Level::best(), &mut scratch), length);
        let mut variation = 0.0;
        for (x, found) in x.iter().zip(&found) {
            let q = e(x) / z;
            variation += 0.5 * (q - found).abs();
            assert!((q - found).abs() <= 3e-6 * q + 2_f64.powi(-40), "{q} {found}");
        }
        assert!(variation <= 1.5e-6, "{variation}");
    }
}

#[test]
fn blocks_of_tokens_that_are_light_one_by_one_keep_their_mass() {
    // Every token of the second block is below 2^-41, the block is not.
    let mut x = vec![-30.0_f32; 3 * SUM_BLOCK];
    x[5] = 0.0;
    let mut scratch = SoftmaxScratch::default();
    let mut masses = masses(&x, 1.0, Level::best(), &mut scratch);
    let found = law(&mut masses, x.len());
    assert!(found.iter().all(|&q| q > 0.0));
    assert_eq!(masses.draw(0).token, 0);
    assert_eq!(masses.draw(u64::MAX).token, x.len() as i64 - 1);
}

#[test]
fn ends_of_the_uniforms_are_the_first_and_last_token_with_mass() {
    for length in [1, 2, 64, 65, 1024, 1025, 3000] {
        let mut x = noise(length, 2.0, 3);
        if length > 4 {
            x[0] = -100.0;
            x[1] = f32::NEG_INFINITY;
            x[length - 1] = -1e30;
        }
        let last = if length > 4 { length - 2 } else { length - 1 };
        for level in Level::available() {
            let mut scratch = SoftmaxScratch::default();
            let mut masses = masses(&x, 1.0, level, &mut scratch);
            assert_eq!(masses.draw(0).token, if length > 4 { 2 } else { 0 });
            assert_eq!(masses.draw(u64::MAX).token, last as i64);
        }
    }
}

#[test]
fn every_boundary_of_small_rows_is_where_the_masses_say() {
    for x in [
        noise(20, 3.0, 1),
        noise(1030, 1.0, 2),
        vec![0.0; 7],
        vec![0.0, -200.0, -25.0, f32::NEG_INFINITY, 0.5, -20.0],
    ] {
        let mut scratch = SoftmaxScratch::default();
        let mut masses = masses(&x, 1.0, Level::best(), &mut scratch);
        let q = law(&mut masses, x.len());
        let with_mass: Vec<usize> = (0..x.len()).filter(|&i| q[i] > 0.0).collect();
        let (mut below, mut from) = (0.0, 0_u64);
        for pair in with_mass.windows(2) {
            below += q[pair[0]];
            // The first uniform past the token, by bisection: draws never go back as uniforms grow.
            let (mut low, mut high) = (from, u64::MAX);
            assert_eq!(masses.draw(low).token, pair[0] as i64);
            assert!(masses.draw(high).token >= pair[1] as i64);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                match masses.draw(middle).token <= pair[0] as i64 {
                    true => low = middle,
                    false => high = middle,
                }
            }
            assert_eq!(masses.draw(low).token, pair[0] as i64);
            assert_eq!(masses.draw(high).token, pair[1] as i64);
            assert!((high as f64 / 2_f64.powi(64) - below).abs() < 1e-13, "{below}");
            from = high;
        }
    }
}

#[test]
fn spans_are_the_uniforms_of_their_tokens() {
    for x in [
        noise(1, 1.0, 1),
        noise(20, 3.0, 1),
        noise(1030, 1.0, 2),
        noise(3000, 9.0, 4),
        vec![0.0, -200.0, -25.0, f32::NEG_INFINITY, 0.5, -20.0],
    ] {
        let mut scratch = SoftmaxScratch::default();
        let tokens = walk(&mut masses(&x, 1.0, Level::best(), &mut scratch));
        assert!(!tokens.is_empty() && tokens.len() <= x.len());
        let ids: Vec<u32> = (0..x.len() as u32).collect();
        let terms: Vec<f32> = x.iter().map(|x| x.exp()).collect();
        let mut ends = vec![];
        let with_mass = terms
            .iter()
            .filter(|&&term| rounded(f64::from(term) * GATHERED_SCALE) > 0);
        let count = with_mass.count();
        if terms.iter().sum::<f32>() < 1e4 {
            assert_eq!(walk(&mut Gathered::weighed(&ids, &terms, &mut ends)).len(), count);
        }
    }
}

#[test]
fn log_probabilities_are_those_of_the_law() {
    let x = noise(5000, 3.0, 8);
    let mut scratch = SoftmaxScratch::default();
    let mut masses = masses(&x, 0.9, Level::best(), &mut scratch);
    let q = law(&mut masses, x.len());
    for i in 0..2000_u64 {
        let draw = masses.draw(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let expected = libm::log(q[draw.token as usize]);
        assert!((draw.log_prob - expected).abs() < 2e-6);
        assert!(draw.log_prob <= 0.0);
    }
}
