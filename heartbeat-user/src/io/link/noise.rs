//! How a connection is kept to those who have the cluster's key: Noise NNpsk0 with Curve25519, ChaCha20-Poly1305 and
//! SHA-256. It turns bytes into bytes and knows no socket; no byte that it is given can make it panic.
//!
//! ```text
//! beginner -> head (16 bytes, clear) | e, tag      64 bytes: proves the key, though maybe as a recording
//! answerer -> e, tag                               48 bytes: proves the key and that it is there now
//! each     -> length (u16) | record                hello first: proves that the beginner is there now
//! ```
//!
//! The head is under the prologue, so another pair, slot, cluster or version makes another key.

use crate::keys::KeyRing;
use snow::{Builder, HandshakeState, TransportState};
use thiserror::Error;

/// Bytes of the beginner's opening.
pub const OPENING_LEN: usize = HEAD_LEN + REPLY_LEN;
/// Bytes of the answer to it: a public key and a tag.
pub const REPLY_LEN: usize = 32 + TAG_LEN;
/// Longest plaintext of a record, bytes.
pub const PLAIN_MAX: usize = 40 * 1024;
/// Bytes of a record's tag.
pub const TAG_LEN: usize = 16;
/// Bytes of the clear head.
const HEAD_LEN: usize = 16;
/// Records under one key.
const REKEY_EVERY: u64 = 1 << 20;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// Begins the head.
const MAGIC: [u8; 4] = *b"HBL1";
/// Version of all that is said on a link.
const VERSION: u8 = 1;
/// Begins the prologue.
const PROLOGUE: &[u8; 16] = b"heartbeat link 1";

/// Why a connection is not believed, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoiseFault {
    /// The head is not that of a link, or of this version, or has something where nothing belongs.
    #[error("no head of a link")]
    Head,
    /// The key slot is empty here.
    #[error("no key in the slot that was named")]
    Slot,
    /// Another key, cluster or pair, or not what was sent.
    #[error("not made with the cluster's key")]
    Key,
    /// A record is longer or shorter than any may be.
    #[error("a record of a length that none has")]
    Length,
}

/// Who speaks to whom, under which key: the first bytes of a connection, in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Slot of the key.
    pub slot: u8,
    /// Who began the connection.
    pub beginner: u16,
    /// Who is called.
    pub answerer: u16,
}

impl Head {
    fn encode(self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.slot;
        bytes[6..8].copy_from_slice(&self.beginner.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.answerer.to_le_bytes());
        bytes
    }

    /// Reads the head of an opening. Nothing in it is believed yet.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(opening: &[u8; OPENING_LEN]) -> Result<Self, NoiseFault> {
        let head = Self {
            slot: opening[5],
            beginner: u16::from_le_bytes([opening[6], opening[7]]),
            answerer: u16::from_le_bytes([opening[8], opening[9]]),
        };
        if opening[..HEAD_LEN] == head.encode() { Ok(head) } else { Err(NoiseFault::Head) }
    }
}

fn handshake(ring: &KeyRing, head: Head, begins: bool) -> Result<HandshakeState, NoiseFault> {
    let psk = ring.link(head.beginner, head.answerer, usize::from(head.slot)).ok_or(NoiseFault::Slot)?;
    let prologue = [&PROLOGUE[..], &ring.cluster().to_le_bytes(), &head.encode()].concat();
    let builder = Builder::new(PATTERN.parse().expect("the pattern is one that snow knows"));
    let builder = builder.prologue(&prologue).and_then(|builder| builder.psk(0, &psk));
    let built = builder.and_then(|builder| if begins { builder.build_initiator() } else { builder.build_responder() });
    // Nothing that a peer sent is in it: the pattern and the lengths are fixed.
    Ok(built.expect("the pattern wants one key and no more"))
}

/// A connection begun here, whose answer is not there yet.
pub struct Begun(HandshakeState);

/// Begins a connection; returns it and the opening to be sent.
///
/// # Errors
/// If the slot holds no key, or the kernel gives no randomness.
pub fn begin(ring: &KeyRing, head: Head) -> Result<(Begun, [u8; OPENING_LEN]), NoiseFault> {
    let mut state = handshake(ring, head, true)?;
    let mut opening = [0; OPENING_LEN];
    opening[..HEAD_LEN].copy_from_slice(&head.encode());
    let written = state.write_message(&[], &mut opening[HEAD_LEN..]).map_err(|_| NoiseFault::Key)?;
    debug_assert_eq!(written, REPLY_LEN, "a public key and a tag");
    Ok((Begun(state), opening))
}

impl Begun {
    /// Reads the answer.
    ///
    /// # Errors
    /// If it was not made with the key, for this very opening.
    pub fn finish(mut self, reply: &[u8; REPLY_LEN]) -> Result<Secure, NoiseFault> {
        // Room for a payload, though there is none.
        let mut payload = [0; REPLY_LEN];
        self.0.read_message(reply, &mut payload).map_err(|_| NoiseFault::Key)?;
        Secure::new(self.0)
    }
}

/// Answers an opening; returns the connection and the answer to be sent. The beginner may be a recording until its
/// first record was opened.
///
/// # Errors
/// If it was not made with the key.
pub fn answer(
    ring: &KeyRing,
    head: Head,
    opening: &[u8; OPENING_LEN],
) -> Result<(Secure, [u8; REPLY_LEN]), NoiseFault> {
    let mut state = handshake(ring, head, false)?;
    let mut payload = [0; REPLY_LEN];
    state.read_message(&opening[HEAD_LEN..], &mut payload).map_err(|_| NoiseFault::Key)?;
    let mut reply = [0; REPLY_LEN];
    let written = state.write_message(&[], &mut reply).map_err(|_| NoiseFault::Key)?;
    debug_assert_eq!(written, REPLY_LEN, "a public key and a tag");
    Ok((Secure::new(state)?, reply))
}

/// A connection whose records are sealed. Each direction counts its own records and changes its key with the count.
pub struct Secure {
    state: TransportState,
    rekey_every: u64,
}

impl Secure {
    fn new(state: HandshakeState) -> Result<Self, NoiseFault> {
        let state = state.into_transport_mode().map_err(|_| NoiseFault::Key)?;
        Ok(Self { state, rekey_every: REKEY_EVERY })
    }

    /// Seals a record; returns it with its length before it.
    ///
    /// # Errors
    /// If the plaintext is empty or longer than [`PLAIN_MAX`].
    pub fn seal(&mut self, plain: &[u8]) -> Result<Vec<u8>, NoiseFault> {
        if plain.is_empty() || plain.len() > PLAIN_MAX {
            return Err(NoiseFault::Length);
        }
        let len = plain.len() + TAG_LEN;
        let mut bytes = vec![0; 2 + len];
        bytes[..2].copy_from_slice(&(len as u16).to_le_bytes());
        self.state.write_message(plain, &mut bytes[2..]).map_err(|_| NoiseFault::Key)?;
        if self.state.sending_nonce().is_multiple_of(self.rekey_every) {
            self.state.rekey_outgoing();
        }
        Ok(bytes)
    }

    /// Opens a record.
    ///
    /// # Errors
    /// If it is not the very next one that the peer sealed; the connection is worth nothing then.
    pub fn open(&mut self, record: &[u8]) -> Result<Vec<u8>, NoiseFault> {
        let mut plain = vec![0; record.len()];
        let len = self.state.read_message(record, &mut plain).map_err(|_| NoiseFault::Key)?;
        plain.truncate(len);
        if self.state.receiving_nonce().is_multiple_of(self.rekey_every) {
            self.state.rekey_incoming();
        }
        Ok(plain)
    }
}

/// Returns the length of the record that `prefix` announces.
///
/// # Errors
/// If no record is that long or short.
pub fn record_len(prefix: [u8; 2]) -> Result<usize, NoiseFault> {
    let len = usize::from(u16::from_le_bytes(prefix));
    if (TAG_LEN + 1..=TAG_LEN + PLAIN_MAX).contains(&len) { Ok(len) } else { Err(NoiseFault::Length) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;
    use proptest::prelude::*;

    const HEAD: Head = Head { slot: 0, beginner: 1, answerer: 2 };

    fn ring(first: u8, cluster: u64) -> KeyRing {
        let text: String = (0..32_u8).map(|byte| format!("{:02x}", byte ^ first)).collect();
        Keys::parse(text.as_bytes()).unwrap().ring(cluster)
    }

    fn pair() -> (Secure, Secure) {
        let ring = ring(0, 1);
        let (begun, opening) = begin(&ring, HEAD).unwrap();
        let (answerer, reply) = answer(&ring, Head::decode(&opening).unwrap(), &opening).unwrap();
        (begun.finish(&reply).unwrap(), answerer)
    }

    fn fault<T>(result: Result<T, NoiseFault>) -> Option<NoiseFault> {
        result.err()
    }

    #[test]
    fn what_one_end_seals_the_other_opens_across_changes_of_the_key() {
        let (mut one, mut other) = pair();
        (one.rekey_every, other.rekey_every) = (3, 3);
        for number in 0..10_u8 {
            let sealed = one.seal(&[number; 40]).unwrap();
            assert_eq!(record_len([sealed[0], sealed[1]]), Ok(sealed.len() - 2));
            assert_eq!(other.open(&sealed[2..]).unwrap(), [number; 40]);
            let back = other.seal(&[number; 7]).unwrap();
            assert_eq!(one.open(&back[2..]).unwrap(), [number; 7]);
        }
        // The change is one: an end that does not make it understands nothing more.
        let (mut one, mut other) = pair();
        one.rekey_every = 2;
        let sealed: Vec<_> = (0..3).map(|_| one.seal(b"x").unwrap()).collect();
        assert!(other.open(&sealed[0][2..]).is_ok() && other.open(&sealed[1][2..]).is_ok());
        assert_eq!(fault(other.open(&sealed[2][2..])), Some(NoiseFault::Key));
    }

    #[test]
    fn other_keys_clusters_pairs_and_slots_do_not_fit() {
        let (_, opening) = begin(&ring(0, 1), HEAD).unwrap();
        assert!(answer(&ring(0, 1), HEAD, &opening).is_ok());
        assert_eq!(fault(answer(&ring(9, 1), HEAD, &opening)), Some(NoiseFault::Key));
        assert_eq!(fault(answer(&ring(0, 2), HEAD, &opening)), Some(NoiseFault::Key));
        let other = |head| fault(answer(&ring(0, 1), head, &opening));
        assert_eq!(other(Head { beginner: 2, answerer: 1, ..HEAD }), Some(NoiseFault::Key));
        assert_eq!(other(Head { beginner: 3, ..HEAD }), Some(NoiseFault::Key));
        assert_eq!(other(Head { slot: 1, ..HEAD }), Some(NoiseFault::Slot));
        assert_eq!(other(Head { slot: 255, ..HEAD }), Some(NoiseFault::Slot));
    }

    #[test]
    fn a_recorded_opening_makes_no_second_connection() {
        let ring = ring(0, 1);
        let (begun, opening) = begin(&ring, HEAD).unwrap();
        let (mut first, reply) = answer(&ring, HEAD, &opening).unwrap();
        let (mut second, other_reply) = answer(&ring, HEAD, &opening).unwrap();
        assert_ne!(reply, other_reply);
        let mut beginner = begun.finish(&reply).unwrap();
        let hello = beginner.seal(b"hello").unwrap();
        assert!(first.open(&hello[2..]).is_ok());
        assert_eq!(fault(second.open(&hello[2..])), Some(NoiseFault::Key));
        // And an answer is to its opening alone.
        let (begun, _) = begin(&ring, HEAD).unwrap();
        assert_eq!(fault(begun.finish(&reply)), Some(NoiseFault::Key));
    }

    #[test]
    fn records_repeated_left_out_or_turned_back_end_it() {
        let (mut one, mut other) = pair();
        let sealed: Vec<_> = (0..3_u8).map(|number| one.seal(&[number]).unwrap()).collect();
        assert_eq!(fault(one.open(&sealed[0][2..])), Some(NoiseFault::Key), "turned back");
        assert_eq!(fault(other.open(&sealed[1][2..])), Some(NoiseFault::Key), "left out");
        let (mut one, mut other) = pair();
        let sealed = one.seal(b"once").unwrap();
        assert!(other.open(&sealed[2..]).is_ok());
        assert_eq!(fault(other.open(&sealed[2..])), Some(NoiseFault::Key), "repeated");
    }

    #[test]
    fn lengths_have_bounds() {
        let (mut one, mut other) = pair();
        assert_eq!(fault(one.seal(&[])), Some(NoiseFault::Length));
        assert_eq!(fault(one.seal(&vec![0; PLAIN_MAX + 1])), Some(NoiseFault::Length));
        let longest = one.seal(&vec![7; PLAIN_MAX]).unwrap();
        assert_eq!(other.open(&longest[2..]).unwrap().len(), PLAIN_MAX);
        let len = |len: usize| record_len((len as u16).to_le_bytes()).ok();
        assert_eq!([len(0), len(16), len(17)], [None, None, Some(17)]);
        let longest = PLAIN_MAX + TAG_LEN;
        assert_eq!([len(longest), len(longest + 1), len(65_535)], [Some(longest), None, None]);
    }

    #[test]
    fn a_head_is_read_only_as_it_is_written() {
        let (_, opening) = begin(&ring(0, 1), HEAD).unwrap();
        assert_eq!(Head::decode(&opening), Ok(HEAD));
        for index in (0..5).chain(10..16) {
            let mut other = opening;
            other[index] ^= 1;
            assert_eq!(Head::decode(&other), Err(NoiseFault::Head), "byte {index}");
        }
        for index in 16..OPENING_LEN {
            let mut other = opening;
            other[index] ^= 1;
            assert_eq!(fault(answer(&ring(0, 1), HEAD, &other)), Some(NoiseFault::Key), "byte {index}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_can_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let (mut one, _) = pair();
            prop_assert!(one.open(&bytes).is_err());
            let mut opening = [0; OPENING_LEN];
            let len = bytes.len().min(OPENING_LEN);
            opening[..len].copy_from_slice(&bytes[..len]);
            prop_assert!(Head::decode(&opening).is_err());
            prop_assert!(answer(&ring(0, 1), HEAD, &opening).is_err());
            let mut reply = [0; REPLY_LEN];
            let len = bytes.len().min(REPLY_LEN);
            reply[..len].copy_from_slice(&bytes[..len]);
            prop_assert!(begin(&ring(0, 1), HEAD).unwrap().0.finish(&reply).is_err());
        }
    }
}
