//! No bytes but those that were written make a state, and each fault has its name.

use super::super::tests::{OWNER, accepted, since, state};
use super::*;
use proptest::prelude::*;

/// Puts a right checksum on bytes that were changed.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&bytes[..SUM.start], &bytes[HEAD..ends(&bytes)]);
    bytes[SUM].copy_from_slice(&sum);
    bytes
}

/// How long a state of these bytes is, with its head.
fn ends(bytes: &[u8]) -> usize {
    HEAD + u32::from_le_bytes(field(bytes, 12)) as usize
}

/// The same state in an older layout: it ends with its file.
fn of_layout(schema: u16, bytes: &[u8]) -> Vec<u8> {
    // The first ends before the quarantines: there are none, which is four bytes.
    let end = ends(bytes) - if schema == OLDER { 4 } else { 0 };
    let mut older = bytes[..end].to_vec();
    older[8..10].copy_from_slice(&schema.to_le_bytes());
    older[12..16].copy_from_slice(&((end - HEAD) as u32).to_le_bytes());
    sealed(older)
}

fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut whole = encode(OWNER, &state());
    whole[at..at + bytes.len()].copy_from_slice(bytes);
    whole
}

#[test]
fn a_state_is_what_was_written() {
    for state in [state(), accepted(2)] {
        let bytes = encode(OWNER, &state);
        assert!(bytes.len() < LEN_MAX);
        assert_eq!(decode(OWNER, since(state.sequence), &bytes), Ok(state));
    }
}

#[test]
fn a_state_of_the_layouts_before_is_read() {
    let whole = encode(OWNER, &accepted(2));
    for schema in OLDER..FILLED {
        let bytes = of_layout(schema, &whole);
        assert_eq!(decode(OWNER, since(2), &bytes), Ok(accepted(2)), "layout {schema}");
        let filled = [bytes.as_slice(), &whole[bytes.len()..]].concat();
        assert_eq!(decode(OWNER, since(2), &filled), Err(Lost::TooLong), "no zeros are behind layout {schema}");
        let cut = &bytes[..bytes.len() - 1];
        assert_eq!(decode(OWNER, since(2), cut), Err(Lost::Truncated(cut.len())), "layout {schema}");
    }
}

/// A spare file may be longer than the state that is put there.
#[test]
fn zeros_up_to_any_block_are_no_part_of_a_state() {
    let mut bytes = encode(OWNER, &accepted(2));
    assert_eq!(bytes.len(), BLOCK);
    for _ in 0..3 {
        bytes.resize(bytes.len() + BLOCK, 0);
        assert_eq!(decode(OWNER, since(2), &bytes), Ok(accepted(2)));
        for at in [ends(&bytes), bytes.len() - 1] {
            let mut dirty = bytes.clone();
            dirty[at] = 1;
            assert_eq!(decode(OWNER, since(2), &dirty), Err(Lost::TooLong), "{at}");
        }
    }
}

#[test]
fn a_file_has_room_for_two_of_its_states_and_is_never_too_long_to_be_read() {
    assert_eq!((room(BLOCK), room(3 * BLOCK)), (2 * BLOCK, 6 * BLOCK));
    assert_eq!(room(LEN_MAX), LEN_MAX);
    assert!(LEN_MAX.is_multiple_of(BLOCK));
}

#[test]
fn every_fault_has_its_name() {
    let whole = encode(OWNER, &state());
    let lost = |bytes: &[u8]| decode(OWNER, since(0), bytes).unwrap_err();
    assert_eq!(lost(b"HBAGREE2 and so on"), Lost::Foreign);
    assert_eq!(lost(&changed(8, &[4, 0])), Lost::Schema(4));
    assert_eq!(lost(&changed(8, &[0, 0])), Lost::Schema(0));
    assert_eq!(lost(&[whole.as_slice(), b"x"].concat()), Lost::Truncated(whole.len() + 1));
    assert_eq!(lost(&changed(whole.len() - 1, &[9])), Lost::TooLong);
    assert_eq!(lost(&changed(24, &[9])), Lost::Checksum);
    assert_eq!(lost(&changed(ends(&whole) - 1, &[9])), Lost::Checksum);
    let other = |owner| decode(owner, since(0), &whole).unwrap_err();
    assert_eq!(other(Owner { node: NodeId(2), ..OWNER }), Lost::OtherNode(NodeId(1)));
    assert_eq!(other(Owner { state_id: 78, ..OWNER }), Lost::OtherState(77));
    assert_eq!(decode(OWNER, since(2), &whole), Err(Lost::Older { sequence: 1, floor: 2 }));
    let rule = DocumentFault::Rule("its sequence is not that of its head");
    assert_eq!(lost(&sealed(changed(24, &[9]))), Lost::Contents(rule));
}

#[test]
fn what_was_admitted_is_told_by_any_whole_file() {
    let whole = encode(Owner { state_id: 1, ..OWNER }, &state());
    assert!(decode(OWNER, since(0), &whole).is_err(), "it is no vote of this state");
    assert_eq!((admitted(NodeId(1), &whole), admitted(NodeId(2), &whole)), (5, 0));
    assert_eq!(admitted(NodeId(1), &whole[..whole.len() - 1]), 0);
    assert_eq!(admitted(NodeId(1), b""), 0);
}

#[test]
fn contents_that_do_not_fit_together_are_no_state() {
    let no_vote = State { vote: heartbeat_common::view::VoteId::NONE, ..state() };
    let unaccepted = State { accepted: None, ..accepted(2) };
    let mut broken = accepted(2);
    let document = broken.accepted.as_mut().unwrap();
    document.members.clear();
    broken.register.value = document.name().digest;
    for state in [no_vote, unaccepted, broken] {
        let decoded = decode(OWNER, since(0), &encode(OWNER, &state));
        assert!(matches!(decoded, Err(Lost::Contents(DocumentFault::Rule(_)))), "{decoded:?}");
    }
    let mut empty = encode(OWNER, &state());
    empty[12..16].copy_from_slice(&[0; 4]);
    empty[HEAD..].fill(0);
    assert_eq!(decode(OWNER, since(0), &sealed(empty)), Err(Lost::Contents(DocumentFault::Malformed)));
}

#[test]
fn cut_off_at_any_byte_it_is_cut_off() {
    let whole = encode(OWNER, &accepted(2));
    for length in 0..whole.len() {
        assert_eq!(decode(OWNER, since(0), &whole[..length]), Err(Lost::Truncated(length)), "{length}");
    }
}

/// A medium that writes in place and is stopped between two bytes, from either side.
#[test]
fn torn_at_any_byte_it_is_the_old_state_or_the_new_one_or_lost() {
    let (older, newer) = (accepted(2), accepted(3));
    let (old, new) = (encode(OWNER, &older), encode(OWNER, &newer));
    assert_eq!(old.len(), new.len());
    let mut lost = 0;
    for at in 0..=old.len() {
        for (front, back) in [(&old, &new), (&new, &old)] {
            let torn = [&front[..at], &back[at..]].concat();
            match decode(OWNER, since(0), &torn) {
                Ok(state) => assert!(state == older && torn == old || state == newer && torn == new, "{at}"),
                Err(_) => lost += 1,
            }
        }
    }
    assert!(lost > 100, "{lost}");
}

#[test]
fn any_bit_flipped_is_noticed() {
    let whole = encode(OWNER, &state());
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(OWNER, since(0), &bytes).is_err(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), sealing in any::<bool>()) {
        let mut file = encode(OWNER, &state())[..HEAD].to_vec();
        file.extend(&bytes);
        file[12..16].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        file.resize(BLOCK, 0);
        let file = if sealing { sealed(file) } else { file };
        prop_assert!(decode(OWNER, since(0), &file).is_err());
        prop_assert!(decode(OWNER, since(0), &bytes).is_err());
    }

    /// A right checksum over contents that were changed: what is taken nonetheless is a whole state.
    #[test]
    fn sealed_changes_never_panic(at in any::<usize>(), with in any::<[u8; 4]>()) {
        let mut bytes = encode(OWNER, &accepted(2));
        let at = HEAD + at % (ends(&bytes) - HEAD - 4);
        bytes[at..at + 4].copy_from_slice(&with);
        let bytes = sealed(bytes);
        if let Ok(state) = decode(OWNER, since(0), &bytes) {
            prop_assert_eq!(encode(OWNER, &state), bytes);
        }
    }
}
