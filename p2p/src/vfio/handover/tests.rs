//! Handovers on made-up machines, with a kernel that does what Linux does on each write, or refuses.

use super::*;
use crate::testing::{Scratch, scratch};
use std::io;
use std::sync::{Arc, Mutex};

const AT: &str = "0000:01:00.0";
const SIBLING: &str = "0000:01:00.1";

/// What the made-up kernel does with the n-th write to a file of this name.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Answers this errno.
    Errno(i32),
    /// Takes it and does nothing.
    Ignored,
    /// The process is killed before the write.
    Killed,
}

#[derive(Default)]
struct Faults(Vec<(&'static str, usize, Fault)>, Vec<String>);

struct Machine {
    root: Scratch,
    faults: Arc<Mutex<Faults>>,
}

impl Machine {
    /// An NVMe controller with the driver nvme, alone in group 7.
    fn new() -> Machine {
        let root = scratch("handover");
        for driver in ["nvme", "e1000e", "vfio-pci"] {
            root.write(&format!("sys/bus/pci/drivers/{driver}/unbind"), "");
        }
        root.write("sys/bus/pci/drivers_probe", "");
        root.dir("proc");
        let machine = Machine { root, faults: Arc::default() };
        machine.add(AT, "0x010802", "nvme", 7);
        machine
    }

    fn add(&self, at: &str, class: &str, driver: &str, group: u32) {
        let file = |name: &str| format!("sys/bus/pci/devices/{at}/{name}");
        for (name, text) in [
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("class", class),
            ("driver_override", "(null)"),
            ("knows", driver),
        ] {
            self.root.write(&file(name), &format!("{text}\n"));
        }
        self.root.link(&file("iommu_group"), &format!("../../../../kernel/iommu_groups/{group}"));
        self.root.dir(&format!("sys/kernel/iommu_groups/{group}/devices/{at}"));
        if !driver.is_empty() {
            self.root.link(&file("driver"), &format!("../../drivers/{driver}"));
        }
    }

    fn handover(&self) -> Handover {
        let (sysfs, faults) = (self.root.path().join("sys"), Arc::clone(&self.faults));
        let kernel = sysfs.clone();
        let store = move |file: &Path, text: &str| write(&kernel, &faults, file, text);
        Handover {
            bus: Bus::with(&sysfs, Box::new(store)),
            proc: self.root.path().join("proc"),
            notes: Notes::new(&self.root.path().join("run")),
        }
    }

    fn fault(&self, file: &'static str, nth: usize, fault: Fault) {
        self.faults.lock().unwrap().0.push((file, nth, fault));
    }

    fn heal(&self) {
        *self.faults.lock().unwrap() = Faults::default();
    }

    /// Driver, override, is there a note?
    fn state(&self, at: &str) -> (Option<String>, Option<String>, bool) {
        let bus = Bus::new(&self.root.path().join("sys"));
        let address = at.parse().unwrap();
        (bus.driver(address), bus.only(address), self.root.path().join("run").join(at).exists())
    }

    fn unlink_driver(&self, at: &str) {
        fs::remove_file(self.root.path().join(format!("sys/bus/pci/devices/{at}/driver"))).unwrap();
    }
}

/// The kernel: `drivers/base/bus.c`, as far as it matters here. A device's file `knows` names the driver whose table has its ids.
fn write(sysfs: &Path, faults: &Mutex<Faults>, file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let fault = {
        let mut faults = faults.lock().unwrap();
        faults.1.push(name.clone());
        let nth = faults.1.iter().filter(|earlier| **earlier == name).count();
        faults.0.iter().find(|(file, n, _)| *file == name && *n == nth).map(|fault| fault.2)
    };
    match fault {
        Some(Fault::Errno(errno)) => return Err(io::Error::from_raw_os_error(errno)),
        Some(Fault::Ignored) => return Ok(()),
        Some(Fault::Killed) => std::panic::resume_unwind(Box::new("killed")),
        None => {}
    }
    let device = |at: &str| sysfs.join("bus/pci/devices").join(at);
    match name.as_str() {
        "driver_override" => {
            let text = if text.trim().is_empty() { "(null)" } else { text.trim() };
            fs::write(file, format!("{text}\n"))
        }
        "unbind" => {
            let _vfio = fs::remove_dir_all(device(text).join("vfio-dev"));
            fs::remove_file(device(text).join("driver"))
        }
        "drivers_probe" => {
            if device(text).join("driver").exists() {
                return Ok(());
            }
            let read = |name: &str| fs::read_to_string(device(text).join(name)).unwrap().trim().to_owned();
            let driver = Some(read("driver_override"))
                .filter(|only| only != "(null)")
                .unwrap_or_else(|| read("knows"));
            if driver.is_empty() || !sysfs.join("bus/pci/drivers").join(&driver).is_dir() {
                return Ok(());
            }
            if driver == VFIO {
                fs::create_dir_all(device(text).join("vfio-dev/vfio3"))?;
                fs::write(device(text).join("vfio-dev/vfio3/dev"), "1:3\n")?;
            }
            std::os::unix::fs::symlink(format!("../../drivers/{driver}"), device(text).join("driver"))
        }
        other => panic!("a handover writes no {other}"),
    }
}

fn at() -> PciAddress {
    AT.parse().unwrap()
}

fn some(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn a_function_is_taken_and_given_back_to_its_old_driver() {
    let machine = Machine::new();
    let handover = machine.handover();
    let taken = handover.take(at()).unwrap();
    assert_eq!((taken.changed, taken.driver, taken.node), (true, some("nvme"), some("vfio3")));
    assert_eq!(machine.state(AT), (some("vfio-pci"), some("vfio-pci"), true));
    let given = handover.give(at()).unwrap();
    assert_eq!(given, Given { at: at(), changed: true, driver: some("nvme"), noted: true });
    assert_eq!(machine.state(AT), (some("nvme"), None, false));
}

#[test]
fn both_can_be_repeated_and_change_nothing_the_second_time() {
    let machine = Machine::new();
    let handover = machine.handover();
    handover.take(at()).unwrap();
    let again = handover.take(at()).unwrap();
    assert_eq!((again.changed, again.driver), (false, some("nvme")));
    handover.give(at()).unwrap();
    machine.heal();
    let again = handover.give(at()).unwrap();
    assert_eq!((again.changed, again.driver), (false, some("nvme")));
    assert!(machine.faults.lock().unwrap().1.is_empty(), "nothing was written");
}

#[test]
fn an_override_and_a_missing_driver_come_back_as_they_were() {
    let machine = Machine::new();
    machine.root.write(&format!("sys/bus/pci/devices/{AT}/driver_override"), "nvme\n");
    machine.handover().take(at()).unwrap();
    machine.handover().give(at()).unwrap();
    assert_eq!(machine.state(AT), (some("nvme"), some("nvme"), false));
    let machine = Machine::new();
    machine.unlink_driver(AT);
    assert_eq!(machine.handover().take(at()).unwrap().driver, None);
    assert_eq!(machine.handover().give(at()).unwrap().driver, None);
    assert_eq!(machine.state(AT), (None, None, false), "it had no driver, so none was asked");
}

#[test]
fn without_a_note_the_kernel_chooses_by_the_ids() {
    let machine = Machine::new();
    machine.handover().take(at()).unwrap();
    fs::remove_file(machine.root.path().join("run").join(AT)).unwrap();
    let given = machine.handover().give(at()).unwrap();
    assert_eq!((given.driver, given.noted), (some("nvme"), false));
    // Another device was at this address before: its note is none.
    machine.handover().take(at()).unwrap();
    machine.root.write(&format!("sys/bus/pci/devices/{AT}/device"), "0x10d3\n");
    machine.root.write(&format!("sys/bus/pci/devices/{AT}/knows"), "e1000e\n");
    let given = machine.handover().give(at()).unwrap();
    assert_eq!((given.driver, given.noted), (some("e1000e"), false));
}

/// Kills a handover before each of its writes in turn, and checks that the next one ends well.
fn killed_everywhere(
    first: fn(&Handover) -> bool,
    then: fn(&Handover),
    end: (Option<String>, Option<String>, bool),
) {
    let mut kills = 0;
    for file in ["driver_override", "unbind", "drivers_probe"] {
        for taken in [false, true] {
            let machine = Machine::new();
            if taken {
                machine.handover().take(at()).unwrap();
                machine.heal();
            }
            machine.fault(file, 1, Fault::Killed);
            let handover = machine.handover();
            let dead = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| first(&handover))).is_err();
            kills += usize::from(dead);
            drop(handover);
            machine.heal();
            then(&machine.handover());
            assert_eq!(machine.state(AT), end, "killed before {file}, taken before: {taken}");
        }
    }
    assert_eq!(kills, 3, "each write of one handover");
}

#[test]
fn a_take_killed_anywhere_is_finished_by_the_next_take_and_undone_by_give() {
    let take: fn(&Handover) -> bool = |handover| handover.take(at()).is_ok();
    let taken = (some("vfio-pci"), some("vfio-pci"), true);
    killed_everywhere(
        take,
        |handover| {
            let taken = handover.take(at()).unwrap();
            assert_eq!(taken.driver, some("nvme"), "the old driver is still known");
        },
        taken,
    );
    killed_everywhere(take, |handover| drop(handover.give(at()).unwrap()), (some("nvme"), None, false));
}

#[test]
fn a_give_killed_anywhere_is_finished_by_the_next_give_or_taken_back() {
    let give: fn(&Handover) -> bool = |handover| handover.give(at()).is_ok();
    killed_everywhere(give, |handover| drop(handover.give(at()).unwrap()), (some("nvme"), None, false));
    let take = |handover: &Handover| {
        assert_eq!(handover.take(at()).unwrap().driver, some("nvme"), "the old driver is still known");
    };
    killed_everywhere(give, take, (some("vfio-pci"), some("vfio-pci"), true));
}

#[test]
fn an_override_from_before_a_killed_take_is_not_forgotten() {
    let machine = Machine::new();
    machine.root.write(&format!("sys/bus/pci/devices/{AT}/driver_override"), "nvme\n");
    machine.fault("unbind", 1, Fault::Killed);
    let handover = machine.handover();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handover.take(at()))).is_err());
    machine.heal();
    machine.handover().take(at()).unwrap();
    machine.handover().give(at()).unwrap();
    assert_eq!(machine.state(AT), (some("nvme"), some("nvme"), false));
}

#[test]
fn each_step_of_a_take_that_fails_is_undone_and_keeps_its_errno() {
    for (file, nth, fault, step, why) in [
        ("driver_override", 1, Fault::Errno(libc::EACCES), Step::Override, Why::Errno(libc::EACCES)),
        ("driver_override", 1, Fault::Ignored, Step::Override, Why::ReadsBack(None)),
        ("unbind", 1, Fault::Errno(libc::EBUSY), Step::Unbind, Why::Errno(libc::EBUSY)),
        ("unbind", 1, Fault::Ignored, Step::Unbind, Why::Driver { wanted: None, found: some("nvme") }),
        ("drivers_probe", 1, Fault::Errno(libc::EINVAL), Step::Probe, Why::Errno(libc::EINVAL)),
        (
            "drivers_probe",
            1,
            Fault::Ignored,
            Step::Probe,
            Why::Driver { wanted: some("vfio-pci"), found: None },
        ),
    ] {
        let machine = Machine::new();
        machine.fault(file, nth, fault);
        let error = machine.handover().take(at()).unwrap_err();
        let failed = FailedStep { step, why, after: After::Undone };
        assert_eq!(error, HandoverError::Step { at: at(), failed: failed.into() });
        assert_eq!(machine.state(AT), (some("nvme"), None, false), "{error}");
    }
}

#[test]
fn a_give_whose_old_driver_is_gone_leaves_the_function_with_vfio_and_the_note_in_place() {
    let machine = Machine::new();
    machine.handover().take(at()).unwrap();
    fs::remove_dir_all(machine.root.path().join("sys/bus/pci/drivers/nvme")).unwrap();
    let error = machine.handover().give(at()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "0000:01:00.0: write drivers_probe: it should be with driver nvme and is with no driver; all is as it was before"
    );
    assert_eq!(machine.state(AT), (some("vfio-pci"), some("vfio-pci"), true));
    machine.root.write("sys/bus/pci/drivers/nvme/unbind", "");
    assert_eq!(machine.handover().give(at()).unwrap().driver, some("nvme"));
}

#[test]
fn an_undo_that_fails_says_where_the_function_is_and_keeps_the_note() {
    let machine = Machine::new();
    machine.fault("drivers_probe", 1, Fault::Ignored);
    machine.fault("drivers_probe", 2, Fault::Errno(libc::EIO));
    let error = machine.handover().take(at()).unwrap_err();
    let after = After::Left { driver: None, step: Step::Probe, why: Why::Errno(libc::EIO) };
    assert!(matches!(&error, HandoverError::Step { failed, .. } if failed.after == after), "{error:?}");
    assert!(error.to_string().contains("no driver now, `give` can be tried again"), "{error}");
    machine.heal();
    // The undo had named the old driver already.
    assert_eq!(machine.handover().give(at()).unwrap().driver, some("nvme"));
}

#[test]
fn give_refuses_while_a_process_has_the_function_open_and_names_it() {
    let machine = Machine::new();
    machine.handover().take(at()).unwrap();
    machine.root.write("proc/42/comm", "dataplane\n");
    machine.root.link("proc/42/fd/5", "/dev/null");
    machine.heal();
    let error = machine.handover().give(at()).unwrap_err();
    assert_eq!(error.to_string(), "0000:01:00.0: open in process 42 (dataplane) by its VFIO device");
    assert!(machine.faults.lock().unwrap().1.is_empty(), "nothing was written");
    fs::remove_dir_all(machine.root.path().join("proc/42")).unwrap();
    machine.handover().give(at()).unwrap();
}

#[test]
fn give_refuses_while_the_kernel_has_a_tdi_bound() {
    let machine = Machine::new();
    machine.handover().take(at()).unwrap();
    machine.root.write(&format!("sys/bus/pci/devices/{AT}/tsm/bound"), "tsm0\n");
    assert_eq!(machine.handover().give(at()), Err(HandoverError::Bound { at: at(), tsm: "tsm0".into() }));
    machine.root.write(&format!("sys/bus/pci/devices/{AT}/tsm/bound"), "\n");
    machine.handover().give(at()).unwrap();
}

#[test]
fn a_group_that_is_not_viable_names_all_members_and_nothing_is_changed() {
    let machine = Machine::new();
    machine.add(SIBLING, "0x020000", "e1000e", 7);
    machine.add("0000:00:1c.0", "0x060400", "", 7);
    let error = machine.handover().take(at()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("its members: 0000:00:1c.0 (no driver), 0000:01:00.0 (nvme), 0000:01:00.1 (e1000e)"),
        "{error}"
    );
    assert_eq!(machine.state(AT), (some("nvme"), None, false));
}

#[test]
fn a_group_is_taken_without_its_bridges_or_not_at_all() {
    let machine = Machine::new();
    machine.add(SIBLING, "0x020000", "e1000e", 7);
    machine.add("0000:00:1c.0", "0x060400", "", 7);
    let all = machine.handover().take_group(at()).unwrap();
    assert_eq!(all.iter().map(|taken| taken.at.to_string()).collect::<Vec<_>>(), [AT, SIBLING]);
    assert!(all[0].group.1.iter().all(|member| member.driver.as_deref() != Some("e1000e")));
    machine.handover().give(at()).unwrap();
    machine.handover().give(SIBLING.parse().unwrap()).unwrap();
    machine.heal();
    // The second one fails: the first goes back.
    machine.fault("unbind", 2, Fault::Errno(libc::EBUSY));
    let error = machine.handover().take_group(at()).unwrap_err();
    assert!(
        matches!(&error, HandoverError::Step { at, failed } if at.function == 1 && failed.step == Step::Unbind)
    );
    assert_eq!(machine.state(AT), (some("nvme"), None, false));
    assert_eq!(machine.state(SIBLING), (some("e1000e"), None, false));
}

#[test]
fn what_can_t_be_taken_is_refused_with_the_reason() {
    let refused = |machine: &Machine, at: &str| machine.handover().take(at.parse().unwrap()).unwrap_err();
    let machine = Machine::new();
    assert!(matches!(refused(&machine, "0000:09:00.0"), HandoverError::Missing { .. }));
    machine.add("0000:00:1c.0", "0x060400", "pcieport", 8);
    assert!(matches!(
        refused(&machine, "0000:00:1c.0"),
        HandoverError::NotAnEndpoint { class: 0x06_0400, .. }
    ));
    fs::remove_file(machine.root.path().join(format!("sys/bus/pci/devices/{AT}/iommu_group"))).unwrap();
    assert!(matches!(refused(&machine, AT), HandoverError::NoIommu { .. }));
    let machine = Machine::new();
    fs::remove_dir_all(machine.root.path().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    assert!(matches!(refused(&machine, AT), HandoverError::NoDriver));
    let machine = Machine::new();
    machine.root.write(&format!("sys/bus/pci/devices/{AT}/nvme/nvme0/nvme0n1/dev"), "259:0\n");
    machine.root.link("sys/class/block/nvme0n1", &format!("../../bus/pci/devices/{AT}/nvme/nvme0/nvme0n1"));
    machine.root.write("proc/self/mountinfo", "22 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
    assert!(matches!(refused(&machine, AT), HandoverError::InUse { .. }));
    assert_eq!(machine.state(AT), (some("nvme"), None, false));
}
