//! Sixteen lanes of f32, with mask registers.

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::arch::dispatch::Kernel;
use crate::arch::lanes::{ExpLanes, Lanes, NarrowLanes, f32_from};

#[derive(Clone, Copy)]
pub(in crate::arch) struct Avx512(__m512);

impl Lanes for Avx512 {
    const COUNT: usize = 16;
    type Value = f32;
    type Flag = __mmask16;

    #[inline(always)]
    unsafe fn lowest() -> Self {
        // SAFETY: AVX-512 is present, as for every function here.
        Avx512(unsafe { _mm512_set1_ps(f32::NEG_INFINITY) })
    }

    #[inline(always)]
    unsafe fn smallest_from(bound: f64) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_set1_ps(f32_from(bound)) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn reduce_max(self) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn keep(self, bits: u64) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_mask_mov_ps(Self::lowest().0, bits as __mmask16, self.0) })
    }

    #[inline(always)]
    unsafe fn at_least(self, least: Self) -> u64 {
        // SAFETY: as above.
        u64::from(unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, least.0) })
    }

    #[inline(always)]
    unsafe fn flag() -> __mmask16 {
        0
    }

    #[inline(always)]
    unsafe fn raise_if_nan(flag: __mmask16, a: Self, b: Self) -> __mmask16 {
        // SAFETY: as above.
        flag | unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a.0, b.0) }
    }

    #[inline(always)]
    unsafe fn is_raised(flag: __mmask16) -> bool {
        flag != 0
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a hint; no address faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

impl NarrowLanes for Avx512 {
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's, sixteen scores can be read.
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> [Self; 2] {
        // SAFETY: as above, thirty-two scores.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
            let even = _mm512_slli_epi32::<16>(pairs);
            [Avx512(_mm512_castsi512_ps(even)), Avx512(_mm512_castsi512_ps(odd))]
        }
    }
}

impl ExpLanes for Avx512 {
    type Table = __m512i;

    #[inline(always)]
    unsafe fn table(words: &[u32; 16]) -> __m512i {
        // SAFETY: AVX-512 is present, as for every function here, and sixteen words are read.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX-512 is present, as for every function here.
        Avx512(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn over(self, other: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_div_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_fmsub_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    unsafe fn sixteenths(self, table: __m512i) -> Self {
        // SAFETY: as above.
        unsafe {
            let k = _mm512_castps_si512(self.0);
            // Indices are modulo 16.
            let entry = _mm512_permutexvar_epi32(k, table);
            Avx512(_mm512_castsi512_ps(_mm512_add_epi32(entry, _mm512_slli_epi32::<19>(k))))
        }
    }

    #[inline(always)]
    unsafe fn larger_bits(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_max_epu32(_mm512_castps_si512(self.0), _mm512_castps_si512(other.0));
            Avx512(_mm512_castsi512_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn has_larger_bits(self, least: u32) -> bool {
        // SAFETY: as above.
        unsafe { _mm512_cmpgt_epu32_mask(_mm512_castps_si512(self.0), _mm512_set1_epi32(least as i32)) != 0 }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, least: Self) -> Self {
        // SAFETY: as above.
        Avx512(unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x.0, least.0), self.0) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, and the caller's.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn compress(self, bits: u64, to: *mut f32) {
        // To a register first: straight to memory it is slow on some machines.
        // SAFETY: as above, and the caller's.
        unsafe { _mm512_storeu_ps(to, _mm512_maskz_compress_ps(bits as __mmask16, self.0)) }
    }
}

/// The entry point of this level.
///
/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "avx2,fma,f16c,bmi1,popcnt,avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::arch) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: passed on.
    unsafe { kernel.run::<Avx512>() }
}
