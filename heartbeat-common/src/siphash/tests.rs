//! Pins SipHash-2-4 to its published vectors and to a crate of others. It tests nothing of what a tag covers.

use super::{Key, Midstate, tag_words};
use proptest::prelude::*;
use siphasher::sip::SipHasher24;

/// The published vectors: tags of the messages of 0 to 63 bytes `00 01 02 ..` under the key `00 01 .. 0f`.
const PUBLISHED: [u64; 64] = [
    0x726f_db47_dd0e_0e31,
    0x74f8_39c5_93dc_67fd,
    0x0d6c_8009_d9a9_4f5a,
    0x8567_6696_d7fb_7e2d,
    0xcf27_94e0_2771_87b7,
    0x1876_5564_cd99_a68d,
    0xcbc9_466e_58fe_e3ce,
    0xab02_00f5_8b01_d137,
    0x93f5_f579_9a93_2462,
    0x9e00_82df_0ba9_e4b0,
    0x7a5d_bbc5_94dd_b9f3,
    0xf4b3_2f46_226b_ada7,
    0x751e_8fbc_860e_e5fb,
    0x14ea_5627_c084_3d90,
    0xf723_ca90_8e7a_f2ee,
    0xa129_ca61_49be_45e5,
    0x3f2a_cc7f_57c2_9bdb,
    0x699a_e9f5_2cbe_4794,
    0x4bc1_b3f0_968d_d39c,
    0xbb6d_c91d_a779_61bd,
    0xbed6_5cf2_1aa2_ee98,
    0xd0f2_cbb0_2e3b_67c7,
    0x9353_6795_e3a3_3e88,
    0xa80c_038c_cd5c_cec8,
    0xb8ad_50c6_f649_af94,
    0xbce1_92de_8a85_b8ea,
    0x17d8_35b8_5bbb_15f3,
    0x2f2e_6163_076b_cfad,
    0xde4d_aaac_a71d_c9a5,
    0xa6a2_5066_8795_6571,
    0xad87_a353_5c49_ef28,
    0x32d8_92fa_d841_c342,
    0x7127_512f_72f2_7cce,
    0xa7f3_2346_f959_78e3,
    0x12e0_b01a_bb05_1238,
    0x15e0_34d4_0fa1_97ae,
    0x314d_ffbe_0815_a3b4,
    0x0279_90f0_2962_3981,
    0xcadc_d4e5_9ef4_0c4d,
    0x9abf_d876_6a33_735c,
    0x0e3e_a96b_5304_a7d0,
    0xad0c_42d6_fc58_5992,
    0x1873_06c8_9bc2_15a9,
    0xd4a6_0abc_f379_2b95,
    0xf935_451d_e4f2_1df2,
    0xa953_8f04_1975_5787,
    0xdb9a_cddf_f56c_a510,
    0xd06c_98cd_5c09_75eb,
    0xe612_a3cb_9ecb_a951,
    0xc766_e62c_fcad_af96,
    0xee64_435a_9752_fe72,
    0xa192_d576_b245_165a,
    0x0a87_87bf_8ecb_74b2,
    0x81b3_e73d_20b4_9b6f,
    0x7fa8_220b_a3b2_ecea,
    0x2457_31c1_3ca4_2499,
    0xb78d_bfaf_3a8d_83bd,
    0xea1a_d565_322a_1a0b,
    0x60e6_1c23_a379_5013,
    0x6606_d7e4_4628_2b93,
    0x6ca4_ecb1_5c5f_91e1,
    0x9f62_6da1_5c96_25f3,
    0xe51b_3860_8ef2_5f57,
    0x958a_324c_eb06_4572,
];

const KEY: Key = Key { k: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908] };

/// Tags bytes: whole words absorbed, the rest finished.
fn tag(key: Key, message: &[u8]) -> u64 {
    let mut state = Midstate::new(key);
    let words = message.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        state = state.absorb(u64::from_le_bytes(word.try_into().unwrap()));
    }
    let mut tail = [0; 8];
    tail[..rest.len()].copy_from_slice(rest);
    state.finish(u64::from_le_bytes(tail), message.len() as u8)
}

#[test]
fn published_vectors() {
    let message: [u8; 64] = core::array::from_fn(|index| index as u8);
    for (length, expected) in PUBLISHED.iter().enumerate() {
        assert_eq!(tag(KEY, &message[..length]), *expected, "{length} bytes");
    }
}

#[test]
fn a_midstate_may_be_kept_at_any_word() {
    let words: [u64; 8] = core::array::from_fn(|index| 0x0101_0101_0101_0101 * index as u64 + 7);
    let whole = tag_words(KEY, &words);
    for split in 0..=words.len() {
        let kept = words[..split].iter().fold(Midstate::new(KEY), |state, word| state.absorb(*word));
        for _ in 0..2 {
            let end = words[split..].iter().fold(kept, |state, word| state.absorb(*word));
            assert_eq!(end.finish(0, 64), whole, "split at {split}");
        }
    }
}

#[test]
fn the_tail_has_seven_bytes() {
    let state = Midstate::new(KEY);
    assert_eq!(state.finish(0xff00_0000_0000_0001, 7), state.finish(1, 7), "the eighth is the length's");
    assert_ne!(state.finish(1, 7), state.finish(1, 8));
}

proptest! {
    #[test]
    fn another_implementation_agrees(k0: u64, k1: u64, message in prop::collection::vec(any::<u8>(), 0..300)) {
        let expected = SipHasher24::new_with_keys(k0, k1).hash(&message);
        prop_assert_eq!(tag(Key { k: [k0, k1] }, &message), expected);
    }

    #[test]
    fn whole_words_agree(k0: u64, k1: u64, words in prop::collection::vec(any::<u64>(), 0..40)) {
        let bytes: std::vec::Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let expected = SipHasher24::new_with_keys(k0, k1).hash(&bytes);
        prop_assert_eq!(tag_words(Key { k: [k0, k1] }, &words), expected);
    }
}

/// The 128-bit form: its first published vector, and the published crate for whole words.
#[test]
fn tags_of_128_bits() {
    let key = Key { k: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908] };
    let bytes = [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93];
    let published = bytes.chunks(8).map(|half| u64::from_le_bytes(half.try_into().unwrap()));
    assert!(Midstate::new_128(key).finish_128(0).into_iter().eq(published));
    let mut state = Midstate::new_128(key);
    let mut hash = siphasher::sip128::SipHasher24::new_with_keys(key.k[0], key.k[1]);
    for count in 1..40_u64 {
        let word = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state = state.absorb(word);
        std::hash::Hasher::write(&mut hash, &word.to_le_bytes());
        let tag = siphasher::sip128::Hasher128::finish128(&hash);
        assert_eq!(state.finish_128((count * 8) as u8), [tag.h1, tag.h2], "{count} words");
    }
}
