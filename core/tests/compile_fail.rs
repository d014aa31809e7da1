//! Programs that must not compile, for the stated reason.
//!
//! Each file of `ui/` names what it expects: `//~ CODE words`, the code of its errors and words of their messages
//! (ours, or names; long phrases of the compiler's are avoided, since they change from release to release). An error
//! with another code or message, or none at all, fails the test.
//! `ui/compiles.rs` expects none.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Code and message of every error, by program.
type Errors = BTreeMap<String, Vec<(String, String)>>;

#[test]
fn what_must_not_compile_does_not_for_the_stated_reason() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut expected: BTreeMap<String, Option<(String, String)>> = BTreeMap::new();
    for entry in fs::read_dir(here.join("tests/ui")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let wanted = text.lines().find_map(|line| line.strip_prefix("//~ ")).map(|line| {
            let (code, words) = line.split_once(' ').unwrap_or((line, ""));
            (code.to_owned(), words.to_owned())
        });
        expected.insert(path.file_stem().unwrap().to_string_lossy().into_owned(), wanted);
    }
    assert!(expected.len() > 10, "{expected:?}");
    let errors = check(here, expected.keys());
    let mut wrong = Vec::new();
    for (program, wanted) in &expected {
        let found = errors.get(program).map(Vec::as_slice).unwrap_or_default();
        let right = match (wanted, found) {
            (None, []) => true,
            (None, _) | (Some(_), []) => false,
            (Some((code, words)), all) => {
                all.iter().all(|(found, message)| code == found && message.contains(words.as_str()))
            }
        };
        if !right {
            wrong.push(format!("{program}: wanted {wanted:?}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Checks all programs in one run of cargo, in a package of their own under the target directory.
fn check<'a>(here: &Path, programs: impl Iterator<Item = &'a String>) -> Errors {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    let package = target.join("package");
    fs::create_dir_all(&package).unwrap();
    let mut manifest = format!(
        "[package]\nname = \"compile-fail\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [workspace]\n\n[dependencies]\ntidegate-core = {{ path = {here:?} }}\n"
    );
    for program in programs {
        let path = here.join("tests/ui").join(format!("{program}.rs"));
        manifest.push_str(&format!("\n[[bin]]\nname = {program:?}\npath = {path:?}\n"));
    }
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    // The versions that the workspace has locked: those are at hand.
    let _ = fs::copy(here.join("../Cargo.lock"), package.join("Cargo.lock"));
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--bins", "--keep-going", "--quiet", "--message-format=json"])
        .current_dir(&package)
        .env("CARGO_TARGET_DIR", target.join("target"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    let mut errors = Errors::new();
    let mut built = false;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let name = message["target"]["name"].as_str().unwrap_or_default();
        built |= message["reason"] == "compiler-artifact" && name == "tidegate_core";
        let (level, text) = (&message["message"]["level"], message["message"]["message"].as_str());
        let Some(text) = text.filter(|t| level == "error" && !t.starts_with("aborting")) else { continue };
        let code = message["message"]["code"]["code"].as_str().unwrap_or_default();
        errors.entry(name.to_owned()).or_default().push((code.to_owned(), text.to_owned()));
    }
    assert!(built, "the library itself: {}", String::from_utf8_lossy(&output.stderr));
    errors
}
