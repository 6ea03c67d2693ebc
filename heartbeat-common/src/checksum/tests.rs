//! Sums against RFC 1071 done byte pair by byte pair.

use super::{add, constant, fold, of};
use crate::auth::address_words;
use crate::frame::{LEN, PORT, WORDS, to_bytes};
use proptest::prelude::*;
use std::vec::Vec;

fn naive(bytes: &[u8]) -> u16 {
    let mut sum: u64 = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn folding_ends() {
    for sum in [0, 1, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_ffff_ffff, 0xffff_ffff_0000_0001, u64::MAX] {
        // The ones' complement sum of four big-endian pairs is that of the two halves, bytes swapped or not.
        assert_eq!(fold(sum), u16::from_ne_bytes(naive(&sum.to_ne_bytes()).to_be_bytes()), "{sum:#x}");
    }
}

proptest! {
    #[test]
    fn an_echo_summed_in_two_parts(frame: [u64; WORDS], prober: [u8; 16], responder: [u8; 16], ipv6: bool) {
        let mut frame = frame;
        (frame[15], frame[17]) = (0, 0);
        let addresses = if ipv6 { [&prober[..], &responder] } else { [&prober[12..], &responder[12..]] };
        let mut message: Vec<u8> = addresses.concat();
        message.extend_from_slice(&[0, 17]);
        let length = (8 + LEN as u16).to_be_bytes();
        for part in [length, PORT.to_be_bytes(), PORT.to_be_bytes(), length] {
            message.extend_from_slice(&part);
        }
        message.extend_from_slice(&to_bytes(&frame));
        let (prober, responder) = (address_words(prober), address_words(responder));
        let standing = frame[9..16].try_into().unwrap();
        let mut sum = constant(ipv6, prober, responder, frame[0], frame[1], frame[2], standing);
        for word in frame[3..9].iter().chain(&frame[16..17]) {
            sum = add(sum, *word);
        }
        prop_assert_eq!(fold(sum).to_ne_bytes(), naive(&message).to_be_bytes());
    }

    #[test]
    fn a_word_is_its_halves(word: u64) {
        prop_assert_eq!(fold(of(word)).to_ne_bytes(), naive(&word.to_le_bytes()).to_be_bytes());
    }
}
