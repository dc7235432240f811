//! What became of a row.

/// The outcome of solving or sampling one row. The numbers are part of the Python surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Solved to float precision.
    Ok = 0,
    /// A usable distribution whose residual is larger than float precision explains.
    ReducedAccuracy = 1,
    /// No token is allowed, or none is in all supports.
    Infeasible = 2,
    /// An allowed token has a NaN score.
    NanScores = 3,
    /// An allowed token has a +inf score.
    InfScores = 4,
    /// The given anchor has a NaN or +inf log-probability on an allowed token.
    BadAnchor = 5,
    /// A given weight of an allowed token is NaN, negative or infinite.
    BadWeights = 6,
    /// Fewer tokens have probability than distinct ones were asked for.
    TooFewTokens = 7,
    // 8 is taken in Python: a regularizer of the caller's own failed there.
}

impl Status {
    /// Whether the row has a distribution (possibly of reduced accuracy).
    pub fn is_solved(self) -> bool {
        matches!(self, Status::Ok | Status::ReducedAccuracy)
    }
}
