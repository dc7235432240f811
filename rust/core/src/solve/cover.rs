//! Best-of-K for draws: the joint Newton iteration on the tokens that coverage bends, everything else by sums.
//!
//! With the anchor p and `kappa = score_weight / (T lam) + 1 / T`, the optimum is
//! `q_i = exp(kappa (x_i - max x) - nu + g_i (1 - q_i)^(K-1))`, `g_i = beta_bar K w_i / lam`, `sum q = 1` (`DESIGN.md`).
//!
//! * **Few tokens.** As `e^nu >= sum exp(kappa (x - max x)) >= 1`, no token below `max x - (40 ln 2 + max g) / kappa` has more than 2^-40.
//!   Those from there on are solved for alone: what is left out has less than `V 2^-40` in all.
//! * **Many.** A *head* from some score on is solved for, with a *tail* below it, where q is a series in one exponential. With
//!   w = 1, `q = W e (1 - rho W e)`, `rho = g (K - 1)`, `W = e^(g - nu)`, and the head begins where the next terms
//!   would be 3e-6 of q. With w = p it begins where g p is 4e-6, and below it `q = W e`.
//!
//! Joint Newton is one exponential a token and step, and quadratic; it is in f32, which bears gains up to a limit, and where it
//! does not get there, the exact solver takes over.

use super::draw::{GATHERED, LONGEST, Ready};
use super::root::Root;
use super::{CoverageTerm, Solved, Workspace, dispatch};
use crate::arch::{self, Exponential, Level, Sweep};
use crate::math;
use crate::plan::{Anchor, Coverage, Objective, Plan, Weights};
use crate::row::Row;
use crate::status::Status;
use crate::support::candidates::Candidates;
use crate::support::cut::{self, Cut, Measure};

/// Below 2^-40 a token need not be drawn.
pub(super) const DEPTH: f64 = 40.0 * std::f64::consts::LN_2;

/// Terms of the tail's series, relative to q, that are left out.
pub(super) const SERIES: f64 = 3e-6;

/// A coverage problem of one row, its weights being p or 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    /// K.
    pub(super) budget: u32,
    /// `beta_bar K / lam`.
    pub(super) gain: f64,
    /// The factor of the scores in log q, but for the gain.
    pub(super) kappa: f64,
    /// The weights are p.
    pub(super) by_model: bool,
}

/// What was found of a row, for those who want more than its draws.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) ready: Ready,
    pub(super) problem: Problem,
    /// nu, if the joint iteration found it.
    pub(super) root: Option<Root>,
    /// The largest score.
    pub(super) max: f64,
    /// The terms of p and their sum, if they were summed.
    pub(super) model: Option<(Exponential, f64)>,
}

/// q below the head: `omega e (1 - rho omega e)` for terms e.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tail {
    pub(crate) exponential: Exponential,
    pub(crate) omega: f64,
    pub(crate) rho: f64,
}

impl Tail {
    pub(crate) fn q(&self, term: f32) -> f32 {
        let q = self.omega * f64::from(term);
        (q * (1.0 - self.rho * q)) as f32
    }
}

/// Gets a Best-of-K row ready to be drawn from; `None` where the whole distribution must be solved for.
pub(super) fn from_coverage(
    plan: &Plan,
    row: &Row<'_>,
    level: Level,
    ws: &mut Workspace,
) -> Result<Option<Found>, Status> {
    let Some(problem) = problem(plan, row) else {
        return Ok(None);
    };
    // p is wanted for weights and supports; without either, the terms of q themselves.
    let measures_p = problem.by_model || plan.selects();
    let scale = if measures_p {
        1.0 / plan.temperature
    } else {
        problem.kappa
    };
    let reads = &mut ws.reads;
    let Some((max, exponential)) = open(row, level, scale, !measures_p, &mut reads.sweep)? else {
        return Ok(None);
    };
    let measure = Measure::new(row, level, max, &exponential, &reads.sweep);
    let Some(cut) = cut::intersect(plan, &measure, &mut reads.cut) else {
        return Ok(None);
    };
    let most = match problem.by_model {
        true => problem.gain * math::exp(measure.log_best()),
        false => problem.gain,
    };
    let model = measures_p.then_some((exponential, measure.z));
    let found = |ready, root| Found {
        ready,
        problem,
        root,
        max,
        model,
    };
    let deepest = max - (DEPTH + most) / problem.kappa;
    let near = cut.and(Cut::from(deepest));
    let candidates = &mut reads.cut.candidates;
    if candidates.gather_few(&measure, near.least, GATHERED) {
        candidates.keep(near);
        let weigh = Weigh::new(&problem, &measure, candidates);
        let root = match problem.fits_f32(most) {
            true => weigh.solve(level, candidates, &mut reads.newton, None),
            false => None,
        };
        if root.is_some() {
            return Ok(Some(found(Ready::Weighed, root)));
        }
        let log_z = match measures_p {
            true => log_z(&measure, plan.temperature, problem.bears_sums(most)),
            false => 0.0,
        };
        let solved = solve_exactly(plan, &problem, log_z, ws);
        return Ok(Some(found(Ready::Solved(solved), None)));
    }
    if cut != Cut::ALL || !problem.fits_f32(most) {
        return Ok(None);
    }
    let tailed = with_tail(&problem, &measure, candidates, &mut reads.newton, &mut reads.squares);
    Ok(tailed.map(|(tail, root)| found(Ready::Tailed(tail), Some(root))))
}

/// The first read of a row: its largest score, and the terms that were summed, if there are any.
pub(super) fn open(
    row: &Row<'_>,
    level: Level,
    scale: f64,
    squares: bool,
    out: &mut Sweep,
) -> Result<Option<(f64, Exponential)>, Status> {
    let Some((summary, exponential)) = arch::sweep(level, row.scores, row.mask, scale, squares, out) else {
        return Ok(None);
    };
    summary.check()?;
    Ok(exponential.map(|exponential| (summary.max, exponential)))
}

/// K, and whether the weights are p, not 1, of a coverage term that sums over a row can tell all of.
pub(super) fn plain(plan: &Plan, row: &Row<'_>, coverage: &Coverage) -> Option<(u32, bool)> {
    let by_model = match coverage.weights {
        Weights::Model => true,
        Weights::Uniform => false,
        _ => return None,
    };
    let budget = row.budget.unwrap_or(coverage.budget).max(1);
    let plain = plan.anchor == Anchor::Model && plan.allowed.is_none() && row.weights.is_none();
    (plain && row.scores.len() <= LONGEST).then_some((budget, by_model))
}

fn problem(plan: &Plan, row: &Row<'_>) -> Option<Problem> {
    let Objective::Coverage { lam, coverage } = &plan.objective else {
        return None;
    };
    let (budget, by_model) = plain(plan, row, coverage)?;
    let scale = if plan.raw_scores { 1.0 } else { plan.temperature };
    let problem = Problem {
        budget,
        gain: coverage.beta_bar * f64::from(budget) / lam,
        kappa: plan.score_weight / scale / lam + 1.0 / plan.temperature,
        by_model,
    };
    (*lam > 0.0 && budget >= 2 && problem.kappa > 0.0 && problem.gain < 1e6).then_some(problem)
}

impl Problem {
    /// `(1 - q)^(K-2)` has a relative error of K 2^-25 in f32, and log q that times the gain; `most` is the largest gain.
    fn fits_f32(&self, most: f64) -> bool {
        self.gain <= 16.0 && self.gain * f64::from(self.budget) <= 100.0 && self.bears_sums(most)
    }

    /// Weights p have the relative error of terms and their sums, 1e-6, and log q that times the gain.
    fn bears_sums(&self, most: f64) -> bool {
        !self.by_model || most <= 6.0
    }

    /// Whether the terms of all tokens, at the factor W that q has below the head, and the squares of that times rho, are
    /// a few at most, as far as they were squared. `e^nu` is at least the sum of all terms.
    fn bears_differences(&self, sums: &[f64], squares: &[f64]) -> bool {
        let rho = self.gain * f64::from(self.budget - 1);
        let lift = math::exp(self.gain);
        let first: f64 = sums.iter().sum();
        let second: f64 = squares.iter().filter(|square| !square.is_nan()).sum();
        lift + rho * (lift / first) * (lift / first) * second <= 3.0
    }
}

/// The logarithm of the normaliser of p, in f64 if sums of terms will not do.
fn log_z(measure: &Measure<'_>, temperature: f64, sums_do: bool) -> f64 {
    let Measure { row, max, .. } = *measure;
    // Scores at 1 / T, which the terms' scale is not quite.
    let top = max / temperature;
    if sums_do {
        return top - measure.log_best();
    }
    let scores = (0..row.scores.len()).filter_map(|id| row.allowed_score(id));
    top + math::ln(math::sum(scores.map(|x| math::exp((x - max) / temperature))))
}

/// From scores to the numbers of the Newton iteration.
struct Weigh<'a> {
    problem: &'a Problem,
    max: f64,
    /// The largest gain.
    most: f64,
    /// The normaliser of the terms of candidates, if their weights are p.
    z: Option<f64>,
}

impl<'a> Weigh<'a> {
    /// Computes the terms of the candidates if these are wanted.
    fn new(problem: &'a Problem, measure: &Measure<'_>, candidates: &mut Candidates) -> Self {
        let (mut most, mut z) = (problem.gain, None);
        if problem.by_model {
            candidates.weigh(measure);
            most *= math::exp(measure.log_best());
            z = Some(measure.z);
        }
        Weigh {
            problem,
            max: measure.max,
            most,
            z,
        }
    }

    /// Solves for the candidates, with a tail of terms `[first, second]` below them, and leaves their q as terms; nu.
    fn solve(
        &self,
        level: Level,
        candidates: &mut Candidates,
        newton: &mut arch::Newton,
        tail: Option<[f64; 2]>,
    ) -> Option<Root> {
        let Problem {
            budget, gain, kappa, ..
        } = *self.problem;
        newton.clear();
        for (i, &x) in candidates.values.iter().enumerate() {
            let score = kappa * (f64::from(x) - self.max);
            let gain = match self.z {
                Some(z) => gain * f64::from(candidates.terms[i]) / z,
                None => gain,
            };
            newton.push(score as f32, gain as f32, (score + gain - self.most) as f32);
        }
        newton.fill();
        let tail_gain = if self.problem.by_model { 0.0 } else { gain };
        let root = iterate(level, newton, budget - 2, (self.most, tail_gain), tail)?;
        candidates.terms.clear();
        candidates.terms.extend_from_slice(&newton.q[..candidates.values.len()]);
        Some(root)
    }
}

/// Joint Newton on all u and nu, from where no token's gain is bent; `[first, second]` are the sums of the tail's terms and of
/// their squares, whose gain is `tail_gain`.
fn iterate(
    level: Level,
    newton: &mut arch::Newton,
    power: u32,
    (most, tail_gain): (f64, f64),
    tail: Option<[f64; 2]>,
) -> Option<Root> {
    const FEWEST: u32 = 3;
    const LIMIT: u32 = 16;
    /// Of u: its square, times some gain, is what the next step would move.
    const SMALL: f32 = 2e-4;
    /// What may be missing where nothing moves; more is if u has run into its bounds.
    const NEAR: f64 = 1e-3;
    let [first, second] = tail.unwrap_or_default();
    let rho = tail_gain * f64::from(power + 1);
    // The mass if all gains were whole, up to e^most.
    let unbent = newton.sweep(level, 0.0, 0.0, power).mass + first * math::exp(tail_gain - most);
    let start = math::ln(unbent);
    newton.log_q.iter_mut().for_each(|u| *u -= start as f32);
    newton.fill();
    let (mut nu, mut step) = (start + most, 0.0);
    for count in 1..=LIMIT {
        let mut swept = newton.sweep(level, nu as f32, step as f32, power);
        let omega = math::exp(tail_gain - nu);
        swept.mass += omega * (first - rho * omega * second);
        swept.slope += omega * (first - 2.0 * rho * omega * second);
        step = (swept.mass - 1.0 - swept.residual) / swept.slope;
        if !step.is_finite() {
            return None;
        }
        if count > FEWEST && swept.moved <= SMALL && step.abs() <= f64::from(SMALL) {
            let arrived = (swept.mass - 1.0).abs() <= NEAR && swept.residual.abs() <= NEAR;
            return arrived.then_some(Root {
                x: nu,
                iterations: count,
            });
        }
        nu += step;
    }
    None
}

/// The head by Newton, the tail by its sums; leaves the q of the head as terms of the candidates, and the mass of every block
/// as their sums. The tail, and nu.
fn with_tail(
    problem: &Problem,
    measure: &Measure<'_>,
    candidates: &mut Candidates,
    newton: &mut arch::Newton,
    squares: &mut Vec<f64>,
) -> Option<(Tail, Root)> {
    let exponential = Exponential::new(problem.kappa, measure.max)?;
    match *measure.exponential == exponential {
        true => candidates.sums.clone_from(&measure.sweep.sums),
        false => {
            let Measure { row, level, .. } = *measure;
            arch::block_sums(level, row.scores, row.mask, &exponential, &mut candidates.sums);
        }
    }
    // From terms to exponentials of kappa (x - max).
    let unit = exponential.unit(measure.max);
    let draws = f64::from(problem.budget - 1);
    // From which q, or p, on a token belongs to the head.
    let head = if problem.by_model {
        let least = math::ln(4e-6 / problem.gain) - measure.log_best();
        measure.max + least / measure.exponential.scale()
    } else {
        let rho = problem.gain * draws;
        // 3/2 rho^2 q^2 and rho (K - 2) q^2 / 2 are the terms left out.
        let bent = (SERIES / (1.5 * rho * rho + 0.5 * rho * (draws - 1.0))).sqrt();
        let total = unit * candidates.sums.iter().sum::<f64>();
        measure.max + (math::ln(bent * total) - problem.gain) / problem.kappa
    };
    let head = head.min(measure.max);
    candidates.gather(measure, head, measure.row.scores.len());
    candidates.keep(Cut::from(head));
    sum_tail(problem, measure, &exponential, head, candidates, squares);
    let first: f64 = candidates.sums.iter().sum();
    let second: f64 = squares.iter().sum();
    let root = Weigh::new(problem, measure, candidates).solve(
        measure.level,
        candidates,
        newton,
        Some([first * unit, second * unit * unit]),
    )?;
    let lift = if problem.by_model { 0.0 } else { problem.gain };
    let tail = Tail {
        exponential,
        omega: math::exp(lift - root.x) * unit,
        rho: lift * draws,
    };
    leave_sums(&tail, candidates, squares);
    Some((tail, root))
}

/// From the terms of the tail, and their squares if rho is not 0, to the mass of every block, those of the head included.
pub(super) fn leave_sums(tail: &Tail, candidates: &mut Candidates, squares: &[f64]) {
    let squares = squares.iter().copied().chain(std::iter::repeat(0.0));
    for (sum, square) in candidates.sums.iter_mut().zip(squares) {
        *sum = tail.omega * (*sum - tail.rho * tail.omega * square).max(0.0);
    }
    for (&id, &q) in candidates.ids.iter().zip(&candidates.terms) {
        candidates.sums[id as usize / arch::SUM_BLOCK] += f64::from(q);
    }
}

/// Takes the terms of the candidates, and their squares, from the sums over blocks.
pub(super) fn less_head(level: Level, exponential: &Exponential, candidates: &mut Candidates, squares: &mut [f64]) {
    arch::terms_of(level, exponential, &candidates.values, &mut candidates.terms);
    for (&id, &term) in candidates.ids.iter().zip(&candidates.terms) {
        let block = id as usize / arch::SUM_BLOCK;
        candidates.sums[block] -= f64::from(term);
        if let Some(square) = squares.get_mut(block) {
            *square -= f64::from(term) * f64::from(term);
        }
    }
    // What is left of nothing is rounding. (NaN, not summed yet, stays.)
    for sum in candidates.sums.iter_mut().chain(squares).filter(|sum| **sum < 0.0) {
        *sum = 0.0;
    }
}

/// Takes the head from the sums of all terms, block by block, and with w = 1 leaves the squares of the others.
///
/// A sum over all tokens has an error of 1e-6 of itself, so where the head has no more than a few times its q in terms, it can be
/// taken away from that. Else only tokens of the tail are summed.
fn sum_tail(
    problem: &Problem,
    measure: &Measure<'_>,
    exponential: &Exponential,
    head: f64,
    candidates: &mut Candidates,
    squares: &mut Vec<f64>,
) {
    let Measure { row, level, sweep, .. } = *measure;
    squares.clear();
    if !problem.by_model {
        // Squared in the first read, if that was of these terms.
        match measure.exponential == exponential {
            true => squares.extend_from_slice(&sweep.squares),
            false => squares.resize(candidates.sums.len(), f64::NAN),
        }
        if !problem.bears_differences(&candidates.sums, squares) {
            squares.fill(f64::NAN);
        }
    }
    less_head(level, exponential, candidates, squares);
    if !problem.by_model {
        let sums = [&mut candidates.sums[..], squares];
        arch::tail_sums(level, row.scores, row.mask, exponential, head, sums);
    }
}

/// The exact solver on the candidates.
fn solve_exactly(plan: &Plan, problem: &Problem, log_z: f64, ws: &mut Workspace) -> Solved {
    let Workspace {
        prepared,
        keep,
        weights,
        face,
        answer,
        scratch,
        reads,
    } = ws;
    let Candidates { ids, values, .. } = &reads.cut.candidates;
    prepared.hold_with_model(
        ids.iter().copied(),
        values.iter().map(|&x| f64::from(x)),
        plan.temperature,
        log_z,
    );
    weights.clear();
    match problem.by_model {
        true => weights.extend_from_slice(&prepared.p),
        false => weights.resize(prepared.ids.len(), 1.0),
    }
    keep.clear();
    keep.resize(prepared.ids.len(), true);
    face.gather(plan, prepared, keep, weights);
    let lam = match plan.objective {
        Objective::Coverage { lam, .. } => lam,
        _ => 0.0,
    };
    let term = CoverageTerm {
        beta_bar: problem.gain * lam / f64::from(problem.budget),
        budget: f64::from(problem.budget),
    };
    dispatch(&plan.objective, plan.cap, face, term, scratch, answer)
}
