//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011), bit for bit that
//! of Random123: a function of (counter, key) without state, hence the same on every thread, order and backend.

/// The stream of the uniforms that tokens are drawn with.
pub const STREAM_DRAWS: u32 = 0;
/// The stream of the seeds that [`row_seed`] derives.
pub const STREAM_ROW_SEEDS: u32 = 1;
/// The stream of the uniforms that perturbed log-probabilities are made of.
pub const STREAM_VALUES: u32 = 2;
/// The stream of the low bits that arithmetic codes are refilled with.
pub const STREAM_CODES: u32 = 3;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The four output words at `counter` under `key`.
#[inline]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut x = counter;
    let mut k = key;
    for _ in 0..ROUNDS {
        let product0 = u64::from(MULTIPLIERS[0]) * u64::from(x[0]);
        let product1 = u64::from(MULTIPLIERS[1]) * u64::from(x[2]);
        x = [
            high(product1) ^ x[1] ^ k[0],
            low(product1),
            high(product0) ^ x[3] ^ k[1],
            low(product0),
        ];
        k = [
            k[0].wrapping_add(KEY_INCREMENTS[0]),
            k[1].wrapping_add(KEY_INCREMENTS[1]),
        ];
    }
    x
}

/// The 64-bit uniform of one draw: words 0 (low) and 1 (high) under key `seed` at counter (`position`, `draw`, `stream`).
#[inline]
pub fn uniform(seed: u64, position: u64, draw: u32, stream: u32) -> u64 {
    let [x0, x1, _, _] = philox4x32_10([low(position), high(position), draw, stream], [low(seed), high(seed)]);
    u64::from(x0) | u64::from(x1) << 32
}

/// The seed of row `index` of a batch that was given one seed; row 0 has that seed itself.
pub fn row_seed(seed: u64, index: u64) -> u64 {
    if index == 0 {
        seed
    } else {
        uniform(seed, index, 0, STREAM_ROW_SEEDS)
    }
}

#[inline]
fn low(word: u64) -> u32 {
    word as u32
}

#[inline]
fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        // `philox4x32 10` in Random123's kat_vectors.
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn uniform_reads_seed_position_draw_and_stream_as_documented() {
        let seed = 0x299f_31d0_a409_3822;
        let position = 0x85a3_08d3_243f_6a88;
        assert_eq!(uniform(seed, position, 0x1319_8a2e, 0x0370_7344), 0x94fd_cceb_d16c_fe09);
        assert_eq!(uniform(0, 0, 0, STREAM_DRAWS), 0xe169_c58d_6627_e8d5);
    }

    #[test]
    fn row_seeds_start_at_the_seed_and_differ() {
        assert_eq!(row_seed(42, 0), 42);
        assert_eq!(row_seed(42, 7), uniform(42, 7, 0, STREAM_ROW_SEEDS));
        let mut seeds: Vec<u64> = (0..1000).map(|index| row_seed(42, index)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 1000);
    }
}
