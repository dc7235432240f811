//! Scores with their terms, and the score from which on these reach a target: no sort, and no pass over all of them for each step.

use crate::arch::{self, Level};

/// Scores and their terms.
#[derive(Clone, Copy)]
pub(super) struct Weighed<'a> {
    pub(super) level: Level,
    pub(super) values: &'a [f32],
    pub(super) terms: &'a [f32],
}

/// Scratch; no value survives a call.
#[derive(Clone, Debug, Default)]
pub(super) struct WeighedScratch {
    kept: [Kept; 2],
}

#[derive(Clone, Debug, Default)]
struct Kept {
    values: Vec<f32>,
    terms: Vec<f32>,
}

/// Where a threshold lies.
#[derive(Clone, Copy)]
struct Window {
    low: f32,
    /// The highest score in it.
    high: f32,
    /// The mass above it.
    above: f64,
    /// The mass inside.
    mass: f64,
    /// A sample is no guide to masses where few scores have most of it: then it is one to ranks.
    by_mass: bool,
}

/// A score, and the mass above it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Threshold {
    pub(super) least: f32,
    pub(super) above: f64,
}

/// Scores that a window is narrowed by.
const SAMPLE: usize = 32;

/// Places in the sample on either side of where the threshold should be.
const MARGIN: usize = 4;

/// So few are searched bit by bit.
const FEW: usize = 512;

impl Weighed<'_> {
    /// The sum of the terms of scores from `least` on: it never falls as `least` does, rounding included.
    pub(super) fn mass(&self, least: f32) -> f64 {
        arch::mass_from(self.level, self.values, self.terms, least)
    }

    /// The highest score from `low` to `high` from which on the mass, with what lies `above`, reaches the target; none if `low`
    /// does not. `low` itself need not be one of the scores; `high` is at least the highest.
    pub(super) fn threshold(
        &self,
        (low, high): (f32, f32),
        above: f64,
        target: f64,
        scratch: &mut WeighedScratch,
    ) -> Option<Threshold> {
        let mass = self.mass(low);
        let mut window = Window {
            low,
            high,
            above,
            mass,
            by_mass: true,
        };
        if above + mass < target {
            return None;
        }
        let [from, to] = &mut scratch.kept;
        let mut narrowed = false;
        loop {
            let weighed = match narrowed {
                false => *self,
                true => self.of(from),
            };
            if weighed.values.len() <= FEW {
                return Some(weighed.bisected(&window, target));
            }
            window = weighed.narrower(&window, target);
            if window.low == window.high {
                return Some(Threshold {
                    least: window.low,
                    above: window.above,
                });
            }
            let bounds = [window.low, window.high.next_up()];
            let kept = (&mut to.values, &mut to.terms);
            arch::keep_between(self.level, (weighed.values, weighed.terms), bounds, kept);
            std::mem::swap(from, to);
            narrowed = true;
        }
    }

    fn of<'a>(&self, kept: &'a Kept) -> Weighed<'a> {
        Weighed {
            level: self.level,
            values: &kept.values,
            terms: &kept.terms,
        }
    }

    /// Part of a window that has the threshold: as a rule what lies between two scores of a sample. One score, if that is all
    /// there is; and never all of the window twice in a row.
    fn narrower(&self, window: &Window, target: f64) -> Window {
        let [low, high] = self.bounds(window, target);
        let over = self.mass(high.next_up());
        if window.above + over >= target {
            return Window {
                low: high.next_up(),
                mass: over,
                by_mass: false,
                ..*window
            };
        }
        let from = self.mass(low);
        if window.above + from < target && low > window.low {
            return Window {
                high: low.next_down(),
                above: window.above + from,
                mass: window.mass - from,
                by_mass: false,
                ..*window
            };
        }
        Window {
            low,
            high,
            above: window.above + over,
            mass: from - over,
            by_mass: low > window.low && high < window.high,
        }
    }

    /// Two scores between which the threshold should lie, or the same one twice, which takes its ties out at any rate.
    fn bounds(&self, window: &Window, target: f64) -> [f32; 2] {
        let stride = self.values.len() / SAMPLE;
        let mut sample: [(f32, f32); SAMPLE] =
            std::array::from_fn(|i| (self.values[i * stride], self.terms[i * stride]));
        sample.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let within = |x: f32| x.clamp(window.low, window.high);
        if !window.by_mass {
            return [within(sample[SAMPLE / 2].0); 2];
        }
        let total: f64 = sample.iter().map(|&(_, e)| f64::from(e)).sum();
        let mut missing = (target - window.above) / window.mass * total;
        let place = sample.iter().position(|&(_, e)| {
            missing -= f64::from(e);
            missing <= 0.0
        });
        let place = place.unwrap_or(SAMPLE);
        let low = sample.get(place + MARGIN).map_or(window.low, |&(x, _)| within(x));
        let high = match place.checked_sub(MARGIN + 1) {
            Some(place) => within(sample[place].0),
            None => window.high,
        };
        [low, high]
    }

    /// The threshold in a window that has one.
    fn bisected(&self, window: &Window, target: f64) -> Threshold {
        let reaches = |least: i32| window.above + self.mass(score(least)) >= target;
        // Sums in another order may round to less: then it is the lowest score.
        let least = match last_true(order(window.low), order(window.high), reaches) {
            Some(least) => score(least),
            None => (self.values.iter().copied().filter(|&x| x >= window.low)).fold(window.high, f32::min),
        };
        Threshold {
            least,
            above: window.above + self.mass(least.next_up()),
        }
    }
}

/// The last of the integers from `low` to `high` for which a test holds that holds up to some integer; none if not for `low`.
pub(super) fn last_true(low: i32, high: i32, mut test: impl FnMut(i32) -> bool) -> Option<i32> {
    if low > high || !test(low) {
        return None;
    }
    let (mut low, mut beyond) = (i64::from(low), i64::from(high) + 1);
    while beyond - low > 1 {
        let middle = low + (beyond - low) / 2;
        if test(middle as i32) {
            low = middle;
        } else {
            beyond = middle;
        }
    }
    Some(low as i32)
}

/// Integers in the order of the scores; 0 and -0 are one.
pub(super) fn order(x: f32) -> i32 {
    let bits = (x + 0.0).to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

/// The score of an integer.
pub(super) fn score(order: i32) -> f32 {
    f32::from_bits((order ^ ((order >> 31) as u32 >> 1) as i32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_the_order_of_scores() {
        let scores = [f32::MIN, -1e30, -1.0, -1e-45, 0.0, 1e-45, 0.5, 1.0, f32::MAX];
        for pair in scores.windows(2) {
            assert!(order(pair[0]) < order(pair[1]));
        }
        for x in scores {
            assert_eq!(score(order(x)), x);
            assert_eq!(order(x.next_up()), order(x) + 1 + i32::from(x == -1e-45));
        }
        assert_eq!(order(-0.0), order(0.0));
    }

    #[test]
    fn the_last_integer_that_passes_is_found() {
        for last in [-7, 0, 3, 12] {
            assert_eq!(last_true(-7, 12, |x| x <= last), Some(last));
        }
        assert_eq!(last_true(-7, 12, |x| x <= -8), None);
        assert_eq!(last_true(i32::MIN, i32::MAX, |x| x <= 5), Some(5));
    }

    /// Terms that are integers, so that no sum rounds.
    fn rows() -> Vec<(Vec<f32>, Vec<f32>)> {
        let mut state = 3_u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let mut rows = vec![];
        for count in [1, 5, 100, 513, 3000, 20_000] {
            for grain in [0.0, 1e-3, 0.3, 10.0] {
                for weight in [0, 3, 9] {
                    let values: Vec<f32> = (0..count)
                        .map(|_| next() * 8.0 - 4.0)
                        .map(|x| if grain > 0.0 { (x / grain).round() * grain } else { x })
                        .collect();
                    let terms = values.iter().map(|x| (4.0 + x).powi(weight).round() + 1.0).collect();
                    rows.push((values, terms));
                }
            }
        }
        rows
    }

    #[test]
    fn a_threshold_is_what_sorting_finds() {
        let mut scratch = WeighedScratch::default();
        for (values, terms) in rows() {
            let mut sorted: Vec<(f32, f32)> = values.iter().copied().zip(terms.iter().copied()).collect();
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
            let all: f64 = terms.iter().map(|&e| f64::from(e)).sum();
            // In f32, sums of integers round from here on.
            let exact = terms.iter().fold(0.0, |max, &e| f64::max(max, e.into())) < 1e3;
            for share in [1e-9, 0.01, 0.3, 0.7, 0.95, 0.999, 1.0] {
                if !exact && share == 1.0 {
                    continue;
                }
                let (above, target) = (17.0, 17.0 + share * all);
                let mut mass = above;
                let first = sorted.iter().position(|&(_, e)| {
                    mass += f64::from(e);
                    mass >= target
                });
                let least = sorted[first.expect("all have the mass")].0;
                for level in Level::available() {
                    let weighed = Weighed {
                        level,
                        values: &values,
                        terms: &terms,
                    };
                    let found = weighed.threshold((f32::MIN, 5.0), above, target, &mut scratch);
                    let found = found.map_or((f32::NAN, f64::NAN), |found| (found.least, found.above));
                    let over: f64 = (sorted.iter().filter(|&&(x, _)| x > found.0))
                        .map(|&(_, e)| f64::from(e))
                        .sum();
                    assert!((found.1 - above - over).abs() <= 1e-6 * all);
                    if exact {
                        assert_eq!(found.0, least, "{level:?} {share} {}", values.len());
                    } else {
                        let from: f64 = (sorted.iter().filter(|&&(x, _)| x >= found.0))
                            .map(|&(_, e)| f64::from(e))
                            .sum();
                        assert!(over <= (share + 1e-6) * all && from >= (share - 1e-6) * all);
                    }
                }
            }
            let weighed = Weighed {
                level: Level::best(),
                values: &values,
                terms: &terms,
            };
            assert_eq!(weighed.threshold((f32::MIN, 5.0), 0.0, 1.001 * all, &mut scratch), None);
        }
    }

    /// A sample whose scores rank lower than their places say, by as much as a window allows for: thresholds are then its upper ends.
    #[test]
    fn a_threshold_may_be_the_end_of_a_window() {
        const STRIDE: usize = 38;
        const COUNT: usize = SAMPLE * STRIDE;
        let sampled = |i: usize| match (i + MARGIN + 1) * STRIDE + 1 {
            rank if rank <= COUNT => rank,
            _ => COUNT - (SAMPLE - 1 - i),
        };
        let places: Vec<usize> = (0..SAMPLE).map(sampled).collect();
        let mut others = (1..=COUNT).filter(|rank| !places.contains(rank));
        let values: Vec<f32> = (0..COUNT)
            .map(|at| match at % STRIDE {
                0 => places[at / STRIDE],
                _ => others.next().expect("as many as places"),
            })
            .map(|rank| -(rank as f32))
            .collect();
        let terms = vec![1.0; COUNT];
        for level in Level::available() {
            let weighed = Weighed {
                level,
                values: &values,
                terms: &terms,
            };
            for rank in 1..=COUNT {
                let found = weighed.threshold((f32::MIN, 0.0), 0.0, rank as f64, &mut WeighedScratch::default());
                let (least, above) = (-(rank as f32), rank as f64 - 1.0);
                assert_eq!(found, Some(Threshold { least, above }), "{level:?}");
            }
        }
    }
}
