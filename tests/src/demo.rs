//! The demonstration: a cluster of three real daemons on two networks, played through its faults.
