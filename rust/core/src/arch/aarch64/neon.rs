//! Four lanes of f32.

use std::arch::aarch64::*;

use half::{bf16, f16};

use crate::arch::dispatch::Kernel;
use crate::arch::lanes::{ExpLanes, Lanes, NarrowLanes, f32_from, members};

#[derive(Clone, Copy)]
pub(in crate::arch) struct Neon(float32x4_t);

/// Bit i in lane i.
#[inline(always)]
unsafe fn each() -> uint32x4_t {
    // SAFETY: NEON is present, and four words are read.
    unsafe { vld1q_u32([1, 2, 4, 8].as_ptr()) }
}

/// The members of every set of lanes.
static MEMBERS: [[u8; 4]; 16] = members();

/// The lanes whose bits are set, ascending.
#[inline(always)]
unsafe fn places(bits: u64) -> uint32x4_t {
    let members = MEMBERS[bits as usize & 15].map(u32::from);
    // SAFETY: NEON is present, and four words are read.
    unsafe { vld1q_u32(members.as_ptr()) }
}

impl Lanes for Neon {
    const COUNT: usize = 4;
    type Value = f32;
    /// Zero in every lane, or not.
    type Flag = uint32x4_t;

    #[inline(always)]
    unsafe fn lowest() -> Self {
        // SAFETY: NEON is present, as for every function here.
        Neon(unsafe { vdupq_n_f32(f32::NEG_INFINITY) })
    }

    #[inline(always)]
    unsafe fn smallest_from(bound: f64) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vdupq_n_f32(f32_from(bound)) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vmaxq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn reduce_max(self) -> f32 {
        // SAFETY: as above.
        unsafe { vmaxvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn keep(self, bits: u64) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vbslq_f32(vtstq_u32(vdupq_n_u32(bits as u32), each()), self.0, Self::lowest().0) })
    }

    #[inline(always)]
    unsafe fn at_least(self, least: Self) -> u64 {
        // SAFETY: as above.
        u64::from(unsafe { vaddvq_u32(vandq_u32(vcgeq_f32(self.0, least.0), each())) })
    }

    #[inline(always)]
    unsafe fn flag() -> uint32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_u32(0) }
    }

    #[inline(always)]
    unsafe fn raise_if_nan(flag: uint32x4_t, a: Self, b: Self) -> uint32x4_t {
        // SAFETY: as above.
        unsafe {
            let numbers = vandq_u32(vceqq_f32(a.0, a.0), vceqq_f32(b.0, b.0));
            vorrq_u32(flag, vmvnq_u32(numbers))
        }
    }

    #[inline(always)]
    unsafe fn is_raised(flag: uint32x4_t) -> bool {
        // SAFETY: as above.
        unsafe { vmaxvq_u32(flag) != 0 }
    }
}

impl NarrowLanes for Neon {
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's, four scores can be read.
        Neon(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // The intrinsics for f16 are younger than the oldest compiler supported.
        // SAFETY: as above; arrays of floats may be read unaligned.
        unsafe {
            let scores = from.cast::<[f16; 4]>().read_unaligned().map(f32::from);
            Neon(vld1q_f32(scores.as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: as above.
        unsafe {
            Neon(vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vld1_u16(
                from.cast(),
            )))))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> [Self; 2] {
        // SAFETY: as above, eight scores.
        unsafe {
            let pairs = vreinterpretq_u32_u16(vld1q_u16(from.cast()));
            let odd = vandq_u32(pairs, vdupq_n_u32(0xFFFF_0000));
            let even = vshlq_n_u32::<16>(pairs);
            [Neon(vreinterpretq_f32_u32(even)), Neon(vreinterpretq_f32_u32(odd))]
        }
    }
}

impl ExpLanes for Neon {
    type Table = uint8x16x4_t;

    #[inline(always)]
    unsafe fn table(words: &[u32; 16]) -> uint8x16x4_t {
        // SAFETY: NEON is present, as for every function here, and sixteen words are read.
        unsafe {
            let bytes = words.as_ptr().cast::<u8>();
            uint8x16x4_t(
                vld1q_u8(bytes),
                vld1q_u8(bytes.add(16)),
                vld1q_u8(bytes.add(32)),
                vld1q_u8(bytes.add(48)),
            )
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: NEON is present, as for every function here.
        Neon(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vsubq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vmulq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn over(self, other: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vdivq_f32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vfmaq_f32(term.0, self.0, factor.0) })
    }

    #[inline(always)]
    unsafe fn mul_minus(self, factor: Self, term: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vfmaq_f32(vnegq_f32(term.0), self.0, factor.0) })
    }

    #[inline(always)]
    unsafe fn sixteenths(self, table: uint8x16x4_t) -> Self {
        // SAFETY: as above.
        unsafe {
            let k = vreinterpretq_u32_f32(self.0);
            // The four bytes of word j are bytes 4j to 4j + 3 of the table.
            let j = vandq_u32(k, vdupq_n_u32(15));
            let bytes = vaddq_u32(vmulq_u32(j, vdupq_n_u32(0x0404_0404)), vdupq_n_u32(0x0302_0100));
            let entry = vreinterpretq_u32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(bytes)));
            Neon(vreinterpretq_f32_u32(vaddq_u32(entry, vshlq_n_u32::<19>(k))))
        }
    }

    #[inline(always)]
    unsafe fn larger_bits(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let bits = vmaxq_u32(vreinterpretq_u32_f32(self.0), vreinterpretq_u32_f32(other.0));
            Neon(vreinterpretq_f32_u32(bits))
        }
    }

    #[inline(always)]
    unsafe fn has_larger_bits(self, least: u32) -> bool {
        // SAFETY: as above.
        unsafe { vmaxvq_u32(vreinterpretq_u32_f32(self.0)) > least }
    }

    #[inline(always)]
    unsafe fn zero_below(self, x: Self, least: Self) -> Self {
        // SAFETY: as above.
        Neon(unsafe { vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(self.0), vcgeq_f32(x.0, least.0))) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above, and the caller's.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn compress(self, bits: u64, to: *mut f32) {
        // SAFETY: as above, and the caller's.
        unsafe {
            // The four bytes of lane j are bytes 4j to 4j + 3.
            let bytes = vaddq_u32(
                vmulq_u32(places(bits), vdupq_n_u32(0x0404_0404)),
                vdupq_n_u32(0x0302_0100),
            );
            let found = vqtbl1q_u8(vreinterpretq_u8_f32(self.0), vreinterpretq_u8_u32(bytes));
            vst1q_f32(to, vreinterpretq_f32_u8(found));
        }
    }
}

/// The entry point of this level.
///
/// # Safety
///
/// The instruction set is present.
#[target_feature(enable = "neon")]
pub(in crate::arch) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: passed on.
    unsafe { kernel.run::<Neon>() }
}
