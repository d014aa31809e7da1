//! Conversations with the responder, line by line.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn arguments(options: &str) -> Result<Arguments, clap::Error> {
    let words = std::iter::once("responder").chain(options.split_whitespace());
    Line::try_parse_from(words).map(|line| line.arguments)
}

/// What it says to these lines, and how it ended.
fn talk(options: &str, lines: &[&str]) -> (Vec<String>, Ended, String) {
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let input = lines.join("\n");
    let arguments = arguments(options).unwrap();
    let ended = run(&arguments, &mut input.as_bytes(), &mut out, &mut complaints).unwrap();
    let out = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    (out, ended, String::from_utf8(complaints).unwrap())
}

fn said(options: &str, lines: &[&str]) -> Vec<String> {
    let (said, ended, complaints) = talk(options, lines);
    assert_eq!((ended, complaints.as_str()), (Ended::Well, ""));
    said
}

/// A message to the default function.
fn message(code: &str, payload: &str) -> String {
    format!("10{code}0000000100000000000000000000{payload}")
}

fn lock(flags: &str, stream: &str) -> String {
    message("83", &format!("{flags}{stream}00{}", "0000000000000000".repeat(2)))
}

fn start(locked: &str) -> String {
    message("86", &locked[32..])
}

fn error(code: &str) -> String {
    message("7f", &format!("{code}00000000"))
}

#[test]
fn the_default_device_answers_what_its_help_says() {
    let caps = message("02", "00000000fe0000000000000000000000000000001f00000000340101");
    let asked = [message("81", ""), message("82", "00000000"), message("85", "")];
    let asked: Vec<_> = asked.iter().map(String::as_str).collect();
    assert_eq!(said("", &asked), [message("01", "0110"), caps, message("05", "00")]);
    let report = said("", &[&lock("0500", "ff"), &message("84", "0000ffff")]).remove(1);
    let report = hex::parse(&report).unwrap().0;
    let report = InterfaceReport::parse(&report[20..], LockFlags::LOCK_MSIX).unwrap();
    let ranges: Vec<_> = report.ranges.iter().map(|range| (range.id, range.pages, range.flags)).collect();
    assert_eq!(ranges, [(0, 16, RangeFlags::empty()), (2, 4, RangeFlags::NON_TEE)]);
}

#[test]
fn a_seed_gives_the_same_nonces_again_and_none_gives_others() {
    let locked = |options: &str| said(options, &[&lock("0000", "00")]).remove(0);
    assert_eq!(locked("--seed 7"), locked("--seed 0x7"));
    assert_ne!(locked("--seed 7"), locked("--seed 8"));
    assert_ne!(locked(""), locked(""));
    let twice = said("--seed 7", &[&lock("0000", "00"), &message("87", ""), &lock("0000", "00")]);
    assert_ne!(twice[0], twice[2]);
}

#[test]
fn an_event_has_no_line_and_leads_to_error_from_locked_and_run_only() {
    let locked = said("--seed 1", &[&lock("0000", "00")]).remove(0);
    for event in ["!flr", "!mse-clear", "!bme-clear", "!ide-fail", "!session-end"] {
        let state = message("85", "");
        assert_eq!(said("", &[event, &state]), [message("05", "00")], "{event}");
        let (lock, start, stop) = (lock("0000", "00"), start(&locked), message("87", ""));
        let run = said("--seed 1", &[&lock, &start, event, &state, &stop, &state, &lock, event, &state]);
        assert_eq!(run.len(), 7, "{event}");
        assert_eq!(
            run[1..5],
            [message("06", ""), message("05", "03"), message("07", ""), message("05", "00")]
        );
        assert_eq!(run[6], message("05", "03"), "{event} in CONFIG_LOCKED");
    }
}

#[test]
fn ide_decides_whether_a_lock_succeeds() {
    let code = |options: &str, stream: &str| {
        let said = said(options, &[&lock("0000", stream)]).remove(0);
        if said == error("01000000") { false } else { said.starts_with("1003") }
    };
    assert!(!code("--ide required", "00") && !code("--ide required --stream 0", "00"));
    for ide in ["keyed", "none"] {
        assert!(code(&format!("--ide {ide}"), "09"));
        assert!(code(&format!("--ide {ide} --stream 9"), "09"));
        assert!(!code(&format!("--ide {ide} --stream 9"), "08"));
    }
    let (lock, stop) = (lock("0000", "09"), message("87", ""));
    let said = said("--ide keyed --stream 9", &[&lock, "!session-end", &stop, &lock]);
    assert!(said[2].starts_with("1003"), "the keys of the session that follows");
}

#[test]
fn options_set_function_flags_and_bars() {
    let state = "10850000030202010000000000000000";
    assert_eq!(said("--function-id 0x1020203", &[state]), ["1005000003020201000000000000000000"]);
    assert_eq!(said("", &[state])[0][32..40], error("01010000")[32..40]);
    assert_eq!(said("--flags 4", &[&lock("0100", "00")]), [error("01000000")]);
    let bars = "--bar 2:1:shared --bar 0:15:private --bar 0:1:msix";
    let report = |flags: &str| {
        let report = said(bars, &[&lock(flags, "00"), &message("84", "0000ffff")]).remove(1);
        let report = hex::parse(&report).unwrap().0;
        InterfaceReport::parse(&report[20..], LockFlags::all()).unwrap()
    };
    let ranges = report("0400").ranges;
    let first = ranges[0].first_page;
    assert_eq!(ranges[1].first_page, first + 15);
    assert!(ranges[1].flags == RangeFlags::MSIX_TABLE && ranges[2].id == 2);
    assert_eq!((report("0000").ranges.len(), report("0000").msix_control), (2, 0));
}

#[test]
fn the_protocol_id_stands_in_front_of_both_directions_where_it_was_asked_for() {
    let state = message("85", "");
    let with = |id: &str| said("--with-protocol-id", &[&format!("{id}{state}")]).remove(0);
    assert_eq!(with("01"), format!("01{}", message("05", "00")));
    assert_eq!((with("00"), with("02")), ("-".into(), "-".into()));
    assert_eq!(said("--with-protocol-id", &["", "01"]), ["-", "-"]);
}

#[test]
fn a_message_that_cannot_be_answered_gets_a_line_of_its_own_all_the_same() {
    assert_eq!(said("", &["", "10", &message("85", "")[..30]]), ["-", "-", "-"]);
}

#[test]
fn a_line_that_is_no_message_ends_it_with_its_number_on_stderr() {
    for wrong in ["!reset", "hello", "1"] {
        let (said, ended, complaints) = talk("", &[&message("85", ""), "!flr", wrong, &message("85", "")]);
        assert_eq!((said.len(), ended), (1, Ended::Badly), "{wrong}");
        assert!(complaints.starts_with("line 3: "), "{complaints}");
    }
    let (said, ended, complaints) = talk(&format!("--bar 0:{0}:shared --bar 0:1:msix", u32::MAX), &[]);
    assert_eq!((said.len(), ended), (0, Ended::Well), "{complaints}");
    let (_, ended, complaints) = talk(&format!("--bar 0:{0}:shared --bar 0:2:msix", u32::MAX), &[]);
    assert!(ended == Ended::Badly && complaints.contains("BAR 0"), "{complaints}");
}

#[test]
fn bad_options_are_refused() {
    for options in [
        "--bar 6:1:private",
        "--bar 0:0:private",
        "--bar 0:1:open",
        "--bar 0:1",
        "--stream 256",
        "--flags 0x10000",
        "--function-id 0x100000000",
        "--seed -1",
        "--ide maybe",
    ] {
        assert!(arguments(options).is_err(), "{options}");
    }
}
