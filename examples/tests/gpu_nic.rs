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

fn number(one: &Value, name: &str) -> u64 {
    one[name].as_u64().unwrap_or_else(|| panic!("{name} in {one}"))
}

fn holds(line: &Value) {
    assert_eq!((&line["sha256_ok"], &line["violations"]), (&Value::from(true), &Value::from(0)));
    let interruptions = line["interruptions"].as_array().unwrap();
    let word = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let told: Vec<_> = interruptions.iter().map(|one| (word(one, "what"), word(one, "way"))).collect();
    let what = ["unbind", "target_reset", "initiator_reset", "memory_decoding"];
    let expected: Vec<_> =
        what.iter().flat_map(|what| ["in", "back"].map(|way| (what.to_string(), way.to_owned()))).collect();
    assert_eq!(told, expected);
    for one in interruptions {
        let ended = number(one, "drained") + number(one, "revoked") + number(one, "failed");
        assert!(number(one, "held") > 0 && number(one, "in_flight") == ended, "{one}");
        // The buffers that nobody asked a frame for; the frames that wait for room on the wire.
        assert!(number(one, "revoked") > 0, "{one}");
        assert_eq!((&one["identical"], number(one, "mapped")), (&Value::from(true), 0), "{one}");
        assert_eq!(one["twice"].is_u64(), one["way"] == "back", "{one}");
        // There is no screen here, and no engine maps registers.
        assert!(one.get("screen").is_none() && one.get("registers").is_none(), "{one}");
    }
}

#[test]
fn every_interruption_finds_descriptors_in_flight_and_the_picture_comes_and_goes_back_whole() {
    let (line, trace) = played(&[]);
    holds(&line);
    let events = trace["traceEvents"].as_array().unwrap();
    let spans = |track: u64| events.iter().filter(move |event| event["ph"] == "X" && event["tid"] == track);
    let count = |track: u64, name: &str| spans(track).filter(|event| event["name"] == name).count();
    // The ninth is the one before the second bind.
    assert_eq!((count(1, "window_flush"), count(1, "STOP_INTERFACE")), (9, 2));
    let stream = [
        "the picture, until it is interrupted",
        "the rest of the picture",
        "the way back, until it is interrupted",
        "the rest of the way back",
    ];
    // This display's reset blanks it, so a picture that was on its way back comes again.
    assert_eq!(stream.map(|name| count(2, name)), [4, 5, 4, 4]);
    let at = |event: &Value| (event["ts"].as_u64().unwrap(), event["dur"].as_u64().unwrap());
    let legs: Vec<_> = spans(2).map(at).collect();
    assert!(legs.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "one after the other: {legs:?}");
}

#[test]
fn a_wire_that_loses_and_repeats_changes_nothing_of_it() {
    let (line, _) = played(&["--spoil", "40"]);
    holds(&line);
    let back = line["interruptions"].as_array().unwrap().iter().filter(|one| one["way"] == "back");
    assert!(back.map(|one| number(one, "twice")).sum::<u64>() > 0, "{line}");
}
