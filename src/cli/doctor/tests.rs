//! The doctor as a whole, on a made-up machine.

use super::*;
use crate::cli::testing::scratch;

fn arguments() -> Arguments {
    Arguments { devices: Vec::new(), json: true, open: None, memory: 1 }
}

#[test]
fn the_exit_code_tells_whether_something_is_a_problem() {
    let bare = scratch("doctor");
    let mut out = Vec::new();
    assert_eq!(run(&arguments(), &Places::below(bare.path()), &mut out).unwrap(), Ended::Badly);
    let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert!(document["summary"]["problem"].as_u64().unwrap() > 0);
    let problems = |all: &[Finding]| count(all, Status::Problem);
    let fine = Finding { status: Status::Warning, ..kernel::vfio_pci(bare.path()) };
    assert_eq!(problems(&[fine]), 0, "a warning is none");
}

#[test]
fn the_ids_are_these_and_each_comes_once_a_device() {
    let root = scratch("doctor");
    for (at, class) in
        [("0000:00:1c.0", "0x060400"), ("0000:01:00.0", "0x010802"), ("0000:02:00.0", "0x020000")]
    {
        root.write(&format!("sys/bus/pci/devices/{at}/class"), &format!("{class}\n"));
    }
    let all = examine(&arguments(), &Places::below(root.path()));
    let ids: Vec<_> = all.iter().filter(|finding| finding.at.is_none()).map(|finding| finding.id).collect();
    assert_eq!(
        ids,
        [
            "kernel.iommu",
            "kernel.iommufd",
            "kernel.ioas",
            "kernel.map_file",
            "kernel.vfio_pci",
            "kernel.vfio_cdev",
            "kernel.dma_buf",
            "kernel.membarrier",
            "io_uring.setup",
            "io_uring.buffers",
            "io_uring.sqpoll",
            "io_uring.iopoll",
            "memory.locked",
            "memory.huge_pages",
            "memory.shared_huge",
        ]
    );
    let devices: Vec<_> = all.iter().filter_map(|finding| Some((finding.at?.bus, finding.id))).collect();
    assert_eq!(
        devices,
        [(1, "device.driver"), (2, "device.driver")],
        "bridges are left out, and groups where the machine has none"
    );
    let named = Arguments { devices: vec!["0000:02:00.0".parse().unwrap()], ..arguments() };
    let all = examine(&named, &Places::below(root.path()));
    let devices: Vec<_> =
        all.iter().filter(|finding| finding.at.is_some()).map(|finding| finding.id).collect();
    assert_eq!(
        devices,
        ["device.driver", "device.group", "device.decode", "device.bars", "device.acs", "device.reset"]
    );
}

#[test]
fn whatever_is_not_well_says_why_it_matters_and_what_to_do() {
    let bare = scratch("doctor");
    for finding in examine(&arguments(), &Places::below(bare.path())) {
        assert!(
            !finding.tried.is_empty() && !finding.answered.is_empty() && !finding.why.is_empty(),
            "{finding}"
        );
        assert!(finding.status == Status::Ok || finding.fix.is_some(), "{finding}");
    }
}
