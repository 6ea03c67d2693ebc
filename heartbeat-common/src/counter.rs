//! What the packet path counts: one counter for each way a frame on our port can end.
//! It names them; the kernel keeps them per CPU, userspace sums and shows them.

/// Declares the counters once: variant, index, stable name and one-line meaning.
macro_rules! counters {
    ($($variant:ident = $name:literal, $text:literal;)*) => {
        /// How a frame on our port ended. The discriminant is the index in the counter map.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Counter { $(#[doc = $text] $variant,)* }

        impl Counter {
            /// Every counter, in index order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the stable name, as shown by `heartbeatctl counters`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns what the counter means, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

counters! {
    Answered = "answered", "authentic probe, answered by an echo";
    AnsweredStale = "answered_stale", "authentic probe of an old incarnation, answered by a stale echo";
    AnsweredHandshake = "answered_handshake", "authentic probe that does not name this incarnation, answered without a tick";
    EchoTimely = "echo_timely", "authentic echo within its time";
    EchoLate = "echo_late", "authentic echo after its time: histogram only";
    DropLayer2 = "drop_layer2", "our port behind stacked, priority or service VLAN tags, or to or from a group MAC address";
    DropVlan = "drop_vlan", "the path is not configured for this VLAN";
    DropLayer3 = "drop_layer3", "our port behind IP options or extension headers";
    DropFragment = "drop_fragment", "our port in a fragment";
    DropPort = "drop_port", "source port is not ours";
    DropLength = "drop_length", "a length field or the frame itself has the wrong length";
    DropHopLimit = "drop_hop_limit", "hop limit below what the path requires";
    DropUnlisted = "drop_unlisted", "interface, source and destination are no configured path";
    DropMagic = "drop_magic", "not a heartbeat";
    DropVersion = "drop_version", "a wire version this build does not speak";
    DropCluster = "drop_cluster", "another cluster's id";
    DropIds = "drop_ids", "network or node ids are not those of the path";
    DropKeySlot = "drop_key_slot", "a key slot that holds no key";
    DropKind = "drop_kind", "a kind this build does not take";
    DropReserved = "drop_reserved", "a reserved field is not zero";
    DropReplay = "drop_replay", "sequence already taken or too old";
    DropTag = "drop_tag", "the tag is wrong: forged, corrupted or another key";
    DropIncarnation = "drop_incarnation", "an echo that names another incarnation of this node, or comes from an old one of the peer";
    DropStaleLimit = "drop_stale_limit", "a stale probe beyond the rate at which stale echoes are sent";
    ChecksumZero = "checksum_zero", "IPv6 frame without UDP checksum, left to the MAC";
    Contended = "contended", "the tick could not be locked: frame taken as lost";
    Internal = "internal", "a map entry was missing: a defect of heartbeat";
    Departed = "departed", "own probe that left the host";
    DepartedUnknown = "departed_unknown", "own probe that left, but for a path that is not configured";
    Fenced = "fenced", "authentic fence of this incarnation by a view without it: obeyed and acknowledged";
    FenceAcked = "fence_acked", "authentic fence of an older incarnation of this node: acknowledged";
    FenceTakenAck = "fence_taken_ack", "authentic acknowledgement of an own fence";
    DropFenceIncarnation = "drop_fence_incarnation", "a fence of, or for, an incarnation that is not this node's to stop";
    DropFenceView = "drop_fence_view", "a fence of a view that this node holds as a member, or has outrun";
    DropFenceTag = "drop_fence_tag", "the tag of a fence or of its acknowledgement is wrong";
    DropFenceLimit = "drop_fence_limit", "a fence beyond the rate at which fences are acknowledged";
}
