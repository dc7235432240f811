//! `Plan`: the core's plan, built once from Python's and checked number by number.

use optdecode_core::plan::{self, Anchor, Coverage, Objective, Rule, Support, Target, Term, TermKind, Weights};
use pyo3::prelude::*;

use crate::arrays::{Arguments, vector};
use crate::errors::{guard, integer, value};

/// One distribution problem with its parameters, checked and immutable.
#[pyclass(frozen, module = "optdecode._core")]
pub(crate) struct Plan {
    pub(crate) plan: plan::Plan,
}

/// The plans of a call, one for all rows or one a row, checked.
pub(crate) fn check_plans<'a>(
    plans: &'a [Bound<'_, Plan>],
    arguments: &Arguments<'_>,
) -> PyResult<Vec<&'a plan::Plan>> {
    let plans: Vec<_> = plans.iter().map(|plan| &plan.get().plan).collect();
    let rows = arguments.rows;
    if plans.len() != 1 && plans.len() != rows {
        let count = plans.len();
        return Err(value(format!(
            "plans must have length 1 or {rows}, the rows; got {count}"
        )));
    }
    for (row, plan) in plans.iter().enumerate() {
        arguments.check_plan(plan, (plans.len() > 1).then_some(row))?;
    }
    Ok(plans)
}

/// (rule, value, measured on raw logits).
type RuleTuple = (String, f64, bool);

/// (kind, coefficient, alpha, anchor).
type TermTuple = (String, f64, f64, String);

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (kind, *, temperature, score_weight, raw_scores, lam, alpha, beta_bar, budget, weights,
                        weight_values, weight_supports, anchor, steps, eta, tolerance, terms, price, cap, target,
                        supports, chains, allowed))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        kind: &str,
        temperature: f64,
        score_weight: f64,
        raw_scores: bool,
        lam: f64,
        alpha: f64,
        beta_bar: f64,
        budget: &Bound<'_, PyAny>,
        weights: &str,
        weight_values: Option<Bound<'_, PyAny>>,
        weight_supports: Vec<RuleTuple>,
        anchor: &str,
        steps: &Bound<'_, PyAny>,
        eta: Option<f64>,
        tolerance: Option<f64>,
        terms: Vec<TermTuple>,
        price: f64,
        cap: f64,
        target: Option<(String, f64)>,
        supports: Vec<RuleTuple>,
        chains: Vec<Vec<RuleTuple>>,
        allowed: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        guard(|| {
            let coverage = || -> PyResult<Coverage> {
                Ok(Coverage {
                    beta_bar: number("beta_bar", beta_bar, "finite and >= 0", |x| x >= 0.0)?,
                    budget: integer("budget", budget, 1, u64::from(u32::MAX))? as u32,
                    weights: coverage_weights(weights, weight_values.as_ref(), &weight_supports)?,
                })
            };
            let positive_lam = || number("lam", lam, "finite and > 0", |x| x > 0.0);
            let anchor = anchor_named(anchor)?;
            let terms = terms
                .iter()
                .map(|given| term(given, anchor))
                .collect::<PyResult<Vec<_>>>()?;
            if anchor == Anchor::None && matches!(kind, "anchored_softmax" | "coverage_dual" | "mirror") {
                return Err(value(format!("{kind} needs anchor 'model' or 'given'; got 'none'")));
            }
            let objective = match kind {
                "argmax" => Objective::Argmax,
                "softmax" | "face_softmax" => Objective::Softmax { lam: positive_lam()? },
                "anchored_softmax" => Objective::AnchoredSoftmax { lam: positive_lam()? },
                "threshold_quadratic" => Objective::Quadratic { lam: positive_lam()? },
                "threshold_tsallis" => Objective::Tsallis {
                    lam: positive_lam()?,
                    alpha: number("alpha", alpha, "finite and > 1", |x| x > 1.0)?,
                },
                "coverage_dual" => Objective::Coverage {
                    lam: positive_lam()?,
                    coverage: coverage()?,
                },
                "coverage_waterfill" => Objective::Coverage {
                    lam: number("lam", lam, "0", |x| x == 0.0)?,
                    coverage: coverage()?,
                },
                "mirror" => Objective::Mirror {
                    lam: number("lam", lam, "finite and >= 0", |x| x >= 0.0)?,
                    coverage: coverage()?,
                    steps: integer("steps", steps, 1, u64::from(u32::MAX))? as u32,
                    eta: eta
                        .map(|eta| number("eta", eta, "finite and > 0", |x| x > 0.0))
                        .transpose()?,
                    tolerance: tolerance.map(|most| gap_in_lam(most, lam)).transpose()?,
                },
                "separable_dual" => Objective::Separable {
                    coverage: covering(&terms)?
                        .map(|coefficient| {
                            let coverage = coverage()?;
                            Ok::<_, PyErr>(Coverage {
                                beta_bar: coefficient,
                                ..coverage
                            })
                        })
                        .transpose()?,
                    terms,
                },
                "greedy_fill" => Objective::GreedyFill,
                "adaptive_k" => Objective::AdaptiveK {
                    base: counted(&terms)?,
                    price: number("price", price, "finite and > 0", |x| x > 0.0)?,
                },
                _ => return Err(one_of("kind", kind, &KINDS)),
            };
            let plan = plan::Plan {
                objective,
                temperature: number("temperature", temperature, "finite and > 0", |x| x > 0.0)?,
                score_weight: number("score_weight", score_weight, "finite", |_| true)?,
                raw_scores,
                anchor,
                supports: faces(&supports)?,
                chains: chains.iter().map(|chain| faces(chain)).collect::<PyResult<_>>()?,
                allowed: allowed.as_ref().map(allowed_ids).transpose()?,
                cap: number("cap", cap, "in (0, 1]", |x| 0.0 < x && x <= 1.0)?,
                target: target.as_ref().map(target_named).transpose()?,
            };
            check_constraints(&plan, kind)?;
            Ok(Plan { plan })
        })
    }

    fn __repr__(&self) -> String {
        format!("<optdecode._core.Plan {:?}>", self.plan.objective)
    }
}

const KINDS: [&str; 12] = [
    "argmax",
    "softmax",
    "face_softmax",
    "anchored_softmax",
    "threshold_quadratic",
    "threshold_tsallis",
    "coverage_dual",
    "coverage_waterfill",
    "mirror",
    "separable_dual",
    "greedy_fill",
    "adaptive_k",
];

const RULES: [&str; 9] = [
    "top_k",
    "top_p",
    "min_p",
    "top_n_sigma",
    "p_less",
    "epsilon",
    "eta",
    "typical",
    "top_h",
];

const TERMS: [&str; 7] = [
    "entropy",
    "quadratic",
    "tsallis",
    "kl",
    "divergence",
    "coverage",
    "log_coverage",
];

fn anchor_named(anchor: &str) -> PyResult<Anchor> {
    Ok(match anchor {
        "none" => Anchor::None,
        "model" => Anchor::Model,
        "given" => Anchor::Given,
        _ => return Err(one_of("anchor", anchor, &["none", "model", "given"])),
    })
}

/// A term of a plan with an anchor.
fn term((kind, coefficient, alpha, anchor): &TermTuple, of_plan: Anchor) -> PyResult<Term> {
    let anchor = anchor_named(anchor)?;
    let kind = match kind.as_str() {
        "entropy" => TermKind::Entropy,
        "quadratic" => TermKind::Quadratic,
        "tsallis" => TermKind::Tsallis {
            alpha: number("alpha of a tsallis term", *alpha, "finite and > 1", |x| x > 1.0)?,
        },
        "kl" => TermKind::Kl(anchor),
        "divergence" => TermKind::Divergence {
            alpha: number("alpha of a divergence term", *alpha, "finite", |_| true)?,
            anchor,
        },
        "coverage" => TermKind::Coverage,
        "log_coverage" => TermKind::LogCoverage,
        _ => return Err(one_of("a term's kind", kind, &TERMS)),
    };
    let anchored = matches!(kind, TermKind::Kl(_) | TermKind::Divergence { .. });
    if anchored && (anchor == Anchor::None || (anchor == Anchor::Given && of_plan != Anchor::Given)) {
        return Err(value(
            "a term's anchor must be 'model', or 'given' as the plan's is; got another",
        ));
    }
    let signed = !(kind.covers() || matches!(kind, TermKind::Divergence { .. }));
    let coefficient = match signed {
        true => number("a coefficient", *coefficient, "finite and not 0", |x| x != 0.0),
        false => number("a coefficient of this term", *coefficient, "finite and > 0", |x| {
            x > 0.0
        }),
    }?;
    Ok(Term { kind, coefficient })
}

/// The coefficient of the covering term, if there is one.
fn covering(terms: &[Term]) -> PyResult<Option<f64>> {
    if terms.is_empty() {
        return Err(value("separable_dual needs terms; got none"));
    }
    let mut covering = terms.iter().filter(|term| term.kind.covers());
    match (covering.next(), covering.next()) {
        (first, None) => Ok(first.map(|term| term.coefficient)),
        _ => Err(value("at most one term of a plan covers; got more")),
    }
}

/// The base of a plan that counts tokens.
fn counted(terms: &[Term]) -> PyResult<Term> {
    let counts = |kind| {
        matches!(
            kind,
            TermKind::Entropy | TermKind::Quadratic | TermKind::Tsallis { .. } | TermKind::Kl(Anchor::Model)
        )
    };
    match *terms {
        [base] if counts(base.kind) && base.coefficient > 0.0 => Ok(base),
        _ => Err(value(
            "adaptive_k needs one term, entropy, kl from the model, quadratic or tsallis, with a coefficient > 0",
        )),
    }
}

fn target_named((name, target): &(String, f64)) -> PyResult<Target> {
    let target = number("target", *target, "finite and >= 0", |x| x >= 0.0)?;
    match name.as_str() {
        "entropy" => Ok(Target::Entropy(target)),
        "divergence" => Ok(Target::Divergence(target)),
        _ => Err(one_of("target", name, &["entropy", "divergence"])),
    }
}

/// Checks that the objective has solvers for the plan's cap and target.
fn check_constraints(plan: &plan::Plan, kind: &str) -> PyResult<()> {
    let cap = plan.cap;
    if cap < 1.0 && !matches!(plan.objective, Objective::Separable { .. } | Objective::GreedyFill) {
        return Err(value(format!("cap must be 1 with {kind}; got {cap}")));
    }
    let chooses = matches!(
        plan.objective,
        Objective::Argmax | Objective::GreedyFill | Objective::Mirror { .. } | Objective::AdaptiveK { .. }
    );
    match plan.target {
        Some(_) if chooses => Err(value(format!("target must be None with {kind}"))),
        _ => Ok(()),
    }
}

fn number(name: &str, number: f64, allowed: &str, check: impl Fn(f64) -> bool) -> PyResult<f64> {
    let fine = number.is_finite() && check(number);
    fine.then_some(number)
        .ok_or_else(|| value(format!("{name} must be {allowed}; got {number}")))
}

/// A tolerance, which is measured in lam.
fn gap_in_lam(tolerance: f64, lam: f64) -> PyResult<f64> {
    match lam > 0.0 {
        true => number("tolerance", tolerance, "finite and > 0", |x| x > 0.0),
        false => Err(value("tolerance must be None where lam = 0, its unit")),
    }
}

fn one_of(name: &str, given: &str, names: &[&str]) -> PyErr {
    value(format!("{name} must be one of {}; got {given:?}", names.join(", ")))
}

fn coverage_weights(weights: &str, values: Option<&Bound<'_, PyAny>>, supports: &[RuleTuple]) -> PyResult<Weights> {
    Ok(match weights {
        "model" => Weights::Model,
        "uniform" => Weights::Uniform,
        "rank" => Weights::Rank,
        "support" => Weights::Support(faces(supports)?),
        "array" => {
            let values = values.ok_or_else(|| value("weights='array' needs weight_values"))?;
            let values = vector::<f64>("weight_values", values, None)?.as_slice()?.to_vec();
            if let Some(bad) = values.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
                return Err(value(format!("weight_values must be finite and >= 0; got {bad}")));
            }
            Weights::Array(values)
        }
        _ => {
            return Err(one_of(
                "weights",
                weights,
                &["model", "uniform", "rank", "support", "array"],
            ));
        }
    })
}

fn faces(rules: &[RuleTuple]) -> PyResult<Vec<Support>> {
    rules.iter().map(support).collect()
}

fn support((rule, x, raw): &RuleTuple) -> PyResult<Support> {
    let not_nan = |fine: bool, allowed: &str| match fine {
        true => Ok(*x),
        false => Err(value(format!("{rule} must be {allowed}; got {x}"))),
    };
    let rule = match rule.as_str() {
        "top_k" => Rule::TopK(not_nan(*x >= 1.0 && x.fract() == 0.0, "an integer >= 1")? as usize),
        "top_p" => Rule::TopP(not_nan(*x > 0.0, "> 0")?),
        "min_p" => Rule::MinP(not_nan(*x <= 1.0, "<= 1")?),
        "top_n_sigma" => Rule::TopNSigma(not_nan(*x >= 0.0 && x.is_finite(), "finite and >= 0")?),
        "p_less" => Rule::PLess,
        "epsilon" => Rule::Epsilon(not_nan(*x >= 0.0, ">= 0")?),
        "eta" => Rule::Eta(not_nan(*x >= 0.0, ">= 0")?),
        "typical" => Rule::Typical(not_nan(*x > 0.0, "> 0")?),
        "top_h" => Rule::TopH(not_nan(*x >= 0.0, ">= 0")?),
        _ => return Err(one_of("a support's rule", rule, &RULES)),
    };
    Ok(Support { rule, raw: *raw })
}

fn allowed_ids(ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let ids = vector::<u32>("allowed", ids, None)?.as_slice()?.to_vec();
    match ids.is_sorted_by(|a, b| a < b) {
        true => Ok(ids),
        false => Err(value("allowed must be sorted and without duplicates")),
    }
}
