//! The targets on what is kept of earlier runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use tidegate_fuzz::{Seen, targets};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(name: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(corpus().join(format!("{name}.txt"))).unwrap_or_default();
    let byte = |line: &str, at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    text.lines().map(|line| (0..line.len()).step_by(2).map(|at| byte(line, at)).collect()).collect()
}

#[test]
fn every_target_holds_on_its_corpus_which_has_a_message_that_is_taken_and_one_that_is_not() {
    for target in targets() {
        let seen: BTreeSet<bool> =
            inputs(target.name).iter().map(|input| (target.run)(input) == Seen::Taken).collect();
        assert_eq!(seen.len(), 2, "{}: taken and refused: {seen:?}", target.name);
    }
}

#[test]
fn each_file_of_the_corpus_has_a_target() {
    let names: BTreeSet<_> = targets().map(|target| format!("{}.txt", target.name)).collect();
    let files = fs::read_dir(corpus()).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there = |file: &String| cfg!(feature = "set-config") || !file.starts_with("set_tdisp_config");
    let files: BTreeSet<_> = files.filter(there).collect();
    assert_eq!(files, names);
}
