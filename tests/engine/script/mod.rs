//! Stories in packetdrill's notation: the files of `tests/engine/scripts`, each a test of its own name.
//!
//! ```text
//! # rows: 83
//! # The client's FIN is lost on its way to the server: the copy crosses like the first.
//! include established
//! client -> server F. 1:2(0) ack 1          # sent by the client, and the server gets the same
//! +0.2 client -> server F. 1:2(0) ack 1     # 0.2 s later
//! ```
//!
//! | line | what it says |
//! |---|---|
//! | `client > SEGMENT` | the client sends it; with `drop REASON` behind it, it is dropped for that |
//! | `server < SEGMENT` | the server is sent it: exactly what comes out, in this order, and nothing else |
//! | `client -> server SEGMENT` | both in one: what the client sends is what the server gets, number for number |
//! | `+SECONDS ...` | so long after the line before (`+2h`, `+4min`); before a `<` line it must come out then, not earlier |
//! | `counters { NAME +1, ... }` | all that was counted since the last such line (of the included lines nothing) |
//! | `include NAME` | the lines of `scripts/prelude/NAME.pkt` |
//! | `rotate`, `mode NAME` | the next key epoch begins; the service's mode changes |
//! | `connection 2 iss N port N` | what is not as it would be by default |
//! | `empty` | no table holds anything: the last line of every script |
//! | `--early-data N` and others | settings, see `setting` in `run` |
//!
//! A segment is `FLAGS SEQ:END(LEN) ack N win N <OPTIONS>` with the letters `S F R P E W U .` for the flags. END counts
//! SYN and FIN, as in the other stories. Without `win` the window field is 502. Options are `mss N`, `wscale N`, `sackOK`,
//! `sack L:R L:R`, `TS val N ecr N` (`none`: 0), `kind N`, and to be sent also `nop`, `eol` and `hex 2202` for octets as they
//! are. What a segment carries is made of its numbers, so that an octet in another place is noticed.
//!
//! Numbers are relative, as in packetdrill and tcpdump: an end's sequence numbers count from its ISS, its timestamps from
//! the TSval of its SYN. The client counts the server's from the SYN-ACK it was sent, which is the cookie; the server
//! counts its own from its own SYN-ACK. So an octet, and an instant of a clock, has one number on both sides, though no
//! two ISSs are alike and all lie near the wrap.
//!
//! `client2` and `server2` are the same ends with the numbers of their second connection, on the same ports unless
//! `connection` says otherwise.
//!
//! A script runs over IPv4 and IPv6 unless a setting names one. An MSS is that of IPv4, and 20 less over IPv6.

mod parse;
mod run;
mod segment;

use std::path::PathBuf;

/// A test for each script.
macro_rules! scripts {
    ($($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                play(stringify!($name));
            }
        )*

        const REGISTERED: &[&str] = &[$(stringify!($name),)*];
    };
}

scripts! {
    ack_and_the_iss_in_the_mac,
    ack_repeated,
    acknowledgement_of_nothing,
    beyond_the_window,
    client_resets_before_the_answer,
    close_by_client,
    close_by_server,
    close_client_reconnects_from_fin_wait_2,
    close_client_vanishes_in_fin_wait_2,
    close_client_vanishes_in_last_ack,
    close_half_by_server_for_hours,
    close_half_for_hours,
    close_lost_ack_of_fin,
    close_lost_fin,
    close_lost_fin_ack_of_server,
    close_lost_fin_at_first_link,
    close_lost_fin_behind_lost_data,
    close_lost_fin_of_server,
    close_lost_last_ack,
    close_lost_last_ack_at_first_link,
    close_lost_last_ack_client_gone,
    close_lost_last_ack_client_gone_in_time_wait,
    close_server_vanishes_after_ack,
    close_server_vanishes_before_ack,
    close_simultaneous,
    close_simultaneous_lost_acks,
    close_simultaneous_vanished,
    cookie_replayed_after_a_refusal,
    cookie_replayed_after_a_reset,
    cookie_replayed_after_an_abort,
    cookie_replayed_after_the_close,
    early_data_in_order,
    first_ack_with_fin,
    first_ack_with_rst,
    first_ack_with_urg,
    flags_and_urgent_pass,
    half_open_client_restarts,
    half_open_client_vanishes_before_its_ack,
    half_open_client_vanishes_before_the_answer,
    half_open_expired_then_spoken_to,
    half_open_keep_alive_draws_reset,
    half_open_server_restarts,
    half_open_server_vanishes_before_its_answer,
    half_open_silent,
    handshake,
    idle_timeout,
    keep_alive_of_two_octets_does_not_open,
    keep_alive_opens,
    keep_alives,
    late_ack,
    late_ack_of_the_client_before,
    late_ack_of_the_client_before_behind_the_handshake,
    mss_absent,
    mss_absent_ipv6,
    mss_fine,
    mss_learned,
    mss_rounded_down,
    mss_tiny,
    mss_told_fits_the_links,
    old_duplicate_data,
    old_duplicate_first_data,
    old_duplicate_of_the_connection_before_the_last,
    old_duplicate_syn,
    options_only_if_offered,
    options_the_server_lacks,
    reconnect_after_reset,
    reconnect_from_half_closed,
    reconnect_of_client_that_rebooted_within_seconds,
    reconnect_of_rebooted_client,
    reset_answers_the_syn_ack,
    reset_entry_lasts_45_s,
    reset_exact_by_client,
    reset_exact_by_server,
    reset_in_window_to_client,
    reset_in_window_to_server,
    reset_out_of_window,
    reset_while_closing,
    reset_without_ack_keeps_its_field,
    sack_and_d_sack,
    sack_malformed,
    second_syn,
    server_accept_queue_full,
    server_holds_an_old_connection,
    server_opens,
    server_opens_from_time_wait,
    server_refuses,
    server_repeats_its_syn_ack,
    server_reset_forged,
    server_silent,
    server_silent_and_a_segment_crosses_the_reset,
    server_syn_ack_of_another_connection,
    server_syn_ack_with_another_ack,
    server_syn_ack_with_data,
    simultaneous_open_by_client,
    simultaneous_open_by_server,
    syn_in_window_forged,
    syn_in_window_let_through,
    syn_in_window_of_last_ack,
    syn_in_window_then_reset,
    syn_of_server_in_window,
    syn_options_broken,
    syn_options_twice,
    syn_repeated,
    syn_repeated_across_epochs,
    syn_with_tags_and_data,
    time_wait_lasts_2_msl,
    time_wait_reuse,
    timestamps_of_the_answer,
    window_and_old_duplicates,
    window_of_the_answer,
    wscale_above_14,
    wscale_absent_is_not_0,
    zero_window_for_hours,
    zero_window_of_client,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/engine/scripts")
}

fn play(name: &str) {
    let file = format!("{name}.pkt");
    let text = std::fs::read_to_string(folder().join(&file)).unwrap();
    try_play(&file, &text).unwrap_or_else(|fault| panic!("{fault}"));
}

fn try_play(file: &str, text: &str) -> Result<(), String> {
    run::play(&parse::script(file, text, &folder().join("prelude"))?)
}

#[test]
fn every_script_is_registered() {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "pkt"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, REGISTERED);
}

#[test]
fn segments_are_printed_as_they_are_written() {
    for line in [
        "S 0:1(0) win 64240 <mss 1460,sackOK,TS val 7 ecr 0,hex 01,wscale 7>",
        "FP. 1:102(100) ack 9 win 0",
        "PEWU. -5:5(10) ack -2147483648 win 65535 <sack 1:2 -3:4,kind 34>",
        "- 7:7(0) win 1",
    ] {
        assert_eq!(parse::segment(line).unwrap().to_string(), line);
    }
}

/// Plays a script of these lines, the first of which is line 3.
fn fault(lines: &str) -> String {
    try_play("x.pkt", &format!("# rows: 1\n# A sentence.\n{lines}\nempty\n")).unwrap_err()
}

const SYN_ACK: &str =
    "client > S 0:1(0) win 64240 <mss 1460>\nclient < S. 0:1(0) ack 1 win 14600 <mss 1460>\n";

#[test]
fn mistakes_in_a_script_are_named_with_their_line() {
    for (lines, expected) in [
        ("client > S 0:1(1)", "x.pkt:3: 0 and 1 octets, SYN or FIN counted, end at 2, not 1"),
        ("\nclient > X 0:1(1)", "x.pkt:4: no flags: X"),
        ("client > . 1:1(0)", "x.pkt:3: `ack` belongs to the flag `.`"),
        ("client > S 0:1(0) <mss 70000>", "x.pkt:3: no number, or one too large: 70000"),
        ("client > R 0:0(0) drop it", "x.pkt:3: no reason to drop: it"),
        ("client -> client R 0:0(0)", "x.pkt:3: client -> client: from one end of a connection to its other"),
        ("+x client > R 0:0(0)", "x.pkt:3: no time: +x"),
        ("counters { syn_received }", "x.pkt:3: no counter: syn_received"),
        ("--mode odd", "x.pkt:3: no mode: odd"),
        ("nonsense", "x.pkt:3: not understood: nonsense"),
        ("client > . 1:1(0) ack 1", "x.pkt:3: client has not been sent a SYN that it could acknowledge"),
    ] {
        assert_eq!(fault(lines), expected);
    }
    let missing = fault("include nothing");
    assert!(missing.starts_with("x.pkt:3: nothing: "), "{missing}");
}

#[test]
fn a_script_without_rows_sentence_or_end_is_refused() {
    let refused = |text| try_play("x.pkt", text).unwrap_err();
    assert_eq!(refused("empty\n"), "x.pkt:1: `# rows: 1, 2` must come first");
    assert_eq!(refused("# rows: 1\nempty\n"), "x.pkt:2: a sentence must follow the rows");
    assert_eq!(
        refused("# rows: 1\n# Nothing.\n"),
        "x.pkt: the last line must be `empty`: nothing may be left behind"
    );
}

#[test]
fn what_differs_is_printed_as_it_would_be_written() {
    let differs = "x.pkt:4: came out
    client < S. 0:1(0) ack 1 win 14600 <mss 1460>
  expected was
    client < S. 0:1(0) ack 1 win 100 <mss 1460>";
    assert_eq!(fault(&SYN_ACK.replace("14600", "100")), differs);
    assert_eq!(
        fault(&format!("{SYN_ACK}client < R 1:1(0) win 0")),
        "x.pkt:5: nothing came out, but expected was\n    client < R 1:1(0) win 0"
    );
    assert_eq!(
        fault(&format!("client > S 0:1(0)\n{SYN_ACK}")),
        "x.pkt:4: before this line came out\n    client < S. 0:1(0) ack 1 win 14600"
    );
    assert_eq!(fault("client > R 1:1(0)"), "x.pkt:3: dropped: no_flow");
    assert_eq!(fault("client > S 0:1(0) drop no_flow"), "x.pkt:3: not dropped, but expected to be: no_flow");
}

#[test]
fn counters_that_no_line_states_and_entries_left_behind_are_faults() {
    let unstated = "not stated at the end: moved have
    counters { outside.originated +1, syn_received +1, synack_sent +1 }
  expected was
    counters { }";
    assert_eq!(fault(SYN_ACK), format!("x.pkt:6: {unstated}"));
    assert_eq!(
        fault("counters { synack_sent +1 }"),
        "x.pkt:3: moved have\n    counters { }\n  expected was\n    counters { synack_sent +1 }"
    );
    assert_eq!(fault("include established"), "x.pkt:4: left behind: 1 in established");
}

#[test]
fn timers_that_fire_early_or_late_are_faults() {
    let syn = "server < S 0:1(0) win 64256 <mss 1460,sackOK,TS val 1 ecr 0,wscale 7>";
    let early = fault(&format!("include syn_sent\n+1.1 {syn}"));
    assert!(
        early.starts_with("x.pkt:4: too early: before this line came out\n    server < S 0:1(0)"),
        "{early}"
    );
    let late = fault(&format!("include syn_sent\n+0.9 {syn}"));
    assert!(late.starts_with("x.pkt:4: nothing came out, but expected was\n    server < S"), "{late}");
}
