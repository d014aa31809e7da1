//! The demo `nvme-gpu` as a user would start it, on the modelled fabric.

#![allow(missing_docs, reason = "a test program")]

use serde_json::Value;
use std::process::Command;

const WHAT: [&str; 4] = ["unbind", "target_reset", "initiator_reset", "memory_decoding"];

fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("{name} in {of}"))
}

#[test]
fn every_interruption_finds_descriptors_in_flight_and_leaves_the_picture_whole() {
    let trace = std::env::temp_dir().join(format!("tidegate-{}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_unbind"))
        .args(["--json", "nvme-gpu", "--trace"])
        .arg(&trace)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&line["backend"], &line["tsm"]), (&Value::from("soft"), &Value::from("emulated")));
    let targets = line["targets"].as_array().unwrap();
    let names: Vec<_> = targets.iter().map(|told| told["target"].as_str().unwrap()).collect();
    assert_eq!(names, ["vram", "cmb"]);
    for told in targets {
        assert_eq!(number(told, "violations"), 0);
        let interruptions = told["interruptions"].as_array().unwrap();
        let what: Vec<_> = interruptions.iter().map(|one| one["what"].as_str().unwrap()).collect();
        assert_eq!(what, WHAT);
        for one in interruptions {
            let ended = number(one, "drained") + number(one, "revoked") + number(one, "failed");
            assert!(number(one, "held") > 0, "{one}");
            // The controller stands still until the gate is closed: the last one accepted, at least, is in flight then.
            assert!(number(one, "in_flight") > 0 && number(one, "in_flight") == ended, "{one}");
            assert_eq!(one["identical"], true, "{one}");
        }
    }
    timeline(&serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap());
    std::fs::remove_file(trace).unwrap();
}

/// One for all: both targets' interruptions in their order, the phases of each quiesce within it, the stream beside it.
fn timeline(trace: &Value) {
    let events = trace["traceEvents"].as_array().unwrap();
    let name = |event: &Value| event["name"].as_str().unwrap().to_owned();
    let instants = events.iter().filter(|event| event["ph"] == "i");
    let told: Vec<String> =
        instants.clone().map(name).filter(|name| name.contains("descriptors in flight")).collect();
    // A drain says what of the stream is real, the initiator's too: the rest is not all of it.
    let stopped: Vec<String> =
        instants.map(name).filter(|name| name.starts_with("the stream stopped")).collect();
    assert!(stopped.len() == 8 && !stopped.iter().any(|name| name.contains(": 0 of")), "{stopped:?}");
    let expected = WHAT.iter().chain(&WHAT);
    assert!(
        told.len() == 8 && told.iter().zip(expected).all(|(told, what)| told.starts_with(what)),
        "{told:?}"
    );
    let spans: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    let count = |wanted: &str| spans.iter().filter(|event| name(event) == wanted).count();
    // Of each target: one of each interruption, and the initiator's at the unbind.
    assert_eq!((count("window_flush"), count("STOP_INTERFACE")), (10, 4));
    assert_eq!((count("negative"), count("the picture, until it is interrupted")), (8, 8));
    let end = |event: &Value| number(event, "ts") + number(event, "dur");
    let device: Vec<_> = spans.iter().filter(|event| event["tid"] == 1).collect();
    assert!(device.windows(2).all(|pair| number(pair[1], "ts") >= number(pair[0], "ts")));
    assert!(spans.iter().all(|event| end(event) <= end(spans.last().unwrap())));
}
