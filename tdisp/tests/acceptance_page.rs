//! docs/tdisp-acceptance.md names tests: each of them is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all tests in the Rust files below.
fn tests(below: &Path, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let marked = text.split("#[test]").skip(1).filter_map(|rest| rest.split_once("fn "));
            all.extend(marked.filter_map(|(_, rest)| rest.split_once('(')).map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let mut all = BTreeSet::new();
    for folder in ["tdisp/src", "tdisp/tests", "p2p/src"] {
        tests(&root().join(folder), &mut all);
    }
    let page = fs::read_to_string(root().join("docs/tdisp-acceptance.md")).unwrap();
    let quoted = page.split('`').skip(1).step_by(2);
    // Anything else in quotes is a file, a command or a target.
    let named: Vec<_> = quoted.filter(|word| word.contains('_') && !word.contains(['/', ' '])).collect();
    assert!(named.len() > 80, "{}", named.len());
    let missing: Vec<_> = named.into_iter().filter(|name| !all.contains(*name)).collect();
    assert_eq!(missing, [""; 0]);
}
