//! The tree of a machine with one switch, as text, JSON and picture.

use super::*;
use crate::cli::loader;
use crate::cli::testing::{Scratch, scratch};

const MACHINE: &str = include_str!("../../../p2p/machines/one-switch-acs-on.txt");

fn machine() -> (Scratch, Places) {
    let root = scratch("topo");
    root.dir("sys");
    loader::lay_out(MACHINE, &root.path().join("sys")).unwrap();
    let places = Places::below(root.path());
    (root, places)
}

fn arguments() -> Arguments {
    Arguments { devices: Vec::new(), why: false, json: false, svg: None }
}

fn output(arguments: &Arguments, places: &Places) -> (Ended, String, String) {
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let ended = run(arguments, places, &mut out, &mut complaints).unwrap();
    (ended, String::from_utf8(out).unwrap(), String::from_utf8(complaints).unwrap())
}

#[test]
fn the_text_has_every_function_in_its_place_and_every_verdict() {
    let (_root, places) = machine();
    let (ended, text, complaints) = output(&arguments(), &places);
    assert_eq!((ended, complaints.as_str()), (Ended::Well, ""));
    for line in [
        "IOMMUs: dmar0; Intel CPU of family 0x6",
        "pci0000:16  hands peer requests on, says the kernel's list",
        "  0000:16:02.0 8086:347a root port  [pcieport]  group 1  node 0  ACS SV|RR|CR|UF",
        "        0000:19:00.0 10de:2330 endpoint  [vfio-pci]  group 10  node 0  BAR0 16 MiB  BAR1 128 GiB",
        "0000:19:00.0  2 x R R R R",
        "S switch-direct, R via-root-complex, ? unknown, x impossible; `--why` explains each",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn named_devices_alone_are_in_the_matrix_and_why_explains_each_pair() {
    let (_root, places) = machine();
    let devices = vec!["19:00.0".parse().unwrap(), "1b:00.0".parse().unwrap()];
    let (_, text, _) = output(&Arguments { devices, why: true, ..arguments() }, &places);
    assert!(text.contains("0000:1b:00.0  2 R R\n"), "{text}");
    assert_eq!(text.matches(" -> ").count(), 4, "each pair, itself too");
    assert!(text.contains("0000:19:00.0 -> 0000:1b:00.0: via-root-complex\n  because "), "{text}");
}

#[test]
fn a_device_that_is_not_there_and_a_tree_that_is_not_there_are_refused() {
    let (root, places) = machine();
    let devices = vec!["42:00.0".parse().unwrap()];
    let (ended, text, complaints) = output(&Arguments { devices, ..arguments() }, &places);
    assert_eq!((ended, text.as_str()), (Ended::Badly, ""));
    assert!(complaints.contains("0000:42:00.0"));
    std::fs::remove_dir_all(root.path().join("sys")).unwrap();
    assert_eq!(output(&arguments(), &places).0, Ended::Badly);
}

#[test]
fn json_has_the_functions_and_an_explained_route_for_each_pair() {
    let (_root, places) = machine();
    let (_, text, _) = output(&Arguments { json: true, ..arguments() }, &places);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["functions"].as_array().unwrap().len(), 11);
    assert_eq!(document["routes"].as_array().unwrap().len(), 25);
    let gpu = document["functions"].as_array().unwrap().iter().find(|f| f["at"] == "0000:19:00.0").unwrap();
    assert_eq!((&gpu["parent"], &gpu["bars"][1]["bytes"]), (&json!("0000:18:00.0"), &json!(128u64 << 30)));
    assert_eq!(document["routes"][6]["verdict"], "via-root-complex");
    assert!(document["routes"][6]["reasons"][0]["code"].is_string());
}

#[test]
fn the_picture_has_every_function_and_a_cell_a_pair() {
    let (root, places) = machine();
    let file = root.path().join("topo.svg");
    let (ended, ..) = output(&Arguments { svg: Some(file.clone()), ..arguments() }, &places);
    assert_eq!(ended, Ended::Well);
    let svg = std::fs::read_to_string(&file).unwrap();
    let tree = Topology::read(&places.sysfs).unwrap();
    for function in tree.functions() {
        assert!(
            svg.contains(&format!("{} {:04x}:{:04x}", function.at, function.vendor, function.device)),
            "{}",
            function.at
        );
    }
    let cells = |colour: &str| svg.matches(&format!("fill=\"{colour}\"")).count();
    // One more each in the legend.
    assert_eq!((cells("#BBDEFB"), cells("#E0E0E0")), (20 + 1, 5 + 1), "{svg}");
    let nowhere = Arguments { svg: Some(root.path().join("no/such/directory/topo.svg")), ..arguments() };
    let (ended, _, complaints) = output(&nowhere, &places);
    assert_eq!(ended, Ended::Badly);
    assert!(complaints.contains("topo.svg"), "{complaints}");
}
