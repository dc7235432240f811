//! The closed set of plans: what a problem lowers to, and all that the solvers know of it.
//!
//! Notation (per row, over the allowed tokens): `x` the logits, `s = x / temperature` the scores, `p = softmax(s)` the
//! model distribution, `l_i = score_weight * s_i` (or `score_weight * x_i` when `raw_scores`) the linear term. A plan
//! solves `max <q, l> - Omega(q)` over the probability simplex on the face that the supports select.

/// One distribution problem, parameters included; immutable and shared between rows and threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Which regulariser, hence which solver.
    pub objective: Objective,
    /// Positive and finite (temperature 0 lowers to [`Objective::Argmax`] with temperature 1).
    pub temperature: f64,
    /// Weight of the linear term; finite.
    pub score_weight: f64,
    /// The linear term takes the untempered logits (`p` stays tempered).
    pub raw_scores: bool,
    /// The reference distribution `r` of a KL term; of a sum, `Given` if any term has it.
    pub anchor: Anchor,
    /// Data-dependent faces, all measured on the same `p`, intersected.
    pub supports: Vec<Support>,
    /// Ordered rules, each measured on the renormalised rest of the one before it; what a chain leaves is a face like the others.
    pub chains: Vec<Vec<Support>>,
    /// Sorted, distinct token ids; `None` allows all.
    pub allowed: Option<Vec<u32>>,
    /// Largest probability of a token, in (0, 1]; below 1 with [`Objective::Separable`] and [`Objective::GreedyFill`] only.
    pub cap: f64,
    /// What a multiplier of the whole regulariser, found row by row, is to reach; `None` is multiplier 1. Not with a vertex,
    /// [`Objective::Mirror`] or [`Objective::AdaptiveK`].
    pub target: Option<Target>,
}

impl Plan {
    /// Whether the scores choose a face.
    pub(crate) fn selects(&self) -> bool {
        !(self.supports.is_empty() && self.chains.is_empty())
    }

    /// Whether all faces are prefixes of the order, hence have the best token, whatever the row.
    pub(crate) fn keeps_best(&self) -> bool {
        let mut rules = self.supports.iter().chain(self.chains.iter().flatten());
        rules.all(|support| support.rule.keeps_best())
    }

    /// Whether the distribution is more than the objective's own: the ways for draws know of no cap and of no target.
    pub(crate) fn is_constrained(&self) -> bool {
        self.cap < 1.0 || self.target.is_some()
    }
}

/// The regulariser with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// `Omega = 0`: the vertex at the largest score, lowest index on ties.
    Argmax,
    /// `Omega = lam * sum q log q`.
    Softmax {
        /// Positive.
        lam: f64,
    },
    /// `Omega = lam * KL(q || r)`.
    AnchoredSoftmax {
        /// Positive.
        lam: f64,
    },
    /// `Omega = lam * sum q^2 / 2`.
    Quadratic {
        /// Positive.
        lam: f64,
    },
    /// `Omega = lam * sum (q^alpha - q) / (alpha (alpha - 1))`.
    Tsallis {
        /// Positive.
        lam: f64,
        /// Greater than 1 and finite (1 lowers to softmax); 1.5 and 2 have exact finite forms.
        alpha: f64,
    },
    /// `Omega = lam * KL(q || r) - beta_bar * U_K(q)`, `U_K = sum w_i (1 - (1 - q_i)^K)`, `lam > 0`; or `lam = 0`
    /// ("waterfilling", no anchor). Solved exactly.
    Coverage {
        /// Non-negative.
        lam: f64,
        /// The coverage term.
        coverage: Coverage,
    },
    /// The same objective by mirror ascent (Algorithm 1 of arXiv:2602.18292), started at `r` on the face.
    Mirror {
        /// Non-negative.
        lam: f64,
        /// The coverage term.
        coverage: Coverage,
        /// Number of steps J; the most there are, with a tolerance.
        steps: u32,
        /// Step size; `None` is 1/L with the relative smoothness L of the objective.
        eta: Option<f64>,
        /// Positive: stop once the Frank-Wolfe gap is at most this many lam, `lam > 0`; a row that is not there after `steps` is of
        /// reduced accuracy. `None` takes exactly `steps`.
        tolerance: Option<f64>,
    },
    /// `Omega = sum of terms`, each a sum over tokens, and `q <= cap`. Together they are convex on [0, 1].
    Separable {
        /// Each with a coefficient other than 0.
        terms: Vec<Term>,
        /// Budget and weights of the one covering term, if there is one, with its coefficient.
        coverage: Option<Coverage>,
    },
    /// `Omega = 0` and `q <= cap`: the best tokens in order, each filled up to the cap.
    GreedyFill,
    /// `Omega = base + price * (number of tokens)`, on the k best tokens for the best k.
    AdaptiveK {
        /// Entropy, KL from the model, quadratic or Tsallis, with a positive coefficient.
        base: Term,
        /// Positive.
        price: f64,
    },
}

impl Objective {
    /// The coverage term, if there is one.
    pub fn coverage(&self) -> Option<&Coverage> {
        match self {
            Objective::Coverage { coverage, .. } | Objective::Mirror { coverage, .. } => Some(coverage),
            Objective::Separable { coverage, .. } => coverage.as_ref(),
            _ => None,
        }
    }
}

/// `coefficient * sum phi(q_i)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// phi.
    pub kind: TermKind,
    /// Finite; positive for divergences and for the two that cover, which are concave and subtracted.
    pub coefficient: f64,
}

/// A function of q that is a sum over tokens, `r` being an anchor and K and w those of the objective's coverage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TermKind {
    /// `sum q log q`.
    Entropy,
    /// `sum q^2 / 2`.
    Quadratic,
    /// `sum (q^alpha - q) / (alpha (alpha - 1))`.
    Tsallis {
        /// Greater than 1.
        alpha: f64,
    },
    /// `sum q log (q / r)`.
    Kl(Anchor),
    /// `sum r f(q / r)`, `f(t) = (t^alpha - alpha t + alpha - 1) / (alpha (alpha - 1))`, with its limits at 0 and 1.
    Divergence {
        /// Finite.
        alpha: f64,
        /// r.
        anchor: Anchor,
    },
    /// `-sum w (1 - (1 - q)^K)`.
    Coverage,
    /// `-sum w log (1 - (1 - q)^K)`.
    LogCoverage,
}

impl TermKind {
    /// Whether K and w are those of the objective's coverage.
    pub fn covers(self) -> bool {
        matches!(self, TermKind::Coverage | TermKind::LogCoverage)
    }

    /// r.
    pub fn anchor(self) -> Anchor {
        match self {
            TermKind::Kl(anchor) | TermKind::Divergence { anchor, .. } => anchor,
            _ => Anchor::None,
        }
    }
}

/// What the smallest multiplier of the whole regulariser is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// `H(q) >= h`, in nats.
    Entropy(f64),
    /// `KL(q || r) <= epsilon`, r the plan's anchor.
    Divergence(f64),
}

/// `beta_bar * sum w_i (1 - (1 - q_i)^budget)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Coverage {
    /// Non-negative and finite.
    pub beta_bar: f64,
    /// K >= 1; a row may bring its own.
    pub budget: u32,
    /// w.
    pub weights: Weights,
}

/// The weights w of a coverage term, measured on the allowed tokens; a row may bring its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// w = p.
    Model,
    /// w = 1.
    Uniform,
    /// w = 1 / rank by (score descending, index ascending), ranks from 1.
    Rank,
    /// The indicator of a face.
    Support(Vec<Support>),
    /// One weight a token, length V.
    Array(Vec<f64>),
}

/// The reference r of a KL term or a divergence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The plan has none (reported KL is against p).
    None,
    /// r = p.
    Model,
    /// Log-probabilities that come with each row, renormalised over the allowed tokens; -inf forbids.
    Given,
}

/// A rule that selects a face of the simplex from the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Support {
    /// The rule.
    pub rule: Rule,
    /// Measured on `softmax(logits)` instead of `softmax(logits / temperature)`.
    pub raw: bool,
}

/// Which tokens a support keeps. Order means (score descending, index ascending).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// The first k in order, exactly k (all if fewer are allowed); decided on the input values.
    TopK(usize),
    /// The smallest prefix of the order with mass >= P; P >= 1 keeps all.
    TopP(f64),
    /// `x >= max x + T ln rho` in f64 on the input values (T = 1 if raw); rho <= 0 keeps all.
    MinP(f64),
    /// `x >= max x - n std(x)`, ddof = 0, over the allowed tokens.
    TopNSigma(f64),
    /// `p >= (1 - 1e-6) sum p^2`.
    PLess,
    /// `p >= eps`, and the best token.
    Epsilon(f64),
    /// `p >= min(eps, sqrt(eps) exp(-H(p)))`, and the best token.
    Eta(f64),
    /// The smallest set with mass >= P of the tokens in ascending order of `|-ln p - H(p)|` (ties: as in the order); P >= 1 keeps
    /// all. The one rule that may drop the best token.
    Typical(f64),
    /// The longest prefix of the order on which p, renormalised, has an entropy of at most `alpha H(p)`, of tokens with p > 0;
    /// the best token at any rate; alpha >= 1 keeps all.
    TopH(f64),
}

impl Rule {
    /// Whether the rule keeps a prefix of the order, hence the best token, whatever the row.
    pub(crate) fn keeps_best(self) -> bool {
        !matches!(self, Rule::Typical(mass) if mass < 1.0)
    }
}
