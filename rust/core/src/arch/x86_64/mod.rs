//! x86-64 beyond its baseline.

pub(super) mod avx2;
pub(super) mod avx512;

/// AVX2 with FMA, F16C, BMI1 and POPCNT, which every processor with AVX2 has, but not every hypervisor shows.
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("popcnt")
}

/// AVX-512 F, BW, VL and DQ, as in every server since Skylake.
pub(super) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}
