//! Which tokens each support keeps.

mod common;

use common::*;
use optdecode_core::Status;
use optdecode_core::plan::*;
use optdecode_core::row::{Mask, Row};
use proptest::prelude::*;

fn softmax_on(supports: &[Support]) -> Plan {
    Plan {
        supports: supports.to_vec(),
        ..plan(Objective::Softmax { lam: 1.0 })
    }
}

fn tempered(rule: Rule) -> Support {
    Support { rule, raw: false }
}

fn face(plan: &Plan, x: &[f64]) -> Vec<u32> {
    solve(plan, &row(x)).face
}

fn kept(rule: Rule, x: &[f64]) -> Vec<u32> {
    face(&softmax_on(&[tempered(rule)]), x)
}

/// Positions by (value descending, index ascending).
fn order(x: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..x.len() as u32).collect();
    order.sort_by(|&a, &b| {
        x[b as usize]
            .partial_cmp(&x[a as usize])
            .expect("no NaN")
            .then(a.cmp(&b))
    });
    order
}

fn sorted(mut ids: Vec<u32>) -> Vec<u32> {
    ids.sort_unstable();
    ids
}

#[test]
fn supports_by_hand() {
    let x = [0.1_f64, 0.4, 0.2, 0.2, 0.1].map(f64::ln);
    assert_eq!(kept(Rule::TopK(3), &x), [1, 2, 3]);
    assert_eq!(kept(Rule::TopK(2), &x), [1, 2]);
    assert_eq!(kept(Rule::TopK(4), &x), [0, 1, 2, 3]);
    assert_eq!(kept(Rule::TopK(99), &x), [0, 1, 2, 3, 4]);
    assert_eq!(kept(Rule::TopP(0.39), &x), [1]);
    assert_eq!(kept(Rule::TopP(0.55), &x), [1, 2]);
    assert_eq!(kept(Rule::TopP(0.85), &x), [0, 1, 2, 3]);
    assert_eq!(kept(Rule::TopP(0.0), &x), [1]);
    assert_eq!(kept(Rule::TopP(1.0), &x), [0, 1, 2, 3, 4]);
    assert_eq!(kept(Rule::MinP(0.3), &x), [1, 2, 3]);
    assert_eq!(kept(Rule::MinP(0.0), &x), [0, 1, 2, 3, 4]);
    assert_eq!(kept(Rule::MinP(1.0), &x), [1]);
    assert_eq!(kept(Rule::Epsilon(0.15), &x), [1, 2, 3]);
    assert_eq!(kept(Rule::Epsilon(0.9), &x), [1]);
    // sum p^2 = 0.26
    assert_eq!(kept(Rule::PLess, &x), [1]);
    assert_eq!(kept(Rule::PLess, &[1.0; 4]), [0, 1, 2, 3]);
    // H = 1.47: sqrt(0.36) e^-H = 0.138
    assert_eq!(kept(Rule::Eta(0.36), &x), [1, 2, 3]);
    // -ln p = 2.30, 0.92, 1.61, 1.61, 2.30
    assert_eq!(kept(Rule::Typical(0.19), &x), [2]);
    assert_eq!(kept(Rule::Typical(0.39), &x), [2, 3]);
    assert_eq!(kept(Rule::Typical(0.5), &x), [1, 2, 3]);
    assert_eq!(kept(Rule::Typical(0.85), &x), [0, 1, 2, 3]);
    assert_eq!(kept(Rule::Typical(1.0), &x), [0, 1, 2, 3, 4]);
    // Entropies 0, 0.64, 1.04, 1.28 and 1.47 of the first one to five.
    assert_eq!(kept(Rule::TopH(0.0), &x), [1]);
    assert_eq!(kept(Rule::TopH(0.43), &x), [1]);
    assert_eq!(kept(Rule::TopH(0.44), &x), [1, 2]);
    assert_eq!(kept(Rule::TopH(0.72), &x), [1, 2, 3]);
    assert_eq!(kept(Rule::TopH(0.88), &x), [0, 1, 2, 3]);
    assert_eq!(kept(Rule::TopH(1.0), &x), [0, 1, 2, 3, 4]);
    assert_eq!(kept(Rule::TopNSigma(1.0), &[0.0, 10.0, 9.0, 1.0]), [1, 2]);
    assert_eq!(kept(Rule::TopNSigma(0.0), &[0.0, 10.0, 10.0, 1.0]), [1, 2]);
    // A uniform row divides exactly.
    for n in [1, 3, 10, 49] {
        for k in 1..=n {
            let mass = f64::from(k) / f64::from(n);
            assert_eq!(
                kept(Rule::TopP(mass), &vec![0.7; n as usize]).len(),
                k as usize,
                "{k} of {n}"
            );
            let first: Vec<u32> = (0..k as u32).collect();
            let half = (f64::from(k) - 0.5) / f64::from(n);
            assert_eq!(kept(Rule::Typical(half), &vec![0.7; n as usize]), first);
            let alpha = f64::from(k).ln() / f64::from(n.max(2)).ln();
            assert_eq!(kept(Rule::TopH(alpha), &vec![0.7; n as usize]), first);
        }
    }
}

#[test]
fn chains_by_hand() {
    let x = [0.4_f64, 0.2, 0.2, 0.1, 0.1].map(f64::ln);
    let size = |rules: &[(Rule, bool)], temperature| {
        let plan = chained(Objective::Softmax { lam: 1.0 }, rules);
        face(&Plan { temperature, ..plan }, &x).len()
    };
    let (first, mass) = ((Rule::TopK(3), false), Rule::TopP(0.7));
    // Of the first three, 0.5, 0.25, 0.25 is left: 0.7 is reached by two of them, of all tokens by three.
    assert_eq!(size(&[first, (mass, false)], 1.0), 2);
    assert_eq!(size(&[(mass, false), first], 1.0), 3);
    assert_eq!(size(&[first, (mass, false)], 0.1), 1);
    assert_eq!(size(&[first, (mass, true)], 0.1), 2);
    assert_eq!(size(&[first, (mass, true), (Rule::Epsilon(0.6), true)], 0.1), 1);
}

#[test]
fn raw_supports_ignore_the_temperature() {
    let x = [0.1_f64, 0.4, 0.2, 0.2, 0.1].map(f64::ln);
    for rule in [
        Rule::TopP(0.55),
        Rule::MinP(0.4),
        Rule::Epsilon(0.15),
        Rule::Eta(0.36),
        Rule::PLess,
        Rule::Typical(0.3),
        Rule::TopH(0.5),
    ] {
        let plan = Plan {
            temperature: 0.1,
            ..softmax_on(&[Support { rule, raw: true }])
        };
        assert_eq!(face(&plan, &x), kept(rule, &x), "{rule:?}");
    }
    let sharp = Plan {
        temperature: 0.1,
        ..softmax_on(&[tempered(Rule::TopP(0.55))])
    };
    assert_eq!(face(&sharp, &x), [1]);
    let wide = Plan {
        temperature: 4.0,
        ..softmax_on(&[tempered(Rule::MinP(0.5))])
    };
    assert_eq!(face(&wide, &x), [0, 1, 2, 3, 4]);
}

#[test]
fn top_n_sigma_is_safe_at_both_ends_of_the_range() {
    assert_eq!(kept(Rule::TopNSigma(1.0), &[1e300, -1e300, -1e300, 0.9e300]), [0, 3]);
    assert_eq!(
        kept(Rule::TopNSigma(1.0), &[f64::MAX, f64::MIN, f64::MIN, f64::MAX]),
        [0, 3]
    );
    assert_eq!(
        kept(Rule::TopNSigma(1.0), &[1e-320, -1e-320, -1e-320, 0.9e-320]),
        [0, 3]
    );
    assert_eq!(kept(Rule::TopNSigma(3.0), &[5.0; 3]), [0, 1, 2]);
}

#[test]
fn supports_on_adversarial_rows_keep_the_best_token() {
    for (name, x) in adversarial() {
        let best = order(&x)[0];
        for rule in [
            Rule::TopK(1),
            Rule::TopK(3),
            Rule::TopP(0.0),
            Rule::TopP(0.9),
            Rule::MinP(0.1),
            Rule::MinP(2.0),
            Rule::TopNSigma(0.0),
            Rule::TopNSigma(1.0),
            Rule::PLess,
            Rule::Epsilon(0.1),
            Rule::Eta(0.1),
            Rule::TopH(0.0),
            Rule::TopH(0.6),
        ] {
            let ids = kept(rule, &x);
            assert!(ids.contains(&best), "{name} {rule:?}: {ids:?}");
            assert!(ids.is_sorted(), "{name} {rule:?}");
        }
    }
}

fn scores() -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![-5.0..5.0, (-3_i32..3).prop_map(f64::from), Just(-0.0), -1e3..1e3];
    prop::collection::vec(value, 1..80)
}

fn rule() -> impl Strategy<Value = Rule> {
    prop_oneof![
        (1_usize..30).prop_map(Rule::TopK),
        (0.0..1.1).prop_map(Rule::TopP),
        (0.0..1.1).prop_map(Rule::MinP),
        (0.0..3.0).prop_map(Rule::TopNSigma),
        Just(Rule::PLess),
        (0.0..0.3).prop_map(Rule::Epsilon),
        (0.0..0.3).prop_map(Rule::Eta),
        (0.01..1.1).prop_map(Rule::Typical),
        (0.0..1.1).prop_map(Rule::TopH),
    ]
}

/// The typical set by a full sort: of `|-ln p - H|`, then by score, then by index.
fn typical(mass: f64, x: &[f64]) -> Vec<u32> {
    let log_p = log_softmax(x);
    let entropy: f64 = log_p.iter().filter(|l| l.exp() > 0.0).map(|l| -l * l.exp()).sum();
    let distance = |id: u32| (-log_p[id as usize] - entropy).abs();
    let mut order = order(x);
    order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    let mut sum = 0.0;
    let before = order.iter().take_while(|&&id| {
        let reached = sum >= mass;
        sum += log_p[id as usize].exp();
        !reached
    });
    let count = before.count();
    sorted(order.into_iter().take(count).collect())
}

/// Top-H token by token: stops where the entropy of those taken would be too large.
fn top_h(alpha: f64, x: &[f64]) -> Vec<u32> {
    let order = order(x);
    let entropy = |ids: &[u32]| {
        let log_p = log_softmax(&ids.iter().map(|&id| x[id as usize]).collect::<Vec<f64>>());
        log_p
            .iter()
            .filter(|l| l.exp() > 0.0)
            .map(|l| -l * l.exp())
            .sum::<f64>()
    };
    let most = alpha * entropy(&order);
    let count = (2..=order.len()).take_while(|&k| entropy(&order[..k]) <= most).count();
    sorted(order.into_iter().take(count + 1).collect())
}

#[test]
fn no_token_in_common_is_infeasible() {
    let x = [0.4_f64, 0.2, 0.2, 0.1, 0.1].map(f64::ln);
    let band = (Rule::Typical(0.2), false);
    let softmax = Objective::Softmax { lam: 1.0 };
    for rule in [
        Rule::TopK(1),
        Rule::TopP(0.3),
        Rule::MinP(0.9),
        Rule::TopH(0.2),
        Rule::Epsilon(0.3),
    ] {
        for objective in [softmax.clone(), Objective::Argmax, Objective::Quadratic { lam: 1.0 }] {
            let found = solve(&supported(objective, &[band, (rule, false)]), &row(&x));
            assert_eq!(found.outcome.status, Status::Infeasible, "{rule:?}");
            assert!(found.face.is_empty() && found.outcome.entropy.is_nan());
        }
    }
    // A chain always leaves something.
    assert_eq!(
        face(&chained(softmax.clone(), &[band, (Rule::TopK(1), false)]), &x),
        [1]
    );
    assert_eq!(
        face(&chained(softmax.clone(), &[(Rule::TopK(1), false), band]), &x),
        [0]
    );
    let mut both = chained(softmax, &[band, (Rule::TopK(1), false)]);
    both.supports.push(tempered(Rule::TopK(1)));
    assert_eq!(solve(&both, &row(&x)).outcome.status, Status::Infeasible);
    assert_eq!(
        solve(&supported(Objective::Argmax, &[band]), &row(&x)).q,
        [0.0, 1.0, 0.0, 0.0, 0.0]
    );
}

proptest! {
    #[test]
    fn top_k_is_the_sorted_prefix(x in scores(), k in 1_usize..100) {
        prop_assert_eq!(kept(Rule::TopK(k), &x), sorted(order(&x).into_iter().take(k).collect()));
    }

    #[test]
    fn top_p_is_the_smallest_prefix(x in scores(), mass in 0.0..1.0) {
        let ids = kept(Rule::TopP(mass), &x);
        let order = order(&x);
        prop_assert_eq!(&ids, &sorted(order[..ids.len()].to_vec()));
        let log_p = log_softmax(&x);
        let of = |ids: &[u32]| ids.iter().map(|&id| log_p[id as usize].exp()).sum::<f64>();
        prop_assert!(of(&order[..ids.len()]) >= mass - 1e-14);
        prop_assert!(ids.len() == 1 || of(&order[..ids.len() - 1]) < mass + 1e-14);
    }

    /// On random scores, where nothing is at the threshold but for ties, which have the same information.
    #[test]
    fn rules_about_entropy_are_what_sorting_finds(x in scores(), mass in 0.01..1.0, alpha in 0.0..1.0, grain in 0..2) {
        let x: Vec<f64> = if grain == 0 { x } else { x.iter().map(|x| x.round()).collect() };
        prop_assert_eq!(kept(Rule::Typical(mass), &x), typical(mass, &x));
        let found = kept(Rule::TopH(alpha), &x);
        let positive = log_softmax(&x).iter().filter(|l| l.exp() > 0.0).count();
        let mut naive = top_h(alpha, &x);
        if naive.len() > positive.max(1) {
            naive = sorted(order(&x).into_iter().take(positive).collect());
        }
        prop_assert_eq!(found, naive);
    }

    /// What a chain leaves is what each rule keeps of a row that allows nothing else.
    #[test]
    fn chains_measure_the_rest(x in scores(), rules in prop::collection::vec((rule(), any::<bool>()), 1..4),
                               beside in prop::option::of(rule()), temperature in 0.2..3.0) {
        let of_rest = |rest: &[bool], &(rule, raw): &(Rule, bool)| {
            let single = Plan { temperature, ..supported(Objective::Softmax { lam: 1.0 }, &[(rule, raw)]) };
            let row = Row { mask: Some(Mask::Flags(rest)), ..row(&x) };
            let face = solve(&single, &row).face;
            (0..x.len()).map(|id| face.contains(&(id as u32))).collect::<Vec<bool>>()
        };
        let left = rules.iter().fold(vec![true; x.len()], |rest, rule| of_rest(&rest, rule));
        let mut left: Vec<u32> = (0..x.len() as u32).filter(|&id| left[id as usize]).collect();
        let mut plan = Plan { temperature, ..chained(Objective::Softmax { lam: 1.0 }, &rules) };
        if let Some(rule) = beside {
            plan.supports.push(tempered(rule));
            let kept = face(&Plan { temperature, ..softmax_on(&[tempered(rule)]) }, &x);
            left.retain(|id| kept.contains(id));
        }
        prop_assert_eq!(face(&plan, &x), left);
    }

    #[test]
    fn supports_commute(x in scores(), a in rule(), b in rule(), raw in any::<bool>(), temperature in 0.2..3.0) {
        let (a, b) = (tempered(a), Support { rule: b, raw });
        let of = |supports: &[Support]| face(&Plan { temperature, ..softmax_on(supports) }, &x);
        let both = of(&[a, b]);
        prop_assert_eq!(&both, &of(&[b, a]));
        let (only_a, only_b) = (of(&[a]), of(&[b]));
        let shared: Vec<u32> = only_a.into_iter().filter(|id| only_b.contains(id)).collect();
        prop_assert_eq!(both, shared);
    }
}
