//! Every machine of the folder, against the matrix that its file argues for.

use super::*;
use crate::route::{Kind, TopologyError};
use std::path::Path;

/// Checks a machine against the lines of its file: `matrix` and the rows that follow it, `why` and `change`.
fn check(name: &str, text: &str) {
    let machine = machine(text);
    let devices: Vec<PciAddress> = machine
        .functions()
        .iter()
        .filter(|f| !f.kind.is_port() && f.kind != Kind::HostBridge)
        .map(|f| f.at)
        .collect();
    let lines = || text.lines().map(|line| line.split(" #").next().unwrap().split_whitespace().collect());
    let lines: Vec<Vec<&str>> = lines().collect();
    let start = lines.iter().position(|line| line.first() == Some(&"matrix")).expect(name);
    let columns: Vec<PciAddress> = lines[start][1..].iter().map(|text| at(text)).collect();
    assert_eq!(columns, devices, "{name}: the matrix has a column for each device");
    for (row, from) in devices.iter().enumerate() {
        let line = &lines[start + 1 + row];
        assert_eq!(at(line[0]), *from, "{name}: and a row, in order");
        let found: Vec<String> =
            devices.iter().map(|to| cell(&machine.verdict(*from, *to).unwrap())).collect();
        assert_eq!(found, line[1..], "{name}: {from} to {devices:?}");
    }
    for line in &lines[start + 1 + devices.len()..] {
        match line.as_slice() {
            ["why", from, to, codes @ ..] => {
                let route = route(&machine, from, to);
                let found: Vec<_> = route.reasons.iter().map(|reason| reason.code()).collect();
                assert_eq!(found, codes, "{name}: why {from} -> {to}\n{}", route.explain());
            }
            ["change", from, to, codes @ ..] => {
                let route = route(&machine, from, to);
                let found: Vec<_> = route.changes.iter().map(|change| change.code()).collect();
                assert_eq!(found, codes, "{name}: change {from} -> {to}\n{}", route.explain());
            }
            [] | ["#", ..] => {}
            other => panic!("{name}: {other:?}"),
        }
    }
    // What no matrix has room for.
    for port in machine.functions().iter().filter(|f| !devices.contains(&f.at)) {
        for to in machine.functions() {
            let route = machine.verdict(port.at, to.at).unwrap();
            assert_eq!(route.verdict, Verdict::Impossible, "{name}: {} makes no requests", port.at);
        }
    }
    for (from, to) in devices.iter().flat_map(|a| devices.iter().map(move |b| (*a, *b))) {
        let route = machine.verdict(from, to).unwrap();
        assert!(!route.reasons.is_empty(), "{name}: {from} -> {to} has a reason");
        assert!(route.explain().to_string().starts_with(&format!("{from} -> {to}: {}", route.verdict)));
        let json = route.explain().json();
        assert!(json.contains(&format!("\"verdict\":\"{}\"", route.verdict)), "{json}");
    }
}

macro_rules! machines {
    ($($name:ident: $file:literal,)*) => {
        $(#[test]
        fn $name() {
            check($file, include_str!(concat!("../../../machines/", $file, ".txt")));
        })*

        #[test]
        fn every_machine_of_the_folder_has_a_test() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("machines");
            let mut files: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
                .filter_map(|name| Some(name.strip_suffix(".txt")?.to_owned()))
                .collect();
            files.sort();
            let mut named = vec![$($file),*];
            named.sort_unstable();
            assert_eq!(files, named);
        }
    };
}

machines! {
    one_switch_with_acs_goes_by_the_root_complex: "one-switch-acs-on",
    one_switch_without_iommu_or_acs_is_direct: "one-switch-no-iommu",
    two_amd_sockets_pass_everything_on: "two-sockets-amd",
    two_intel_sockets_pass_on_within_one_only: "two-sockets-intel",
    redirection_at_either_end_sends_up: "acs-on-no-iommu",
    virtual_functions_with_ats_turn_around_where_ports_let_them: "vfs-ats",
    functions_of_one_device_are_the_devices_business: "multifunction-no-iommu",
    an_unlisted_host_bridge_is_unknown: "desktop-intel",
    without_privilege_and_iommu_redirection_is_taken_for_off: "unprivileged",
    without_privilege_but_with_an_iommu_for_on: "unprivileged-iommu",
    what_no_request_can_reach_is_impossible: "arm-odd",
}

#[test]
fn this_machine_can_be_read() {
    match Topology::read(Path::new("/sys")) {
        Ok(machine) => {
            for (a, b) in
                machine.functions().iter().flat_map(|a| machine.functions().iter().map(move |b| (a, b)))
            {
                let route = machine.verdict(a.at, b.at).unwrap();
                assert!(!route.reasons.is_empty(), "{route:?}");
            }
        }
        // A machine without PCI, or a sandbox without sysfs.
        Err(TopologyError::Sysfs { path, .. }) => assert!(path.starts_with("/sys")),
        Err(other) => panic!("{other}"),
    }
}
