//! Eight lanes of f32.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::arch::dispatch::Kernel;
use crate::arch::lanes::{ExpLanes, Lanes, NarrowLanes, f32_from, members};

#[derive(Clone, Copy)]
pub(in crate::arch) struct Avx2(__m256);

/// The members of every set of lanes.
static MEMBERS: [[u8; 8]; 256] = members();

/// The lanes whose bits are set, ascending.
#[inline(always)]
unsafe fn places(bits: u64) -> __m256i {
    // SAFETY: AVX2 is present, and eight bytes are read.
    unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(MEMBERS[bits as usize & 0xFF].as_ptr().cast())) }
}

impl Lanes for Avx2 {
    const COUNT: usize = 8;
    type Value = f32;
    /// All bits of a lane, or none.
    type Flag = __m256;

    #[inline(always)]
    unsafe fn lowest() -> Self {
        // SAFETY: AVX2 is present, as for every function here.
        Avx2(unsafe { _mm256_set1_ps(f32::NEG_INFINITY) })
    }

    #[inline(always)]
    unsafe fn smallest_from(bound: f64) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_set1_ps(f32_from(bound)) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn reduce_max(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn keep(self, bits: u64) -> Self {
        // SAFETY: as above.
        unsafe {
            let each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits as i32), each), each);
            Avx2(_mm256_blendv_ps(Self::lowest().0, self.0, _mm256_castsi256_ps(set)))
        }
    }

    #[inline(always)]
    unsafe fn at_least(self, least: Self) -> u64 {
        // SAFETY: as above.
        let lanes = unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.0, least.0)) };
        lanes as u64
    }

    #[inline(always)]
    unsafe fn flag() -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn raise_if_nan(flag: __m256, a: Self, b: Self) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_or_ps(flag, _mm256_cmp_ps::<_CMP_UNORD_Q>(a.0, b.0)) }
    }

    #[inline(always)]
    unsafe fn is_raised(flag: __m256) -> bool {
        // SAFETY: as above.
        unsafe { _mm256_movemask_ps(flag) != 0 }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a hint; no address faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

impl NarrowLanes for Avx2 {
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's, eight scores can be read.
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> [Self; 2] {
        // SAFETY: as above, sixteen scores.
        unsafe {
            let pairs = _mm256_loadu_si256(from.cast());
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
            let even = _mm256_slli_epi32::<16>(pairs);
            [Avx2(_mm256_castsi256_ps(even)), Avx2(_mm256_castsi256_ps(odd))]
        }
    }
}

impl ExpLanes for Avx2 {
    type Table = [__m256; 2];

    #[inline(always)]
    unsafe fn table(words: &[u32; 16]) -> [__m256; 2] {
        let words = words.as_ptr();
        // SAFETY: AVX2 is present, as for every function here, and twice eight words are read.
        unsafe { [_mm256_loadu_ps(words.cast()), _mm256_loadu_ps(words.add(8).cast())] }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX2 is present, as for every function here.
        Avx2(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn over(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_fmsub_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn sixteenths(self, [low, high]: [__m256; 2]) -> Self {
        // SAFETY: as above.
        unsafe {
            let k = _mm256_castps_si256(self.0);
            // Indices are modulo 8; bit 3, moved to the sign, says which half.
            let half = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(k));
            let [low, high] = [_mm256_permutevar8x32_ps(low, k), _mm256_permutevar8x32_ps(high, k)];
            let entry = _mm256_castps_si256(_mm256_blendv_ps(low, high, half));
            Avx2(_mm256_castsi256_ps(_mm256_add_epi32(entry, _mm256_slli_epi32::<19>(k))))
        }
    }

    #[inline(always)]
    unsafe fn larger_bits(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_max_epu32(_mm256_castps_si256(self.0), _mm256_castps_si256(other.0));
            Avx2(_mm256_castsi256_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn has_larger_bits(self, least: u32) -> bool {
        // SAFETY: as above.
        unsafe {
            let (bits, least) = (_mm256_castps_si256(self.0), _mm256_set1_epi32(least as i32));
            let none = _mm256_cmpeq_epi32(_mm256_max_epu32(bits, least), least);
            _mm256_movemask_ps(_mm256_castsi256_ps(none)) != 0xFF
        }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, least: Self) -> Self {
        // SAFETY: as above.
        Avx2(unsafe { _mm256_and_ps(self.0, _mm256_cmp_ps::<_CMP_GE_OQ>(x.0, least.0)) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, and the caller's.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn compress(self, bits: u64, to: *mut f32) {
        // SAFETY: as above, and the caller's.
        unsafe { _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(self.0, places(bits))) }
    }
}

/// The entry point of this level.
///
/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "avx2,fma,f16c,bmi1,popcnt")]
pub(in crate::arch) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: passed on.
    unsafe { kernel.run::<Avx2>() }
}
