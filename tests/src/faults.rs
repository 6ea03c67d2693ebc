//! Which test shows what becomes of which fault, by the numbers of the fault catalogue. It is a table, kept honest by
//! its own tests: every number that is owed is here once, and every test that is named exists.

/// What is shown of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// By these tests, wholly.
    By(&'static [&'static str]),
    /// By these tests, but for what the text says.
    Partly(&'static [&'static str], &'static str),
    /// Not by a test of real daemons here: the text says why, and where it is shown.
    Not(&'static str),
}

use Shown::{By, Not, Partly};

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its number in the catalogue.
    pub number: u32,
    /// What it is, in a few words.
    pub what: &'static str,
    /// What is shown of it.
    pub shown: Shown,
}

const fn fault(number: u32, what: &'static str, shown: Shown) -> Fault {
    Fault { number, what, shown }
}

/// Every fault of detection and of views, in order.
pub const FAULTS: &[Fault] = &[
    fault(1, "a split of three and two", By(&["fault_01_of_three_and_two_the_two_stop_before_the_three_take_over"])),
    fault(
        3,
        "an even split without a witness",
        By(&[
            "fault_03_two_and_two_without_a_witness_both_stop_and_say_why_and_go_on_when_they_meet",
            "fault_03_where_votes_follow_membership_exactly_one_of_two_halves_goes_on",
        ]),
    ),
    fault(4, "a split of two, two and one", By(&["fault_04_of_two_and_two_and_one_nobody_goes_on"])),
    fault(5, "one node cut off", By(&["fault_05_one_node_cut_off_stops_before_the_others_take_over_and_joins_again"])),
    fault(
        6,
        "one-way loss",
        By(&[
            "fault_06_one_way_loss_makes_one_verdict_and_no_ping_pong",
            "fault_06_one_way_loss_parts_the_two_once_and_they_do_not_take_turns",
        ]),
    ),
    fault(7, "an intransitive cut", By(&["fault_07_two_that_do_not_hear_each_other_are_parted_once_and_by_rule"])),
    fault(
        8,
        "a ring of majorities",
        By(&["fault_08_in_a_ring_in_which_each_hears_its_neighbours_alone_nobody_is_sent_away"]),
    ),
    fault(9, "random loss", By(&["fault_09_random_loss_makes_no_more_removals_than_chance"])),
    fault(10, "a short burst of loss", By(&["fault_10_a_burst_shorter_than_the_threshold_is_no_death"])),
    fault(
        11,
        "a cable back just in time",
        By(&["fault_11_a_cable_that_is_back_just_in_time_leads_to_one_verdict_on_all_nodes"]),
    ),
    fault(
        12,
        "constant delay",
        Partly(
            &[
                "fault_12_a_delay_is_measured_and_a_late_echo_is_no_life_and_no_death",
                "fault_12_late_echoes_alone_do_not_keep_a_peer_alive",
            ],
            "`paths` shows the round trips; no warning comes at half of the time to answer",
        ),
    ),
    fault(13, "reordering and jitter", By(&["fault_13_reordered_frames_are_each_judged_by_their_own_probe"])),
    fault(14, "duplicates", By(&["fault_14_a_duplicate_is_counted_and_changes_nothing"])),
    fault(15, "corruption", By(&["fault_15_a_damaged_frame_is_dropped_and_counted"])),
    fault(16, "64 kbit", By(&["fault_16_a_link_of_64_kbit_carries_two_nodes"])),
    fault(
        17,
        "a flapping link",
        By(&[
            "fault_17_a_link_that_flaps_takes_no_node_away",
            "fault_17_a_link_that_flaps_takes_a_node_out_once_at_most",
            "fault_17_a_link_that_flaps_brings_its_node_into_quarantine_which_ends_by_itself",
        ]),
    ),
    fault(18, "one of two networks down", By(&["fault_18_one_of_two_networks_down_is_no_node_down"])),
    fault(
        19,
        "all networks of a node down",
        By(&["fault_19_a_node_without_networks_is_down_once_and_knows_itself_cut_off"]),
    ),
    fault(20, "an address removed", By(&["fault_20_a_removed_address_takes_its_paths_and_gives_them_back"])),
    fault(21, "a peer's MAC address changes", By(&["fault_21_a_peers_new_mac_address_is_no_death"])),
    fault(22, "a MAC address stolen", By(&["fault_22_a_stolen_mac_address_takes_one_path_and_heals"])),
    fault(23, "MTU 576", By(&["fault_23_heartbeats_pass_an_mtu_of_576"])),
    fault(
        24,
        "fragments",
        By(&["options_fragments_and_extension_headers", "program_and_responder_refuse_frames_that_are_not_plain"]),
    ),
    fault(
        25,
        "a VLAN tag in the metadata",
        Partly(
            &["fault_25_a_device_that_may_take_tags_off_is_told_at_start", "tags_of_every_kind"],
            "XDP cannot see such a tag: it is said that it may be there",
        ),
    ),
    fault(26, "stacked and priority tags", By(&["tags_of_every_kind"])),
    fault(
        27,
        "options and extension headers",
        By(&["options_fragments_and_extension_headers", "program_and_responder_refuse_frames_that_are_not_plain"]),
    ),
    fault(28, "hop limit 254", By(&["hop_limits"])),
    fault(29, "partial checksums", By(&["an_answers_checksum_owes_nothing_to_the_probes"])),
    fault(
        30,
        "UDP checksum zero or wrong",
        By(&["an_answers_checksum_owes_nothing_to_the_probes", "each_counter_has_a_case"]),
    ),
    fault(
        31,
        "XDP_TX lost silently",
        By(&[
            "fault_31_echoes_that_vanish_silently_are_noticed_and_stepped_down",
            "fault_31_a_node_whose_echoes_vanish_from_the_start_steps_down",
        ]),
    ),
    fault(32, "generic mode", By(&["fault_32_generic_mode_works_and_is_shown"])),
    fault(33, "neighbour discovery blocked", By(&["fault_33_blocked_neighbour_discovery_is_no_death"])),
    fault(
        34,
        "a duplicate address",
        Partly(
            &["fault_34_a_duplicate_address_is_never_credited_to_the_wrong_node"],
            "counted at the wrong node, without an event: a node sees no neighbour announcements",
        ),
    ),
    fault(35, "an interface pulled out", By(&["fault_35_an_interface_that_is_pulled_out_comes_back"])),
    fault(36, "an interface moved away", By(&["fault_36_an_interface_moved_away_takes_no_program_along"])),
    fault(37, "an interface renamed", By(&["fault_37_a_renamed_interface_goes_on_beating"])),
    fault(
        38,
        "a firewall that drops messages",
        By(&["fault_38_a_node_whose_firewall_drops_messages_is_no_member_though_its_kernel_answers"]),
    ),
    fault(
        39,
        "selective black holes",
        By(&[
            "fault_39_where_heartbeats_pass_and_messages_do_not_the_node_goes_within_the_control_limit",
            "fault_39_where_messages_pass_and_heartbeats_do_not_the_node_goes_as_one_that_is_silent",
            "fault_39_where_messages_reach_two_of_five_no_more_these_go_one_after_the_other",
            "fault_39_between_two_alone_that_do_not_reach_each_other_by_messages_one_goes_by_rule",
        ]),
    ),
    fault(40, "an unrelated flood", By(&["fault_40_a_flood_costs_the_controller_nothing_and_kills_nobody"])),
    fault(
        41,
        "kill -9",
        By(&[
            "fault_41_killed_and_restarted_within_the_stall_limit_is_one_event_and_no_verdict",
            "fault_41_killed_for_good_is_stalled_then_hung_then_left_when_marked",
            "fault_41_killed_and_restarted_it_goes_on_as_the_same_incarnation_under_the_same_lease",
            "fault_41_killed_for_good_it_is_out_as_hung_and_comes_back_as_a_newer_incarnation",
        ]),
    ),
    fault(
        42,
        "a kill loop",
        By(&[
            "fault_42_killed_again_and_again_until_its_manager_gives_up_a_node_is_out_at_once_and_that_counts",
            "fault_42_whose_manager_gives_up_three_times_is_in_quarantine_until_it_is_cleared",
        ]),
    ),
    fault(
        43,
        "a thread is killed or panics",
        Partly(
            &[
                "fault_43_whichever_of_its_threads_is_killed_nothing_of_a_daemon_lives_on",
                "fault_43_a_panic_in_any_thread_ends_the_whole_process",
                "fault_43_the_daemon_asks_for_it_before_anything_else",
            ],
            "each thread of a daemon is killed; a panic is shown of the process that asks for the same, since from outside \
             a daemon cannot be made to panic",
        ),
    ),
    fault(
        44,
        "stopped for a while",
        By(&[
            "fault_44_stopped_for_less_than_the_stall_limit_nothing_is_said",
            "fault_44_stopped_for_less_than_the_hang_limit_it_stays_and_acts",
        ]),
    ),
    fault(
        45,
        "stopped for long",
        By(&[
            "fault_45_stopped_for_longer_it_is_stalled_and_on_resuming_accuses_nobody",
            "fault_45_stopped_for_longer_it_is_out_and_acts_in_nothing_when_it_wakes",
        ]),
    ),
    fault(46, "frozen", By(&["fault_46_frozen_it_is_stalled_and_never_down", "fault_46_frozen_it_is_as_stopped"])),
    fault(47, "a cpu quota", By(&["fault_47_held_to_one_percent_of_a_cpu_it_is_not_removed"])),
    fault(48, "realtime hogs", By(&["fault_48_a_realtime_hog_on_every_cpu_removes_nobody"])),
    fault(49, "a fork bomb", By(&["fault_49_a_fork_bomb_beside_it_removes_nobody"])),
    fault(50, "memory pressure", By(&["fault_50_memory_pressure_in_its_own_group_removes_nobody"])),
    fault(51, "an I/O storm", By(&["fault_51_an_io_storm_on_its_disk_removes_nobody"])),
    fault(52, "a disk that hangs", By(&["fault_52_a_disk_that_hangs_stops_neither_echoes_nor_verdicts_nor_leaving"])),
    fault(53, "no descriptor left", By(&["fault_53_without_a_free_descriptor_clients_are_refused_and_nothing_else"])),
    fault(
        54,
        "the wall clock stepped",
        Partly(
            &[
                "fault_54_only_one_function_reads_the_wall_clock",
                "fault_54_what_the_wall_clock_says_is_shown_and_times_nothing",
                "fault_54_the_core_reads_no_clock_at_all",
            ],
            "by an injected clock and by reading the sources: a test never steps the machine's clock",
        ),
    ),
    fault(
        57,
        "a pause of the whole machine",
        Partly(
            &[
                "fault_57_a_machine_that_was_paused_from_outside_is_out_in_time_and_what_it_does_on_waking_is_refused",
                "fault_57_of_a_machine_that_was_paused_no_act_passes_and_the_others_go_on",
            ],
            "by the simulator: a namespace cannot be paused without its kernel, and a machine within this one is too slow",
        ),
    ),
    fault(
        59,
        "a snapshot restored",
        Partly(
            &[
                "a_machine_that_goes_on_from_a_snapshot_stops_and_comes_back_as_a_newer_incarnation",
                "fault_59_of_an_incarnation_that_a_snapshot_brings_back_no_act_passes",
                "fault_59_of_a_member_that_was_left_out_since_its_snapshot_no_act_passes",
            ],
            "by the simulator: as for 57; an older disk alone is fault 104",
        ),
    ),
    fault(
        63,
        "all start at once",
        By(&["fault_63_all_nodes_that_start_at_once_after_a_loss_of_power_come_up_in_one_view"]),
    ),
    fault(
        64,
        "a cold start of too few",
        By(&["fault_64_started_with_too_few_a_node_waits_and_says_for_whom", "an_operator_fences_sets_and_forces"]),
    ),
    fault(
        65,
        "a node that starts alone",
        Partly(
            &[
                "fault_65_a_node_that_starts_alone_forms_nothing_with_its_disk_or_without",
                "an_empty_disk_that_hears_a_cluster_creates_none",
            ],
            "there is no witness to ask yet",
        ),
    ),
    fault(66, "a graceful stop", By(&["fault_66_who_leaves_is_out_without_a_verdict_and_without_a_fence"])),
    fault(
        67,
        "a start broken off",
        By(&["fault_67_a_start_that_is_broken_off_anywhere_leaves_nothing_in_the_way_of_the_next"]),
    ),
    fault(68, "rolling restarts", By(&["fault_68_rolling_restarts_cost_the_others_no_heartbeat_and_no_quorum"])),
    fault(
        69,
        "starts and stops round the quorum point",
        By(&["fault_69_started_and_stopped_at_random_round_the_quorum_point_nodes_act_just_when_they_have_it"]),
    ),
    fault(
        70,
        "a crash at each step of a change of view",
        By(&["fault_70_killed_at_any_step_of_a_change_of_view_a_node_votes_once_and_goes_on"]),
    ),
    fault(
        71,
        "the program taken off or overwritten",
        By(&["fault_71_taking_the_program_off_or_overwriting_it_is_refused_by_the_kernel"]),
    ),
    fault(72, "the link detached", By(&["fault_72_a_detached_link_is_seen_within_one_delay_and_attached_once"])),
    fault(73, "a foreign program", By(&["fault_73_a_foreign_program_is_named_and_left_alone"])),
    fault(74, "pins removed", By(&["fault_74_pins_removed_while_running_are_made_again"])),
    fault(75, "no bpffs", By(&["fault_75_without_a_bpffs_native_is_refused_and_auto_falls_back_by_name"])),
    fault(76, "tables edited", By(&["fault_76_edited_tables_are_written_again_within_a_second_and_told"])),
    fault(77, "pins of another layout", By(&["fault_77_pins_of_another_layout_are_removed_and_never_read"])),
    fault(
        78,
        "a capability missing, a program not taken",
        By(&[
            "fault_78_without_its_capabilities_native_is_refused_and_auto_falls_back_by_name",
            "fault_78_a_program_that_the_kernel_does_not_take_is_refused_or_stepped_down_from_by_name",
        ]),
    ),
    fault(
        79,
        "the ring buffer full",
        Partly(
            &["fault_79_a_controller_that_stalled_has_lost_no_liveness"],
            "there is no ring buffer: what a controller missed, it reads from the ticks",
        ),
    ),
    fault(
        80,
        "more paths than fit",
        By(&["fault_80_more_paths_than_the_tables_hold_are_refused_with_the_configuration"]),
    ),
    fault(81, "numbers near their end", By(&["agrees_near_the_end_of_the_numbers", "exhaustive"])),
    fault(
        83,
        "a second controller",
        By(&[
            "fault_83_a_second_controller_is_refused_and_the_first_goes_on",
            "fault_83_a_directory_that_another_controller_has_taken_is_left_alone_and_told",
            "fault_83_at_its_end_a_daemon_leaves_another_controllers_pins",
            "fault_83_what_another_controller_left_in_the_place_of_its_pins_is_replaced",
        ]),
    ),
    fault(
        84,
        "one identity on two machines",
        By(&[
            "fault_84_an_identity_used_twice_is_named_and_makes_no_ping_pong",
            "two_nodes_of_one_identity_do_not_take_turns",
            "fault_84_whoever_comes_with_the_identity_of_a_member_that_runs_is_refused_and_the_member_stays",
        ]),
    ),
    fault(
        85,
        "another cluster on the wire",
        By(&[
            "fault_85_another_cluster_at_a_listed_address_is_dropped_and_counted",
            "fault_85_two_clusters_on_one_wire_know_nothing_of_each_other",
        ]),
    ),
    fault(86, "a faulty configuration", By(&["fault_86_a_faulty_configuration_is_refused_by_line_and_column"])),
    fault(88, "a wrong key on one node", By(&["fault_88_a_node_with_another_key_stands_alone"])),
    fault(
        103,
        "the state cannot be written",
        Partly(
            &["fault_103_where_the_state_can_not_be_written_the_node_casts_no_vote_and_leaves"],
            "full and read-only; a failing fsync by the simulator and by tests of the file's writer",
        ),
    ),
    fault(
        104,
        "a state that is damaged or older",
        By(&[
            "fault_104_a_state_that_is_not_whole_has_no_vote_until_a_view_names_a_new_one",
            "fault_104_an_older_copy_of_the_state_is_told_by_the_others_and_gives_its_vote_up",
        ]),
    ),
    fault(
        105,
        "no room for the event log",
        By(&["fault_105_an_event_log_without_room_or_taken_away_costs_no_view_and_no_lease"]),
    ),
    fault(
        106,
        "a fence",
        Partly(
            &["fault_106_a_fenced_node_is_stopped_by_its_kernel_whether_its_userspace_runs_or_not"],
            "there is no watchdog device here to reset a machine by",
        ),
    ),
    fault(107, "a fence that never arrives", By(&["fault_107_a_fence_that_never_arrives_is_waited_out_by_both_sides"])),
    fault(
        108,
        "a fence of an older incarnation",
        By(&["fault_108_a_fence_of_an_older_incarnation_that_comes_late_stops_nobody"]),
    ),
    fault(
        109,
        "two that fence each other",
        By(&[
            "fault_109_of_two_alone_exactly_one_goes_on_each_time",
            "fault_109_of_two_that_are_told_to_fence_each_other_at_once_exactly_one_is_left",
        ]),
    ),
    fault(
        110,
        "hooks that hang, fail and fork",
        Partly(
            &[
                "fault_110_hooks_that_hang_or_fork_are_ended_in_time_and_cost_no_lease",
                "hooks_are_run_with_the_token_and_the_event",
            ],
            "a watchdog is fed by the lease and not by hooks, and there is none here",
        ),
    ),
    fault(112, "a dry run left on", Not("there is no dry run: a fence is obeyed by the kernel or it is none")),
    fault(
        113,
        "64 peers at 10 ms",
        Partly(
            &["fault_113_64_peers_at_10_ms_are_kept"],
            "64 paths between two nodes of eight addresses each: 64 daemons are more than two processors carry",
        ),
    ),
    fault(
        114,
        "all of it for long",
        By(&["fault_114_under_all_faults_by_turns_the_rule_of_views_holds_and_nothing_leaks"]),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Ranges of the numbers that are owed, both ends included.
    const OWED: &[(u32, u32)] =
        &[(1, 1), (3, 37), (38, 54), (57, 57), (59, 59), (63, 81), (83, 86), (88, 88), (103, 110), (112, 114)];

    #[test]
    fn every_number_that_is_owed_is_there_once() {
        let numbers: Vec<u32> = FAULTS.iter().map(|fault| fault.number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        let owed = OWED.iter().flat_map(|(first, last)| *first..=*last);
        let missing: Vec<u32> = owed.filter(|number| !numbers.contains(number)).collect();
        assert_eq!(missing, Vec::<u32>::new());
    }

    #[test]
    fn every_test_that_is_named_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut found = BTreeSet::new();
        for part in ["heartbeat-common/src", "heartbeat-user/src", "tests/src", "tests/tests"] {
            collect(&root.join(part), &mut found);
        }
        assert!(found.len() > 100, "only {} tests found below {}", found.len(), root.display());
        for fault in FAULTS {
            let (By(names) | Partly(names, _)) = fault.shown else { continue };
            assert!(!names.is_empty(), "fault {}", fault.number);
            for name in names {
                assert!(found.contains(*name), "fault {}: there is no test {name}", fault.number);
            }
        }
    }

    /// Names of the functions that follow a `#[test]`.
    fn collect(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for part in text.split("#[test]").skip(1) {
                    let name = part.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
                    found.extend(name.map(|(name, _)| name.to_owned()));
                }
            }
        }
    }
}
