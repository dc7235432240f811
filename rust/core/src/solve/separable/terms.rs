//! The terms of a separable regulariser: all that is particular to one of them.
//!
//! With `u = log q_i` the derivative of a token's terms is, but for a constant, a sum of few shapes, and increases in u:
//!
//! ```text
//! linear * u  +  sum c e^(b (u - log r)) / b  -  w c K (1 - q)^(K-1) [ / (1 - (1 - q)^K) ]  +  constant
//! ```
//!
//! A new term says in [`Law::set`] what it adds to these, and in [`value`] what it is worth.

use crate::math;
use crate::plan::{Anchor, Term, TermKind};
use crate::solve::CoverageTerm;
use crate::solve::face::{Answer, Face};
use crate::solve::wright;

/// `c e^(b (u - log r)) / b`, less `c / b` if b is small.
///
/// As b approaches 0, that tends to the logarithm; where it is not small, small values must not be lost beside the constant.
#[derive(Clone, Copy, Debug)]
struct Power {
    c: f64,
    /// Not 0.
    b: f64,
    anchor: Anchor,
}

impl Power {
    /// What is taken off.
    fn constant(&self) -> f64 {
        if self.b.abs() < SMALL { self.c / self.b } else { 0.0 }
    }
}

/// Exponents below this are small.
const SMALL: f64 = 0.5;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Covering {
    #[default]
    Nothing,
    Linear,
    Log,
}

/// The derivatives of a regulariser's terms, for tokens that differ in their numbers alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Law {
    /// The factor of u, not negative.
    linear: f64,
    powers: Vec<Power>,
    covering: Covering,
    /// K.
    budget: f64,
    /// What there is besides: the constant, and the factors of `-log p` and `-log r`.
    constants: [f64; 3],
    /// The value at q = 0 without the covering term, and the largest `|b|`.
    floor: f64,
    steepest: f64,
}

/// The numbers of a token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) p: f64,
    pub(super) log_p: f64,
    /// Of the given anchor.
    pub(super) log_r: f64,
    /// `w c` of the covering term.
    pub(super) gain: f64,
}

/// A derivative as a function of u: its value, its slope, a bound on the slope of that, and how fast, as an exponent, this may
/// change; and q, if it came by the way, else NaN.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tangent {
    pub(super) q: f64,
    pub(super) value: f64,
    pub(super) slope: f64,
    pub(super) bend: f64,
    pub(super) rate: f64,
}

/// Coefficients that cancel to this share of their sizes are rounding.
const CANCELLED: f64 = 8.0 * f64::EPSILON;

impl Numbers {
    pub(super) fn of(face: &Face, i: usize, term: CoverageTerm) -> Self {
        let weight = face.w.get(i).copied().unwrap_or(0.0);
        Numbers {
            p: face.p[i],
            log_p: face.log_anchor(Anchor::Model)[i],
            log_r: face.log_r[i],
            gain: (term.beta_bar * weight).min(f64::MAX),
        }
    }

    fn log_anchor(&self, anchor: Anchor) -> f64 {
        match anchor {
            Anchor::None => 0.0,
            Anchor::Model => self.log_p,
            Anchor::Given => self.log_r,
        }
    }
}

impl Law {
    /// Takes the terms, with the budget of the one that covers.
    pub(super) fn set(&mut self, terms: &[Term], budget: f64) {
        self.powers.clear();
        self.covering = Covering::Nothing;
        self.budget = budget;
        self.constants = [0.0; 3];
        let (mut linear, mut size) = (math::Sum::default(), 0.0);
        let mut logarithm = |c: f64| {
            linear.add(c);
            size += c.abs();
        };
        for &Term { kind, coefficient: c } in terms {
            match kind {
                TermKind::Entropy => {
                    logarithm(c);
                    self.constants[0] += c;
                }
                TermKind::Kl(anchor) => {
                    logarithm(c);
                    self.constants[0] += c;
                    self.constants[place(anchor)] += c;
                }
                TermKind::Divergence { alpha: 1.0, anchor } => {
                    logarithm(c);
                    self.constants[place(anchor)] += c;
                }
                TermKind::Quadratic => {
                    self.power(c, 1.0, Anchor::None);
                    self.constants[0] += c;
                }
                TermKind::Tsallis { alpha } => {
                    self.power(c, alpha - 1.0, Anchor::None);
                    self.constants[0] += c / alpha;
                }
                TermKind::Divergence { alpha, anchor } => self.power(c, alpha - 1.0, anchor),
                TermKind::Coverage => self.covering = Covering::Linear,
                TermKind::LogCoverage => self.covering = Covering::Log,
            }
        }
        let linear = linear.value();
        self.linear = if linear > CANCELLED * size { linear } else { 0.0 };
        let without = |power: &Power| {
            if power.b > 0.0 {
                -power.constant()
            } else {
                f64::NEG_INFINITY
            }
        };
        self.floor = match self.linear {
            0.0 => self.powers.iter().map(without).sum(),
            _ => f64::NEG_INFINITY,
        };
        self.steepest = math::max(self.powers.iter().map(|power| power.b.abs())).max(0.0);
    }

    /// Adds a power to what there is of its kind; what cancels is gone.
    fn power(&mut self, c: f64, b: f64, anchor: Anchor) {
        let power = Power { c, b, anchor };
        self.constants[0] += power.constant() - c / b;
        let alike = |power: &Power| power.b == b && power.anchor == anchor;
        let Some(at) = self.powers.iter().position(alike) else {
            return self.powers.push(power);
        };
        let sum = self.powers[at].c + c;
        if sum.abs() <= CANCELLED * c.abs() {
            self.powers.swap_remove(at);
        } else {
            self.powers[at].c = sum;
        }
    }

    /// What the derivative has besides the [`Law::tangent`].
    pub(super) fn constant(&self, token: &Numbers) -> f64 {
        let [constant, model, given] = self.constants;
        let tilt = |factor: f64, log: f64| if factor == 0.0 { 0.0 } else { factor * log };
        constant - tilt(model, token.log_p) - tilt(given, token.log_r)
    }

    /// The derivative at u, less the constant.
    pub(super) fn tangent(&self, token: &Numbers, u: f64) -> Tangent {
        let mut sum = Tangent {
            value: if self.linear > 0.0 { self.linear * u } else { 0.0 },
            slope: self.linear,
            bend: 0.0,
            rate: 0.0,
            q: f64::NAN,
        };
        for &Power { c, b, anchor } in &self.powers {
            let y = b * (u - token.log_anchor(anchor));
            let (part, whole) = if b.abs() < SMALL {
                exponentials(y)
            } else {
                let whole = math::exp(y);
                (whole, whole)
            };
            sum.value += c * part / b;
            sum.slope += c * whole;
            sum.bend += (c * whole * b).abs();
            sum.rate = sum.rate.max(b.abs());
            if b == 1.0 && anchor == Anchor::None {
                sum.q = whole;
            } else if b == 1.0 && anchor == Anchor::Model && token.p > 1e-290 {
                sum.q = token.p * whole;
            }
        }
        let covering = match self.covering {
            _ if token.gain == 0.0 => return sum,
            Covering::Nothing => return sum,
            Covering::Linear => hits(token.gain, self.budget, u),
            Covering::Log => log_hits(token.gain, self.budget, u),
        };
        Tangent {
            value: sum.value + covering.value,
            slope: sum.slope + covering.slope,
            bend: sum.bend + covering.bend,
            rate: sum.rate.max(covering.rate),
            q: covering.q,
        }
    }

    /// The power of `sum q` that is most nearly linear in the multiplier; 0 stands for the logarithm.
    pub(super) fn rate(&self) -> f64 {
        if self.linear > 0.0 {
            return 0.0;
        }
        let least = if self.covering == Covering::Log { -1.0 } else { 1.0 };
        self.powers
            .iter()
            .fold(least, |least: f64, power| least.min(power.b))
            .max(-4.0)
    }

    /// How fast, as an exponent, a slope may change.
    pub(super) fn fastest(&self, token: &Numbers) -> f64 {
        let covering = if token.gain > 0.0 { 1.0 } else { 0.0 };
        self.steepest.max(covering)
    }

    /// Whether the derivative is the same for every q; then what it is, less the constant.
    pub(super) fn flat(&self, token: &Numbers) -> Option<f64> {
        if self.linear > 0.0 || !self.powers.is_empty() {
            return None;
        }
        match self.covering {
            _ if token.gain == 0.0 => Some(0.0),
            Covering::Nothing => Some(0.0),
            Covering::Linear if self.budget == 1.0 => Some(-token.gain),
            _ => None,
        }
    }

    /// The derivative at q = 0, less the constant; -inf where every token keeps some probability.
    pub(super) fn at_zero(&self, token: &Numbers) -> f64 {
        match self.covering {
            _ if token.gain == 0.0 => self.floor,
            Covering::Nothing => self.floor,
            Covering::Linear => self.floor - token.gain * self.budget,
            Covering::Log => f64::NEG_INFINITY,
        }
    }

    /// Where the derivative is `t`, and its slope there, if it is of one shape alone.
    pub(super) fn closed(&self, token: &Numbers, t: f64) -> Option<(f64, f64)> {
        if token.gain != 0.0 && self.covering != Covering::Nothing {
            return None;
        }
        match self.powers[..] {
            [] if self.linear > 0.0 => Some((t / self.linear, self.linear)),
            [Power { c, b, anchor }] if self.linear == 0.0 => {
                // `e^(b (u - log r))`, less 1 if b is small.
                let part = b * t / c;
                let (log, whole) = if b.abs() < SMALL {
                    (math::ln_1p(part.max(-1.0)), 1.0 + part)
                } else {
                    (math::ln(part.max(0.0)), part)
                };
                Some((token.log_anchor(anchor) + log / b, c * whole))
            }
            _ => None,
        }
    }

    /// Near where the derivative is `t`: exactly there if one shape beside the linear one is all that matters.
    pub(super) fn start(&self, token: &Numbers, t: f64) -> f64 {
        let covers = token.gain > 0.0 && self.covering != Covering::Nothing;
        let mut over = t;
        for power in self.powers.iter().filter(|power| power.b > 0.0) {
            over += power.constant();
        }
        if covers && self.covering == Covering::Linear {
            over += token.gain * self.budget;
        }
        let shapes = self.powers.iter().filter(|power| power.c > 0.0);
        let alone = shapes.map(|power| {
            let log = token.log_anchor(power.anchor);
            // `e^(b (u - log))` is what the shape adds to `level - log r`.
            let level = if power.b > 0.0 { over } else { over + power.constant() };
            meet(self.linear, power.c / power.b, power.b, log, level)
        });
        let least = alone.fold(f64::INFINITY, |least, u| if u < least { u } else { least });
        let covering = match self.covering {
            Covering::Log if covers => meet(self.linear, -token.gain, -1.0, 0.0, over),
            Covering::Linear if covers && self.powers.is_empty() && self.linear == 0.0 => {
                let log_miss = math::ln(-t / (token.gain * self.budget)) / (self.budget - 1.0);
                math::ln(-math::expm1(log_miss))
            }
            _ => f64::INFINITY,
        };
        let least = least.min(covering);
        if least < f64::INFINITY || self.linear == 0.0 {
            return least;
        }
        over / self.linear
    }
}

/// The place of an anchor in [`Law::constants`].
fn place(anchor: Anchor) -> usize {
    match anchor {
        Anchor::Given => 2,
        _ => 1,
    }
}

/// u with `linear u + scale e^(b (u - log)) = level`, scale and b of the same sign; inf if there is none.
fn meet(linear: f64, scale: f64, b: f64, log: f64, level: f64) -> f64 {
    if linear == 0.0 {
        let ratio = level / scale;
        return if ratio > 0.0 {
            log + math::ln(ratio) / b
        } else {
            f64::INFINITY
        };
    }
    // y = |b| scale e^(...) / linear solves y + log y = z.
    let log_ratio = math::ln(b * scale / linear);
    let flat = level / linear;
    let z = log_ratio + b * (flat - log);
    let y = wright::omega(z);
    if y < 1.0 {
        flat - y / b
    } else {
        log + (math::ln(y) - log_ratio) / b
    }
}

/// `e^y - 1` and `e^y`, each to its own precision.
fn exponentials(y: f64) -> (f64, f64) {
    if y.abs() < 0.5 {
        let less_one = math::expm1(y);
        (less_one, less_one + 1.0)
    } else {
        let whole = math::exp(y);
        (whole - 1.0, whole)
    }
}

/// Below this, `K q` is so small that two terms of a series in it are all.
const FEW: f64 = 1e-5;

/// `-gain K (1 - q)^(K-1)`.
fn hits(gain: f64, budget: f64, u: f64) -> Tangent {
    let (draws, q) = (budget - 1.0, math::exp(u));
    if draws == 0.0 {
        return Tangent {
            value: -gain,
            q,
            ..Tangent::default()
        };
    }
    let whole = gain * budget;
    if draws * q < FEW {
        let slope = whole * draws * q * (1.0 - (draws - 1.0) * q);
        return Tangent {
            value: -whole * (1.0 - draws * q * (1.0 - 0.5 * (draws - 1.0) * q)),
            slope,
            bend: slope,
            rate: 2.0,
            q,
        };
    }
    let rest = -math::expm1(u);
    let power = if draws == 1.0 {
        1.0
    } else {
        math::exp((draws - 1.0) * math::ln_1m_exp(u))
    };
    let slope = whole * draws * q * power;
    let rate = 1.0 + draws * q / rest.max(f64::MIN_POSITIVE);
    Tangent {
        value: -whole * power * rest,
        slope,
        bend: slope * rate,
        rate,
        q,
    }
}

/// `-gain K (1 - q)^(K-1) / (1 - (1 - q)^K)`.
fn log_hits(gain: f64, budget: f64, u: f64) -> Tangent {
    let (draws, q) = (budget - 1.0, math::exp(u));
    // gain / q, where q itself underflows.
    let single = if q > 1e-290 {
        gain / q
    } else {
        math::exp(math::ln(gain) - u)
    };
    if draws == 0.0 {
        return Tangent {
            value: -single,
            slope: single,
            bend: single,
            rate: 1.0,
            q,
        };
    }
    if budget * q < FEW {
        let (first, second) = (0.5 * draws * q, draws * (draws - 4.0) / 12.0 * q * q);
        let slope = single * (1.0 - second);
        return Tangent {
            value: -single * (1.0 - first + second),
            slope,
            bend: slope,
            rate: 2.0,
            q,
        };
    }
    let log_miss = math::ln_1m_exp(u);
    let hit = -math::expm1(budget * log_miss);
    let miss = 1.0 - hit;
    let rest = -math::expm1(u);
    let power = if draws == 1.0 {
        1.0
    } else {
        math::exp((draws - 1.0) * log_miss)
    };
    let slope = gain * q * budget * power * (draws + miss) / (hit * hit);
    let rate = 2.0 + budget * q / rest.max(f64::MIN_POSITIVE);
    Tangent {
        value: -gain * budget * power * rest / hit,
        slope,
        bend: slope * rate,
        rate,
        q,
    }
}

/// Whether the terms are finite at the distribution. A divergence from an anchor that underflows may be too large for f64.
pub(super) fn are_finite(terms: &[Term], face: &Face, answer: &Answer) -> bool {
    /// The logarithm of the largest f64.
    const LARGEST: f64 = 709.0;
    terms.iter().all(|term| match term.kind {
        TermKind::Divergence { alpha, anchor } if alpha != 0.0 && alpha != 1.0 => {
            let tokens = answer.log_q.iter().zip(face.log_anchor(anchor));
            // The logarithm of `r (q / r)^alpha`.
            let log_power = |(&log_q, &log_r): (&f64, &f64)| log_r + alpha * (log_q - log_r);
            tokens.map(log_power).all(|log_power| log_power < LARGEST)
        }
        _ => true,
    })
}

/// A term at the distribution: `coefficient * sum phi(q_i)`.
pub(in crate::solve) fn value(term: &Term, covering: CoverageTerm, face: &Face, answer: &Answer) -> f64 {
    let of =
        |phi: &dyn Fn(usize, f64, f64) -> f64| math::sum((0..face.len()).map(|i| phi(i, answer.q[i], answer.log_q[i])));
    let times = |q: f64, log: f64| if q > 0.0 { q * log } else { 0.0 };
    let anchor = face.log_anchor(term.kind.anchor());
    let sum = match term.kind {
        TermKind::Entropy => of(&|_, q, log_q| times(q, log_q)),
        TermKind::Quadratic => of(&|_, q, _| 0.5 * q * q),
        TermKind::Tsallis { alpha } => of(&|_, q, log_q| tsallis(alpha, q, log_q)),
        TermKind::Kl(_) => of(&|i, q, log_q| times(q, log_q - anchor[i])),
        TermKind::Divergence { alpha, .. } => of(&|i, q, log_q| divergence(alpha, q, log_q, anchor[i])),
        TermKind::Coverage => -of(&|i, q, _| face.w[i] * hit(covering.budget, q)),
        TermKind::LogCoverage => -of(&|i, q, log_q| times(face.w[i], log_hit(covering.budget, q, log_q))),
    };
    term.coefficient * sum
}

/// `(q^alpha - q) / (alpha (alpha - 1))`, which does not cancel as alpha approaches 1.
pub(in crate::solve) fn tsallis(alpha: f64, q: f64, log_q: f64) -> f64 {
    let power = alpha - 1.0;
    if q > 0.0 {
        q * math::expm1(power * log_q) / (alpha * power)
    } else {
        0.0
    }
}

/// `r f(q / r)`.
fn divergence(alpha: f64, q: f64, log_q: f64, log_r: f64) -> f64 {
    let (r, log_ratio) = (math::exp(log_r), log_q - log_r);
    if alpha == 1.0 {
        return (if q > 0.0 { q * log_ratio } else { 0.0 }) - q + r;
    }
    if alpha == 0.0 {
        return (if r > 0.0 { -r * log_ratio } else { 0.0 }) + q - r;
    }
    // r t^alpha - r; in one exponential where t^alpha alone might overflow.
    let log_power = alpha * log_ratio;
    let power = if log_power > 1.0 || r == 0.0 {
        math::exp(log_r + log_power) - r
    } else {
        r * math::expm1(log_power)
    };
    (power - alpha * (q - r)) / (alpha * (alpha - 1.0))
}

/// `1 - (1 - q)^K`.
pub(in crate::solve) fn hit(budget: f64, q: f64) -> f64 {
    if q < 1.0 {
        -math::expm1(budget * math::ln_1p(-q))
    } else {
        1.0
    }
}

/// `log (1 - (1 - q)^K)`.
fn log_hit(budget: f64, q: f64, log_q: f64) -> f64 {
    if budget * q < FEW {
        log_q + math::ln(budget) - 0.5 * (budget - 1.0) * q
    } else {
        math::ln(hit(budget, q))
    }
}
