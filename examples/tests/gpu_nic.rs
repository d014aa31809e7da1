//! The demo `gpu-nic` as a user would start it, on the modelled fabric.

#![allow(missing_docs, reason = "a test program")]

use serde_json::Value;
use std::process::Command;

/// Plays it; the line at its end, and the trace.
fn played(words: &[&str]) -> (Value, Value) {
    let name = format!("tidegate-gpu-nic-{}-{}.json", std::process::id(), words.len());
    let trace = std::env::temp_dir().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_unbind"))
        .args(["gpu-nic", "--json", "--trace"])
        .arg(&trace)
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
    std::fs::remove_file(trace).unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), events)
}

fn holds(line: &Value) {
    assert_eq!((&line["sha256_ok"], &line["violations"]), (&Value::from(true), &Value::from(0)));
    let interruptions = line["interruptions"].as_array().unwrap();
    let what: Vec<_> = interruptions.iter().map(|one| one["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["unbind", "target_reset", "initiator_reset", "memory_decoding"]);
    for one in interruptions {
        let number = |name: &str| one[name].as_u64().unwrap();
        let ended = number("drained") + number("revoked") + number("failed");
        assert!(number("held") > 0 && number("in_flight") == ended, "{one}");
        assert_eq!(one["identical"], true, "{one}");
    }
}

#[test]
fn every_interruption_finds_buffers_posted_and_the_picture_comes_and_goes_back_whole() {
    let (line, trace) = played(&[]);
    holds(&line);
    let events = trace["traceEvents"].as_array().unwrap();
    let spans = |track: u64| events.iter().filter(move |event| event["ph"] == "X" && event["tid"] == track);
    let count = |track: u64, name: &str| spans(track).filter(|event| event["name"] == name).count();
    assert_eq!((count(1, "window_flush"), count(1, "STOP_INTERFACE")), (4, 1));
    let stream = ["the picture, until it is interrupted", "the rest of the picture", "the way back"];
    assert_eq!(stream.map(|name| count(2, name)), [4, 4, 1]);
    let at = |event: &Value| (event["ts"].as_u64().unwrap(), event["dur"].as_u64().unwrap());
    let legs: Vec<_> = spans(2).map(at).collect();
    assert!(legs.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "one after the other: {legs:?}");
}

#[test]
fn a_wire_that_loses_and_repeats_changes_nothing_of_it() {
    holds(&played(&["--spoil", "40"]).0);
}
