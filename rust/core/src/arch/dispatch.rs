//! From a level and a row of some width to a kernel compiled for both.

#[cfg(target_arch = "aarch64")]
use super::aarch64;
use super::lanes::ExpLanes;
#[cfg(target_arch = "x86_64")]
use super::x86_64;
use super::{Isa, Level, scalar};

/// A kernel with its arguments. Everything under `run` must be `#[inline(always)]`: it is compiled once for each instruction
/// set, inside the one function of that set which has it enabled. A closure over lanes would not be.
pub(super) trait Kernel {
    /// What it returns.
    type Output;

    /// # Safety
    ///
    /// The instruction set of `L` is present.
    unsafe fn run<L: ExpLanes>(self) -> Self::Output;
}

impl Level {
    /// Runs a kernel on this level.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Isa::Scalar => scalar::run(kernel),
            // SAFETY: a `Level` is made only where its instruction set was detected.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86_64::avx2::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86_64::avx512::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { aarch64::neon::run(kernel) },
        }
    }
}

/// Runs a kernel on the scores of a row, whatever their width: `narrow!(scores, x => kernel, else wide)`, `x` the slice.
macro_rules! narrow {
    ($level:expr, $scores:expr, $x:ident => $kernel:expr, $wide:pat => $else:expr) => {
        match $scores {
            $crate::row::Scores::F64($wide) => $else,
            $crate::row::Scores::F32($x) => $level.run($kernel),
            $crate::row::Scores::F16($x) => $level.run($kernel),
            $crate::row::Scores::Bf16($x) => $level.run($kernel),
        }
    };
}
pub(super) use narrow;
