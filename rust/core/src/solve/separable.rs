//! Sums of terms, each a sum over tokens: `max <q, l> - sum phi_i(q_i)` with `0 <= q_i <= cap`, by a scalar dual.
//!
//! For a multiplier nu of `sum q = 1` each token is on its own: `q_i(nu)` is where `phi_i'(q) = l_i - nu`, or 0 or the cap where that is
//! nowhere between. As phi_i' increases, `sum q(nu)` does not, and nu is where it is 1, between
//!
//! * the k-th largest `l_i - phi_i'(cap)`, k the number of full tokens that hold everything: k tokens are full there;
//! * the largest `l_i - phi_i'(1/n)`: no token has more than 1/n there.
//!
//! Tokens whose phi' is constant, those of a linear objective, have all or nothing, and are put in order (`flat`). Where phi' is nearly
//! so, the sum jumps between neighbouring floats, and the distributions at both are mixed.

mod dual;
mod flat;
mod terms;
mod token;

use super::face::{Answer, Face};
use super::{CoverageTerm, Scratch as Shared, Solved, fill};
use crate::math;
use crate::plan::{Anchor, Term, TermKind};
use crate::status::Status;
use crate::support::rank::Ranked;
use dual::Dual;
use terms::{Law, Numbers};
pub(super) use terms::{hit, tsallis, value};
use token::Token;

/// Scratch of this solver.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    law: Law,
    tokens: Vec<Token>,
    flats: Vec<Ranked>,
    values: Vec<f64>,
    selection: Vec<f64>,
    sample: Vec<Token>,
    zeros: Vec<f64>,
}

pub(super) fn solve(
    terms: &[Term],
    cap: f64,
    covering: CoverageTerm,
    face: &Face,
    scratch: &mut Shared,
    answer: &mut Answer,
) -> Solved {
    if (face.len() as f64) < fill::fewest(cap) {
        return Solved::INFEASIBLE;
    }
    let scratch = &mut scratch.separable;
    let solved = run(terms, cap, covering, face, &face.l, scratch, answer);
    let anchored = terms.iter().rev().find(|term| term.kind.anchor() != Anchor::None);
    if solved.status == Status::Ok && !terms::are_finite(terms, face, answer) {
        let status = Status::ReducedAccuracy;
        return Solved { status, ..solved };
    }
    let Some(Term { kind, .. }) = anchored.filter(|_| solved.status != Status::Ok) else {
        return solved;
    };
    // A distance from an anchor that leaves the numbers leaves nothing of the scores: every divergence alone, as KL does, comes
    // nearest with `min(cap, k r)`.
    let nearest = [Term {
        kind: TermKind::Kl(kind.anchor()),
        coefficient: 1.0,
    }];
    scratch.zeros.clear();
    scratch.zeros.resize(face.len(), 0.0);
    let zeros = std::mem::take(&mut scratch.zeros);
    run(&nearest, cap, CoverageTerm::NONE, face, &zeros, scratch, answer);
    scratch.zeros = zeros;
    Solved {
        threshold: f64::NEG_INFINITY,
        ..solved
    }
}

/// Solves with `linear` as the linear term.
fn run(
    terms: &[Term],
    cap: f64,
    covering: CoverageTerm,
    face: &Face,
    linear: &[f64],
    scratch: &mut Scratch,
    answer: &mut Answer,
) -> Solved {
    let Scratch {
        law,
        tokens,
        flats,
        values,
        selection,
        sample,
        ..
    } = scratch;
    let count = face.len();
    law.set(terms, covering.budget);
    tokens.clear();
    flats.clear();
    for (i, l) in linear.iter().enumerate() {
        let numbers = Numbers::of(face, i, covering);
        let a = l - law.constant(&numbers);
        match law.flat(&numbers) {
            Some(slope) => flats.push(Ranked {
                value: a - slope,
                index: i as u32,
            }),
            None => tokens.push(Token::new(i as u32, numbers, a)),
        }
    }
    if fill::fills_exactly(cap, count) {
        return full(law, tokens, flats, count, answer);
    }
    // So that differences of what is near the end of the full tokens are exact.
    values.clear();
    values.extend(tokens.iter().map(|token| token.a));
    let most = fill::fewest(cap).min(tokens.len() as f64);
    let mut shift = fill::nth_largest(values, most, selection).unwrap_or(0.0);
    let mut dual = Dual {
        law,
        tokens,
        values,
        selection,
        sample,
        cap,
        log_cap: math::ln(cap),
        count,
        nu: f64::NAN,
    };
    flats.iter_mut().for_each(|item| item.value -= shift);
    fill::keep_first(flats, fill::fewest(cap), &face.x);
    dual.shift(shift);
    dual.prepare();
    let mut found = flat::find(&mut dual, flats);
    if let Some(nearer) = dual.nearer(&found.root) {
        // A root far from 0 is resolved no finer than its own spacing of floats: once more from a score next to it.
        shift += nearer;
        flats.iter_mut().for_each(|item| item.value -= nearer);
        dual.shift(nearer);
        found = flat::find(&mut dual, flats);
    }
    dual.write(&found, flats, answer);
    let status = match found.root.settled {
        true => Status::Ok,
        false => Status::ReducedAccuracy,
    };
    Solved {
        iterations: found.root.iterations,
        status,
        ..Solved::closed(found.root.nu + shift)
    }
}

/// Every token has the cap; any smaller threshold would do.
fn full(law: &Law, tokens: &[Token], flats: &[Ranked], count: usize, answer: &mut Answer) -> Solved {
    let share = -math::ln(count as f64);
    answer.log_q.clear();
    answer.log_q.resize(count, share);
    answer.normalise_logs();
    let curved = tokens
        .iter()
        .map(|token| token.a - law.tangent(&token.numbers, share).value);
    let threshold = curved
        .chain(flats.iter().map(|item| item.value))
        .fold(f64::INFINITY, f64::min);
    Solved::closed(threshold)
}
