//! 64-bit Arm.

pub(super) mod neon;

#[cfg(test)]
mod tests {
    use crate::arch::Level;

    #[test]
    fn neon_is_the_best_level() {
        assert_eq!(Level::best().name(), "neon");
    }
}
