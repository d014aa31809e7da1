//! Single rules, on machines made for them.

use super::*;
use crate::pci::extended::AcsBits;
use crate::route::{AcsState, Change, HostRule, Kind, Reason, TopologyError, Virtual};

const ONE_SWITCH: &str = include_str!("../../../machines/one-switch-acs-on.txt");

#[test]
fn the_tree_is_read_as_it_is() {
    let machine = machine(ONE_SWITCH);
    let kinds: Vec<Kind> = machine.upward(at("19:00.0")).map(|f| f.kind).collect();
    assert_eq!(kinds, [Kind::Endpoint, Kind::SwitchDownstream, Kind::SwitchUpstream, Kind::RootPort]);
    let gpu = machine.function(at("19:00.0")).unwrap();
    assert_eq!((gpu.vendor, gpu.device, gpu.class, gpu.group), (0x10de, 0x2330, 0x03_0200, Some(10)));
    assert_eq!((gpu.driver.as_deref(), gpu.iommu.as_deref()), (Some("vfio-pci"), Some("dmar0")));
    assert_eq!((gpu.decode.memory, gpu.decode.master), (Some(true), Some(false)));
    assert_eq!((gpu.acs, gpu.sriov), (AcsState::Without, Virtual::No));
    let sizes: Vec<_> = gpu.bars.iter().map(|bar| (bar.index, bar.bytes(), bar.is_wide())).collect();
    assert_eq!(sizes, [(0, 1 << 24, false), (1, 1 << 37, true)]);
    let port = machine.function(at("18:00.0")).unwrap();
    let AcsState::With(acs) = port.acs else { panic!("{:?}", port.acs) };
    assert_eq!((acs.at, acs.able, acs.on), (0x100, AcsBits(0x5f), AcsBits(0x1d)));
    let host = machine.hosts()[0];
    assert_eq!((host.rule, host.first), (HostRule::Listed, Some((at("16:00.0"), 0x8086, 0x09a2))));
    assert_eq!(machine.children(host.id, None).count(), 3);
    assert_eq!(machine.children(host.id, Some(at("17:00.0"))).count(), 3);
    assert_eq!(machine.group(11).map(|f| f.at).collect::<Vec<_>>(), [at("1a:00.0")]);
    assert_eq!(machine.iommus(), ["dmar0"]);
}

#[test]
fn a_virtual_function_has_its_physical_ones_memory_enable_and_node() {
    let machine = self::machine(include_str!("../../../machines/vfs-ats.txt"));
    let (physical, own) =
        (machine.function(at("33:00.0")).unwrap(), machine.function(at("33:00.1")).unwrap());
    assert_eq!(physical.sriov, Virtual::Physical { enabled: 2, total: 8 });
    assert_eq!(own.sriov, Virtual::Of { physical: at("33:00.0") });
    assert_eq!((own.vendor, own.device), (0x15b3, 0x1022), "its config space says all-ones");
    assert_eq!((own.decode.memory, own.decode.master), (Some(true), Some(true)));
    assert_eq!(own.node, physical.node);
    assert!(own.ats.is_some_and(|ats| ats.on) && own.same_device(physical));
    // With VF MSE off it is the physical function that has to be told.
    let text = include_str!("../../../machines/vfs-ats.txt").replace("148:0900", "148:0100");
    let off = self::machine(&text);
    let change = Change::Decode { at: at("33:00.0"), of_virtual: true };
    assert!(route(&off, "34:00.0", "33:00.1").changes.contains(&change));
}

#[test]
fn a_group_without_an_iommu_behind_it_is_none() {
    let tree = scratch("noiommu");
    loader::lay_out(ONE_SWITCH, tree.path()).unwrap();
    tree.write("kernel/iommu_groups/10/name", "vfio-noiommu\n");
    let machine = Topology::read(tree.path()).unwrap();
    assert_eq!(machine.function(at("19:00.0")).unwrap().group, None);
    let route = route(&machine, "19:00.0", "1c:00.0");
    assert!(route.reasons.contains(&Reason::NoIommu { at: at("19:00.0") }), "{}", route.explain());
}

#[test]
fn host_memory_lies_where_both_are_near() {
    use tidegate_core::topology::{NodeId, Topology as Nodes};
    let machine = machine(include_str!("../../../machines/two-sockets-amd.txt"));
    let nodes = Nodes::synthetic("Package:2 [NUMANode] PU:1").unwrap();
    let between = |a, b| machine.node_between(at(a), at(b), &nodes);
    assert_eq!(between("01:00.0", "02:00.0"), Some(NodeId(0)));
    assert_eq!(between("81:00.0", "82:00.0"), Some(NodeId(1)));
    assert_eq!(between("81:00.0", "02:00.0"), Some(NodeId(1)), "as near to both: the initiator's");
    let flat = self::machine(include_str!("../../../machines/desktop-intel.txt"));
    assert_eq!(flat.node_between(at("01:00.0"), at("02:00.0"), &nodes), None);
    let told = nodes.with_device("0000:02:00.0", NodeId(1));
    assert_eq!(flat.node_between(at("01:00.0"), at("02:00.0"), &told), Some(NodeId(1)));
}

#[test]
fn distances_are_the_kernels() {
    let machine = machine(ONE_SWITCH);
    let distance = |from, to| route(&machine, from, to).distance;
    assert_eq!(distance("19:00.0", "19:00.0"), 0);
    assert_eq!(distance("19:00.0", "1a:00.0"), 4, "device, port, switch, port, device");
    assert_eq!(route(&machine, "19:00.0", "1a:00.0").meeting, Some(at("17:00.0")));
    assert_eq!(route(&machine, "19:00.0", "1c:00.0").meeting, None);
}

#[test]
fn who_is_not_there_is_named() {
    let gone = machine(ONE_SWITCH).verdict(at("19:00.0"), at("99:00.0"));
    assert_eq!(gone, Err(TopologyError::Missing { at: at("99:00.0") }));
    let none = Topology::read(std::path::Path::new("/nowhere")).unwrap_err();
    assert!(matches!(none, TopologyError::Sysfs { errno: libc::ENOENT, .. }), "{none:?}");
}

#[test]
fn commands_clear_the_bits_that_are_set_and_one_option_names_all_ports() {
    let ports = vec![(at("18:00.0"), AcsBits(0xc)), (at("18:01.0"), AcsBits(0x2c))];
    let change = Change::ClearRedirect { at: ports };
    assert_eq!(
        change.commands(),
        ["setpci -s 0000:18:00.0 ECAP_ACS+6.w=0:c", "setpci -s 0000:18:01.0 ECAP_ACS+6.w=0:2c"]
    );
    let option = "pci=disable_acs_redir=0000:18:00.0;0000:18:01.0";
    assert_eq!(change.boot_option().as_deref(), Some(option));
    let decode = |of_virtual| Change::Decode { at: at("19:00.0"), of_virtual }.commands();
    assert_eq!(decode(false), ["setpci -s 0000:19:00.0 COMMAND=2:2"]);
    assert_eq!(decode(true), ["setpci -s 0000:19:00.0 ECAP_SRIOV+8.w=8:8"]);
}

#[test]
fn a_function_outside_of_any_host_bridge_is_refused_by_name() {
    let tree = scratch("nowhere");
    loader::lay_out(ONE_SWITCH, tree.path()).unwrap();
    tree.write("devices/virtual/0000:99:00.0/vendor", "0x1af4\n");
    tree.write("devices/virtual/0000:99:00.0/resource", "");
    tree.link("bus/pci/devices/0000:99:00.0", "../../../devices/virtual/0000:99:00.0");
    let error = Topology::read(tree.path()).unwrap_err();
    assert!(matches!(&error, TopologyError::Place { at: found, .. } if *found == at("99:00.0")), "{error}");
}

#[test]
fn a_reason_names_its_place_for_people_and_for_programs() {
    let reason = Reason::Redirect { at: at("18:00.0"), bits: AcsBits(0xc) };
    assert_eq!(reason.to_string(), "ACS at 0000:18:00.0 sends peer requests up (RR|CR)");
    assert_eq!(
        reason.json(),
        r#"{"code":"redirect","at":"0000:18:00.0","bits":"RR|CR","text":"ACS at 0000:18:00.0 sends peer requests up (RR|CR)"}"#
    );
}
