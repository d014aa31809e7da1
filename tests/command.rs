//! The command `tidegate` as a program: exit codes, and what goes where. Some of it in the testbed's guest only.

use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

fn tidegate(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments.split(' ')).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn guest() -> bool {
    let guest = std::env::var_os("TIDEGATE_GUEST").is_some_and(|value| value == "1");
    if !guest {
        let _ = std::io::stderr().write_all(b"skipped: not in the testbed guest\n");
    }
    guest
}

/// The address and the node of the first device of this name.
fn device(name: &str) -> (String, String) {
    let devices = std::fs::read_to_string(std::env::var_os("TIDEGATE_DEVICES").unwrap()).unwrap();
    let line = devices.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
    let words: Vec<_> = line.split(' ').collect();
    (words[1].to_owned(), words[4].to_owned())
}

fn doctor(arguments: &str) -> (i32, Value) {
    let output = tidegate(&format!("doctor --json{arguments}"));
    (code(&output), serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn bad_usage_is_exit_code_2_with_a_reason_on_stderr() {
    for arguments in
        ["cure", "doctor --memory 0", "vfio take", "vfio give 1:2:3", "topo nowhere", "tdisp decode 0x"]
    {
        let output = tidegate(arguments);
        assert_eq!(code(&output), 2, "{arguments}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments}");
    }
}

/// With this on stdin.
fn piped(arguments: &str, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let command = command.args(arguments.split(' ')).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_tdisp_message_is_printed_as_json_and_made_of_it_again() {
    // A LOCK with reserved bits set, whose frames are SPDM's; then the same in an object of DOE.
    let spdm =
        "12fe00000300020100250001108355aaefbe0000000000000000000007e00000000000d0000000000000000000000000";
    let doe = format!("010001000e000000{spdm}");
    for (option, hex) in [("--spdm", spdm), ("--doe", &doe)] {
        let decoded = tidegate(&format!("tdisp decode {option} {hex}"));
        assert_eq!((code(&decoded), text(&decoded.stderr)), (0, String::new()), "{option}");
        let document: Value = serde_json::from_slice(&decoded.stdout).unwrap();
        assert_eq!(document["message"]["type"], "LOCK_INTERFACE_REQUEST");
        let encoded = piped("tdisp encode", &text(&decoded.stdout));
        assert_eq!((code(&encoded), text(&encoded.stdout)), (0, format!("{hex}\n")), "{option}");
    }
    // 64 KiB of a report are more digits than an argument can have.
    let large = format!("01100400000001000000000000000000 00ffff0000{}\n", "5a".repeat(0xFFFF));
    let decoded = piped("tdisp decode -", &large);
    assert_eq!((code(&decoded), text(&decoded.stderr)), (0, String::new()));
    let encoded = piped("tdisp encode", &text(&decoded.stdout));
    assert_eq!((code(&encoded), text(&encoded.stdout)), (0, large.replace(' ', "")));
    for nonsense in ["012", "0x01", ""] {
        let refused = piped("tdisp decode -", nonsense);
        assert_eq!(code(&refused), 1, "{nonsense}");
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{nonsense}");
    }
    let refused = tidegate("tdisp decode 0110830000");
    assert_eq!(code(&refused), 1);
    assert!(refused.stdout.is_empty() && !refused.stderr.is_empty());
}

#[test]
fn the_tdisp_responder_answers_each_line_before_it_reads_the_next() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let command = command.args(["tdisp", "responder"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut requests = child.stdin.take().unwrap();
    let mut responses = BufReader::new(child.stdout.take().unwrap());
    for (request, response) in [
        ("10810000000100000000000000000000", "100100000001000000000000000000000110\n"),
        ("!flr\n10850000000100000000000000000000", "1005000000010000000000000000000000\n"),
        ("10", "-\n"),
    ] {
        writeln!(requests, "{request}").unwrap();
        let mut line = String::new();
        responses.read_line(&mut line).unwrap();
        assert_eq!(line, response, "{request}");
    }
    drop(requests);
    assert!(child.wait().unwrap().success());
}

/// The verdicts of the requester over a command, in the order of the cases, and the exit code.
fn verdicts(options: &str, peer: &[&str]) -> (Vec<String>, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let options = options.split_whitespace();
    let output = command.args(["tdisp", "requester"]).args(options).arg("--").args(peer).output().unwrap();
    let lines = text(&output.stdout);
    let said = lines.lines().filter_map(|line| line.split_once(' ').filter(|(id, _)| id.starts_with('V')));
    let short = |(id, said): (&str, &str)| format!("{id} {}", said.split(':').next().unwrap());
    (said.map(short).collect(), code(&output))
}

#[test]
fn the_tdisp_requester_passes_our_responder_and_says_what_was_not_posed() {
    let tidegate = env!("CARGO_BIN_EXE_tidegate");
    let peer = [tidegate, "tdisp", "responder"];
    let not_posed = |said: &[String], but: &[&str]| {
        let posed = |line: &&String| !line.ends_with(" pass");
        said.iter().filter(posed).map(String::as_str).collect::<Vec<_>>() == but
    };
    let (said, code) = verdicts("", &peer);
    assert!(said.len() == 22 && not_posed(&said, &["V3.2 not posed"]) && code == 0, "{said:?}");
    let with_id = [&peer[..], &["--with-protocol-id", "--ide", "keyed", "--stream", "5"]].concat();
    let (said, code) = verdicts("--with-protocol-id --stream 5", &with_id);
    assert!(said.len() == 22 && not_posed(&said, &["V3.2 not posed"]) && code == 0, "{said:?}");
    let keyless = [&peer[..], &["--ide", "required"]].concat();
    for (options, peer, wanted, wanted_code) in [
        ("--without-keys", &keyless[..], ["V3.2 pass", "V3.1 not posed"], 0),
        ("", &keyless, ["V3.2 pass", "V3.1 not posed"], 0),
        ("--with-keys", &keyless, ["V3.2 not posed", "V3.1 fail"], 1),
        ("--without-keys", &peer, ["V3.2 fail", "V3.1 not posed"], 1),
    ] {
        let (said, code) = verdicts(options, peer);
        let there = wanted.iter().all(|line| said.contains(&(*line).into()));
        assert!(said.len() == 22 && there && code == wanted_code, "{options} {peer:?}: {said:?}");
    }
}

#[test]
fn the_tdisp_requester_gives_no_pass_to_a_peer_that_is_silent_or_not_there_or_talks_nonsense() {
    for (options, peer) in [
        ("", &["/nonexistent"][..]),
        ("", &["true"]),
        ("", &["cat"]),
        ("", &["yes", "-"]),
        ("", &["sh", "-c", "while read l; do echo nonsense; done"]),
        ("", &["sh", "-c", "exec >&-; exec sleep 1000"]),
        // A line that has no end: it is not read to the end of memory.
        ("--timeout 60", &["sh", "-c", "tr '\\0' 1 </dev/zero"]),
        ("--timeout 0", &["sleep", "1000"]),
    ] {
        let (said, code) = verdicts(options, peer);
        assert!(said.len() == 22 && code == 1, "{peer:?}");
        assert!(said.iter().all(|line| !line.ends_with(" pass")), "{peer:?}: {said:?}");
    }
}

#[test]
fn the_tdisp_requester_leaves_nothing_behind_that_the_command_started() {
    // The shell's own child holds the other end of stderr: it is gone where that ends without its word.
    let script = "(sleep 60; echo here >&2) & while read l; do echo -; done";
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(["tdisp", "requester", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!((code(&output), text(&output.stderr)), (1, String::new()));
}

#[test]
fn a_device_that_is_not_there_is_exit_code_1() {
    for arguments in
        ["vfio take ffff:fe:1f.7", "vfio give ffff:fe:1f.7", "topo ffff:fe:1f.7", "doctor ffff:fe:1f.7"]
    {
        assert_eq!(code(&tidegate(arguments)), 1, "{arguments}");
    }
}

#[test]
fn an_output_that_can_t_be_written_is_said_and_a_reader_that_went_away_is_fine() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("topo").stdout(full).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("could not be written"), "{}", text(&output.stderr));
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let mut child = child.arg("topo").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), text(&output.stderr)), (0, String::new()));
}

#[test]
fn doctor_prints_one_document_whose_problems_are_the_exit_code() {
    let (code, document) = doctor("");
    let problems = document["summary"]["problem"].as_u64().unwrap();
    assert_eq!(code, i32::from(problems > 0));
    let findings = document["findings"].as_array().unwrap();
    let counted = findings.iter().filter(|finding| finding["status"] == "problem").count() as u64;
    assert_eq!(counted, problems);
}

#[test]
fn on_the_testbed_s_kernel_nothing_is_a_problem_and_bars_can_be_exported() {
    if !guest() {
        return;
    }
    let (at, _) = device("ivshmem");
    let (code, document) = doctor(&format!(" --open {at}"));
    assert_eq!(code, 0, "{document:#}");
    for id in [
        "kernel.iommu",
        "kernel.map_file",
        "kernel.vfio_cdev",
        "kernel.dma_buf",
        "kernel.membarrier",
        "device.acs",
    ] {
        let mut findings =
            document["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == id).peekable();
        assert!(findings.peek().is_some(), "{id}");
        assert!(findings.all(|finding| finding["status"] == "ok"), "{id}: {document:#}");
    }
}

#[test]
fn give_is_refused_with_the_holder_s_number_while_the_device_is_open() {
    if !guest() {
        return;
    }
    let (at, node) = device("edu");
    let node = format!("/dev/vfio/devices/{node}");
    let held = OpenOptions::new().read(true).write(true).open(&node).unwrap();
    let refused = tidegate(&format!("vfio give {at}"));
    assert_eq!(code(&refused), 1);
    let stderr = text(&refused.stderr);
    assert!(
        refused.stdout.is_empty() && stderr.contains(&format!("kill {}", std::process::id())),
        "{stderr}"
    );
    drop(held);
    assert_eq!(code(&tidegate(&format!("vfio give {at}"))), 0);
    assert!(!std::path::Path::new(&node).exists());
    let taken = tidegate(&format!("vfio take {at}"));
    assert_eq!((code(&taken), text(&taken.stderr)), (0, String::new()));
    assert!(text(&taken.stdout).starts_with(&format!("{at} is with vfio-pci now (/dev/vfio/devices/")));
}

#[test]
fn topo_draws_the_guest_and_gives_a_verdict_for_each_pair() {
    if !guest() {
        return;
    }
    let ((nvme, _), (ivshmem, _)) = (device("nvme"), device("ivshmem"));
    let output = tidegate(&format!("topo --json {nvme} {ivshmem}"));
    assert_eq!(code(&output), 0);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let routes = document["routes"].as_array().unwrap();
    assert_eq!(routes.len(), 4);
    // The way leads up to the root complex, of which the kernel's list says nothing.
    assert_eq!(routes[1]["verdict"], "unknown", "{document:#}");
}
