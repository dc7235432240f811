//! One row as it comes in: borrowed scores of any float width, mask, anchor, weights, budget.

use half::{bf16, f16};

/// Logits of one row, read in their own width and widened to f64 exactly.
#[derive(Clone, Copy, Debug)]
pub enum Scores<'a> {
    /// IEEE double.
    F64(&'a [f64]),
    /// IEEE single.
    F32(&'a [f32]),
    /// IEEE half.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl Scores<'_> {
    /// The vocabulary size V.
    pub fn len(&self) -> usize {
        match self {
            Scores::F64(x) => x.len(),
            Scores::F32(x) => x.len(),
            Scores::F16(x) => x.len(),
            Scores::Bf16(x) => x.len(),
        }
    }

    /// The score of a token, widened; NaN past the end.
    #[inline]
    pub(crate) fn at(&self, id: usize) -> f64 {
        match self {
            Scores::F64(x) => x.get(id).copied(),
            Scores::F32(x) => x.get(id).map(|&x| x.into()),
            Scores::F16(x) => x.get(id).map(|&x| x.into()),
            Scores::Bf16(x) => x.get(id).map(|&x| x.into()),
        }
        .unwrap_or(f64::NAN)
    }

    /// Whether V = 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which tokens are allowed; tokens past its end are not.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// One flag a token.
    Flags(&'a [bool]),
    /// Packed, least significant bit first, 1 = allowed: token j is bit j % 32 of word j / 32.
    Bits(&'a [u32]),
}

impl Mask<'_> {
    /// Whether token `id` is allowed.
    #[inline]
    pub fn allows(&self, id: usize) -> bool {
        match self {
            Mask::Flags(flags) => flags.get(id).copied().unwrap_or(false),
            Mask::Bits(words) => words.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1),
        }
    }
}

/// All that one row brings to a call.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The logits.
    pub scores: Scores<'a>,
    /// Call-time mask.
    pub mask: Option<Mask<'a>>,
    /// Log-probabilities for [`crate::plan::Anchor::Given`], length V.
    pub anchor: Option<&'a [f64]>,
    /// Coverage weights in place of the plan's, length V.
    pub weights: Option<&'a [f64]>,
    /// Coverage budget K in place of the plan's, at least 1.
    pub budget: Option<u32>,
}

impl<'a> Row<'a> {
    /// The row under a packed mask in place of its own.
    pub(crate) fn masked(&self, words: &'a [u32]) -> Row<'a> {
        Row {
            mask: Some(Mask::Bits(words)),
            ..*self
        }
    }

    /// The score of a token, if it is allowed and has one that is finite.
    #[inline]
    pub(crate) fn allowed_score(&self, id: usize) -> Option<f64> {
        let x = self.scores.at(id);
        (x.is_finite() && self.mask.is_none_or(|mask| mask.allows(id))).then_some(x)
    }
}
