//! Rules on the order of the tokens, and the selection that finds a prefix of an order without sorting.

use std::cmp::Ordering;

/// A token of a compact set with the value that ranks it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranked {
    /// The larger the earlier.
    pub(crate) value: f64,
    /// Position in the compact set, hence ascending in the token id.
    pub(crate) index: u32,
}

impl Ranked {
    /// Value descending, index ascending. Values are not NaN; 0 and -0 tie.
    pub(crate) fn order(&self, other: &Ranked) -> Ordering {
        by_score((self.value, self.index), (other.value, other.index))
    }
}

/// The order of tokens: value descending, index ascending.
pub(super) fn by_score(a: (f64, u32), b: (f64, u32)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

/// Fills `ranked` with the values.
pub(crate) fn rank(values: &[f64], ranked: &mut Vec<Ranked>) {
    ranked.clear();
    ranked.extend(values.iter().zip(0..).map(|(&value, index)| Ranked { value, index }));
}

/// The length of the longest prefix of the order whose last token `fits`, moved to the front of `items` (unsorted).
///
/// `fits(prefix, fresh)` says whether the last item of `prefix` belongs; it must be monotone: true, then false, along
/// the order. `prefix[..fresh]` were accepted by an earlier call, so an additive measure need only look at the rest.
/// Each step halves the undecided part with a linear-time selection: O(n) for a measure that looks at the fresh items.
pub(crate) fn prefix(items: &mut [Ranked], fits: impl FnMut(&[Ranked], usize) -> bool) -> usize {
    prefix_by(items, Ranked::order, fits)
}

/// The same in another order.
pub(super) fn prefix_by(
    items: &mut [Ranked],
    order: impl Fn(&Ranked, &Ranked) -> Ordering,
    mut fits: impl FnMut(&[Ranked], usize) -> bool,
) -> usize {
    let (mut low, mut high) = (0, items.len());
    while low < high {
        let middle = low + (high - low) / 2;
        items[low..high].select_nth_unstable_by(middle - low, &order);
        if fits(&items[..=middle], low) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// A score that at least k tokens reach, so that the first k in order do: the k-th largest of maxima over disjoint sets of
/// tokens; none if there are fewer sets. They are folded to about eight times k sets: few candidates more, and a quick
/// selection.
pub(crate) fn kth_largest<T: Copy + PartialOrd>(
    k: usize,
    maxima: &[T],
    selection: &mut Vec<T>,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Option<T> {
    const FEWEST: usize = 64;
    if k > maxima.len() {
        return None;
    }
    fold(maxima, k.saturating_mul(8).max(FEWEST), selection);
    Some(*selection.select_nth_unstable_by(k - 1, |a, b| compare(b, a)).1)
}

/// Sets `folded` to the maxima over `count` larger sets, or to the maxima themselves if they are no more.
#[inline(always)]
pub(crate) fn fold<T: Copy + PartialOrd>(maxima: &[T], count: usize, folded: &mut Vec<T>) {
    let (head, tail) = maxima.split_at(maxima.len().min(count));
    folded.clear();
    folded.extend_from_slice(head);
    for maxima in tail.chunks(count) {
        for (folded, &maximum) in folded.iter_mut().zip(maxima) {
            *folded = if maximum > *folded { maximum } else { *folded };
        }
    }
}

/// Exactly the first k in order.
pub(super) fn top_k(k: usize, x: &[f64], ranked: &mut Vec<Ranked>, keep: &mut [bool]) {
    let k = k.max(1);
    if k < x.len() {
        rank(x, ranked);
        ranked.select_nth_unstable_by(k, Ranked::order);
        ranked[k..].iter().for_each(|item| keep[item.index as usize] = false);
    }
}

/// The smallest prefix with mass at least `mass`.
///
/// Masses are integers, `round(p 2^62)`, so that their sums do not depend on the order in which they are formed. `mass`
/// is taken down by a few rounding errors of p, so that k of n equal tokens have mass `k / n`.
pub(super) fn top_p(mass: f64, x: &[f64], p: &[f64], ranked: &mut Vec<Ranked>, keep: &mut [bool]) {
    if mass < 1.0 {
        rank(x, ranked);
        keep_mass(mass, p, ranked, Ranked::order, keep);
    }
}

/// Drops all but the smallest prefix of an order with mass at least `mass` (see [`top_p`]).
pub(super) fn keep_mass(
    mass: f64,
    p: &[f64],
    ranked: &mut [Ranked],
    order: impl Fn(&Ranked, &Ranked) -> Ordering,
    keep: &mut [bool],
) {
    const ONE: f64 = (1_u64 << 62) as f64;
    let weigh = |index: usize| (p[index] * ONE).round() as u64;
    let total: u64 = (0..p.len()).map(weigh).sum();
    let target = (mass * (1.0 - 4.0 * f64::EPSILON) * total as f64).ceil() as u64;
    let mut taken = 0_u64;
    let count = prefix_by(ranked, order, |items, fresh| {
        let [fresh @ .., last] = &items[fresh..] else {
            return false;
        };
        let before = taken + fresh.iter().map(|item| weigh(item.index as usize)).sum::<u64>();
        // A token belongs if what comes before it does not reach the target.
        let fits = before < target;
        if fits {
            taken = before + weigh(last.index as usize);
        }
        fits
    });
    ranked[count..]
        .iter()
        .for_each(|item| keep[item.index as usize] = false);
}
