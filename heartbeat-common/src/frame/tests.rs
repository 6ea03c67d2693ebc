//! Packing and unpacking of shared words, and bytes to words and back.

use super::*;
use proptest::prelude::*;

#[test]
fn the_first_bytes_are_readable() {
    let mut frame = [0; WORDS];
    frame[word::HEAD] = head(1);
    let bytes = to_bytes(&frame);
    assert_eq!(&bytes[..8], b"HBT1\x01\x01\x00\x00");
    assert_eq!((LEN, PORT), (144, 3343));
}

#[test]
fn ages_saturate_and_say_so() {
    assert_eq!(age_since(0, 5), U24_MAX, "never");
    assert_eq!(age_since(10, 5), 0, "progress of the future is fresh");
    assert_eq!(age_since(1, (1 << AGE_SHIFT) + 1), 1);
    assert_eq!(age_since(1, 1 << AGE_SHIFT), 0);
    assert_eq!(age_ns(dynamic(Kind::Probe, 3, 0, 0)), Some(3 << 20));
    assert_eq!(age_ns(dynamic(Kind::Probe, U24_MAX - 1, 0, 0)), Some((U24_MAX - 1) << 20));
    for age in [U24_MAX, U24_MAX + 1, u64::MAX] {
        assert_eq!(age_ns(dynamic(Kind::Probe, age, 0, 0)), None);
    }
}

proptest! {
    #[test]
    fn bytes_and_words(frame: [u64; WORDS]) {
        prop_assert_eq!(from_bytes(&to_bytes(&frame)), frame);
        for (index, word) in frame.iter().enumerate() {
            prop_assert_eq!(&to_bytes(&frame)[8 * index..8 * index + 8], &word.to_le_bytes()[..]);
        }
    }

    #[test]
    fn dynamic_word(age: u64, hold: u64, bits: u8, kind in 0..4u8) {
        let kinds = [Kind::Probe, Kind::Echo, Kind::Fence, Kind::FenceAck];
        let packed = dynamic(kinds[usize::from(kind)], age, hold, bits);
        prop_assert_eq!(packed >> 56, 0, "the last byte is not under the tag");
        prop_assert_eq!(packed & U24_MAX, age.min(U24_MAX));
        prop_assert_eq!(hold_us(packed), hold.min(U24_MAX));
        prop_assert_eq!(flags(packed), bits & !3 | kind, "flags never change the kind");
    }

    #[test]
    fn ids_and_identity(network: u16, prober: u16, responder: u16, generation: u32, bits: u16) {
        let word = ids(network, prober, responder).to_le_bytes();
        prop_assert_eq!(&word[..2], &network.to_le_bytes()[..]);
        prop_assert_eq!(&word[2..4], &prober.to_le_bytes()[..]);
        prop_assert_eq!(&word[4..6], &responder.to_le_bytes()[..]);
        prop_assert_eq!(&word[6..], &[0, 0][..]);
        let word = identity(generation, bits).to_le_bytes();
        prop_assert_eq!(&word[..4], &generation.to_le_bytes()[..]);
        prop_assert_eq!(&word[4..6], &bits.to_le_bytes()[..]);
        prop_assert_eq!(&word[6..], &[VERSION_MIN, VERSION_MAX][..]);
    }
}
