//! From a plan and a row to the optimum: the driver and its scratch memory.

mod adaptive;
mod argmax;
mod ascent;
mod band;
mod cover;
mod coverage;
mod covered;
mod draw;
mod face;
mod fill;
mod inner;
mod mirror;
mod model;
mod root;
mod separable;
mod softmax;
mod stats;
mod target;
mod threshold;
mod tsallis;
mod waterfill;
mod weights;
mod wright;
mod write;

use crate::plan::{Objective, Plan};
use crate::prepare::Prepared;
use crate::row::Row;
use crate::status::Status;
use crate::support::{self, rank::Ranked};
pub(crate) use cover::Tail;
use draw::Reads;
pub use draw::solve_for_draw;
pub(crate) use draw::{Ready, prepare_draw};
use face::{Answer, Face};
pub use model::{Asked, model_log_probs};
pub use write::{Real, Wanted, solve_into, solve_whole_into};

/// Memory for solving one row at a time: it grows to the largest row seen and is reused.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    prepared: Prepared,
    keep: Vec<bool>,
    weights: Vec<f64>,
    face: Face,
    answer: Answer,
    scratch: Scratch,
    pub(crate) reads: Reads,
}

/// Scratch of the solvers; no value survives a call.
#[derive(Clone, Debug, Default)]
struct Scratch {
    ranked: Vec<Ranked>,
    rest: support::Rest,
    keep: Vec<bool>,
    values: Vec<f64>,
    tokens: Vec<inner::Token>,
    separable: separable::Scratch,
    adaptive: adaptive::Scratch,
    linear: Vec<f64>,
}

impl Workspace {
    /// An empty workspace.
    pub fn new() -> Self {
        Self::default()
    }

    /// After a row without a distribution.
    fn clear(&mut self) {
        self.face.clear();
        self.answer.clear();
    }

    /// The token ids of the face of the last row solved, ascending; empty if it could not be solved.
    pub fn face(&self) -> &[u32] {
        &self.face.ids
    }

    /// The log-probabilities of the optimum, aligned with [`Workspace::face`]; -inf where it is zero.
    pub fn log_q(&self) -> &[f64] {
        &self.answer.log_q
    }

    /// The probabilities of the optimum, aligned with [`Workspace::face`]; they may underflow to 0 before `log_q` is -inf.
    pub fn q(&self) -> &[f64] {
        &self.answer.q
    }
}

/// What is known of a row besides its distribution. All scalars are NaN if the row could not be solved, or if they were not
/// asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// What became of the row.
    pub status: Status,
    /// The multiplier of `sum q = 1`: `l_i - d Omega / d q_i` on active tokens.
    pub threshold: f64,
    /// `<q, l> - Omega(q)`.
    pub objective: f64,
    /// `-sum q log q`, in nats.
    pub entropy: f64,
    /// `KL(q || r)` with the plan's anchor r, or p if it has none, in nats.
    pub kl: f64,
    /// The model mass of the tokens with positive probability.
    pub kept_mass: f64,
    /// What multiplies the whole regulariser: 1 unless a target chose it.
    pub multiplier: f64,
    /// Outer iterations of a root find, or mirror steps; 0 for closed forms.
    pub iterations: u32,
}

impl Outcome {
    /// Without scalars.
    fn unmeasured(status: Status, iterations: u32) -> Self {
        let nan = f64::NAN;
        Outcome {
            status,
            threshold: nan,
            objective: nan,
            entropy: nan,
            kl: nan,
            kept_mass: nan,
            multiplier: nan,
            iterations,
        }
    }
}

/// What a solver reports besides the distribution; the threshold belongs to the shifted linear term.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Solved {
    threshold: f64,
    iterations: u32,
    /// What multiplies the whole regulariser.
    multiplier: f64,
    pub(crate) status: Status,
}

impl Solved {
    /// No distribution satisfies the constraints.
    const INFEASIBLE: Solved = Solved {
        threshold: f64::NAN,
        iterations: 0,
        multiplier: f64::NAN,
        status: Status::Infeasible,
    };

    /// A closed form.
    fn closed(threshold: f64) -> Self {
        Solved {
            threshold,
            iterations: 0,
            multiplier: 1.0,
            status: Status::Ok,
        }
    }

    /// A root find that left `residual` = |sum q - 1| before the last normalisation.
    fn iterated(threshold: f64, iterations: u32, residual: f64) -> Self {
        let status = if residual <= 1e-9 {
            Status::Ok
        } else {
            Status::ReducedAccuracy
        };
        Solved {
            threshold,
            iterations,
            multiplier: 1.0,
            status,
        }
    }
}

/// The coverage term of a plan with the numbers of one row: `beta_bar * sum w_i (1 - (1 - q_i)^budget)`.
#[derive(Clone, Copy, Debug)]
struct CoverageTerm {
    beta_bar: f64,
    budget: f64,
}

impl CoverageTerm {
    const NONE: CoverageTerm = CoverageTerm {
        beta_bar: 0.0,
        budget: 1.0,
    };
}

/// Solves one row; the distribution stays in the workspace. Whatever the row, a valid plan does not panic.
pub fn solve_row(plan: &Plan, row: &Row<'_>, ws: &mut Workspace) -> Outcome {
    match distribute(plan, row, ws) {
        Ok((term, solved)) => stats::outcome(&plan.objective, &ws.face, term, &ws.answer, &solved),
        Err(status) => {
            ws.clear();
            Outcome::unmeasured(status, 0)
        }
    }
}

/// Solves one row as [`solve_row`] does, without its scalars.
pub(crate) fn solve_whole(plan: &Plan, row: &Row<'_>, ws: &mut Workspace) -> Status {
    let solved = distribute(plan, row, ws).map(|(_, solved)| solved.status);
    solved.unwrap_or_else(|status| {
        ws.clear();
        status
    })
}

/// Leaves the distribution of a row in the workspace.
fn distribute(plan: &Plan, row: &Row<'_>, ws: &mut Workspace) -> Result<(CoverageTerm, Solved), Status> {
    let Workspace {
        prepared,
        keep,
        weights,
        face,
        answer,
        scratch,
        ..
    } = ws;
    prepared.load(plan, row)?;
    weights.clear();
    let term = match plan.objective.coverage() {
        Some(coverage) => {
            weights::measure(
                &coverage.weights,
                row.weights,
                plan.temperature,
                prepared,
                scratch,
                weights,
            )?;
            let budget = row.budget.unwrap_or(coverage.budget).max(1);
            CoverageTerm {
                beta_bar: coverage.beta_bar,
                budget: f64::from(budget),
            }
        }
        None => CoverageTerm::NONE,
    };
    support::face(plan, prepared, &mut scratch.ranked, &mut scratch.rest, keep);
    if !plan.keeps_best() && !keep.contains(&true) {
        return Err(Status::Infeasible);
    }
    face.gather(plan, prepared, keep, weights);
    let solved = match plan.target {
        Some(target) => target::solve(plan, target, face, term, scratch, answer),
        None => dispatch(&plan.objective, plan.cap, face, term, scratch, answer),
    };
    match solved.status.is_solved() {
        true => Ok((term, solved)),
        false => Err(solved.status),
    }
}

/// One file per solver. Only a price a token narrows the face.
fn dispatch(
    objective: &Objective,
    cap: f64,
    face: &mut Face,
    term: CoverageTerm,
    scratch: &mut Scratch,
    answer: &mut Answer,
) -> Solved {
    match *objective {
        Objective::Argmax => argmax::solve(face, |i| face.l[i], answer),
        Objective::Softmax { lam } => softmax::entropic(lam, face, answer),
        Objective::AnchoredSoftmax { lam } => softmax::anchored(lam, face, answer),
        Objective::Quadratic { lam } => threshold::quadratic(lam, face, scratch, answer),
        Objective::Tsallis { lam, alpha: 2.0 } => {
            let solved = threshold::quadratic(lam, face, scratch, answer);
            Solved {
                threshold: solved.threshold + 0.5 * lam,
                ..solved
            }
        }
        Objective::Tsallis { lam, alpha: 1.5 } => threshold::entmax15(lam, face, scratch, answer),
        Objective::Tsallis { lam, alpha } if alpha < 2.0 => tsallis::flat(lam, alpha, face, scratch, answer),
        Objective::Tsallis { lam, alpha } => tsallis::steep(lam, alpha, face, scratch, answer),
        Objective::Coverage { lam, .. } if lam > 0.0 => coverage::solve(lam, term, face, scratch, answer),
        Objective::Coverage { .. } => waterfill::solve(term, face, scratch, answer),
        Objective::Mirror {
            lam,
            steps,
            eta,
            tolerance,
            ..
        } => {
            let ascent = mirror::Ascent {
                lam,
                term,
                steps,
                eta,
                tolerance,
            };
            mirror::solve(&ascent, face, &mut scratch.values, answer)
        }
        Objective::Separable { ref terms, .. } => separable::solve(terms, cap, term, face, scratch, answer),
        Objective::GreedyFill => fill::solve(cap, face, &mut scratch.ranked, answer),
        Objective::AdaptiveK { base, price } => adaptive::solve(base, price, face, scratch, answer),
    }
}
