//! `tidegate vfio take` and `tidegate vfio give`.

use super::Ended;
use super::places::Places;
use clap::{Args, Subcommand};
use std::io::{self, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use tidegate::p2p::PciAddress;
use tidegate::p2p::vfio::handover::{After, FailedStep, Given, Handover, HandoverError, Taken, Why};

/// After so long without an answer of the kernel's it is said what it waits for.
const QUIET: Duration = Duration::from_secs(5);

/// Hands a device to VFIO, and gives it back to its driver.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Takes a device from its driver and hands it to vfio-pci, so that programs can use it.
    ///
    /// Writes down the driver that has it, then writes driver_override, driver/unbind and drivers_probe. Each write is checked; if
    /// one fails, those before it are undone. Running it again changes nothing.
    ///
    /// Refused, with the reason and without changing anything: bridges; devices without an IOMMU group; devices that this machine
    /// uses (a mounted file system, swap, virtual functions, a network interface that is up); devices that share their group with others that are
    /// with a driver of the host (see --group).
    ///
    /// Changes: the driver of the device, its driver_override, a note in /run/tidegate/vfio. A reboot undoes all of it.
    ///
    /// Needs root. Next: start your program, or `tidegate doctor BDF` to see what is missing; `tidegate vfio give BDF` is the way
    /// back.
    Take {
        /// The device, as `lspci -D` prints it: 0000:01:00.0
        #[arg(value_name = "BDF")]
        at: PciAddress,
        /// Takes all endpoints of its IOMMU group, or none
        #[arg(long)]
        group: bool,
    },
    /// Gives a device back to the driver that it had before it was taken, also after a crash.
    ///
    /// The old driver is in the note that `take` wrote. Without a note the override is cleared and the kernel chooses by the
    /// device's ids, as it does at boot. If the old driver does not take the device, it stays with vfio-pci. Running it again changes
    /// nothing.
    ///
    /// Refused while a process has the device open (its TDI may be bound, its BARs imported), with the process's number, and while
    /// the kernel has a TDI of it bound. End that program first; nothing is killed here.
    ///
    /// Changes: the driver of the device, its driver_override; removes the note in /run/tidegate/vfio.
    ///
    /// Needs root. Next: `tidegate doctor BDF` shows where the device is now.
    Give {
        /// The device, as `lspci -D` prints it: 0000:01:00.0
        #[arg(value_name = "BDF")]
        at: PciAddress,
    },
}

pub(crate) fn run(
    arguments: &Arguments,
    places: &Places,
    out: &mut impl Write,
    complaints: &mut impl Write,
) -> io::Result<Ended> {
    let handover = Handover::below(&places.sysfs, &places.proc, &places.state);
    match arguments.verb {
        Verb::Take { at, group } => {
            let what =
                move || if group { handover.take_group(at) } else { handover.take(at).map(|one| vec![one]) };
            match patiently(at, what) {
                Ok(all) => all.iter().try_for_each(|one| taken(one, out)).map(|()| Ended::Well),
                Err(error) => refused("taken", &error, complaints),
            }
        }
        Verb::Give { at } => match patiently(at, move || handover.give(at)) {
            Ok(one) => given(&one, out).map(|()| Ended::Well),
            Err(error) => refused("given back", &error, complaints),
        },
    }
}

/// Waits for the kernel; says so when that takes long.
fn patiently<T: Send>(at: PciAddress, what: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let (send, receive) = channel();
        let work = scope.spawn(move || {
            let answer = what();
            let _waiting = send.send(());
            answer
        });
        if receive.recv_timeout(QUIET) == Err(RecvTimeoutError::Timeout) {
            // Beside the answer, which may be piped to a program.
            let _closed = writeln!(
                io::stderr(),
                "tidegate: the kernel still waits for {at} to be let go: its driver ends its work, or a process that can't be \
                 seen from here has it open (another container, a descriptor on its way). No signal ends this wait; \
                 `dmesg | tail` may say more."
            );
        }
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn taken(taken: &Taken, out: &mut impl Write) -> io::Result<()> {
    let at = taken.at;
    let node = match &taken.node {
        Some(node) => format!("/dev/vfio/devices/{node}"),
        None => "no device node: this kernel has no CONFIG_VFIO_DEVICE_CDEV".to_owned(),
    };
    let back = match &taken.driver {
        Some(driver) => format!("`tidegate vfio give {at}` gives it back to {driver}"),
        None => format!("it had no driver that is known of; `tidegate vfio give {at}` lets it go"),
    };
    let what =
        if taken.changed { "is with vfio-pci now" } else { "was with vfio-pci already: nothing was changed" };
    writeln!(out, "{at} {what} ({node}, IOMMU group {}); {back}", taken.group.0)
}

fn given(given: &Given, out: &mut impl Write) -> io::Result<()> {
    let at = given.at;
    let driver = match &given.driver {
        Some(driver) => format!("with {driver}"),
        None => "with no driver".to_owned(),
    };
    let how = match (given.changed, given.noted) {
        (false, _) => "it was not taken: nothing was changed",
        (true, true) => "as before it was taken",
        (true, false) => "no note of its old driver was there, so the kernel chose by its ids",
    };
    writeln!(out, "{at} is {driver}: {how}")
}

fn refused(what: &str, error: &HandoverError, out: &mut impl Write) -> io::Result<Ended> {
    writeln!(out, "not {what}: {error}")?;
    if let Some(next) = next(error) {
        writeln!(out, "next: {next}")?;
    }
    Ok(Ended::Badly)
}

/// What to do about it, where the error does not say so itself.
fn next(error: &HandoverError) -> Option<String> {
    Some(match error {
        HandoverError::NotViable { at, .. } => {
            format!(
                "`tidegate vfio take --group {at}` takes all of them; or move the card to a slot with a group of its own"
            )
        }
        HandoverError::Held { holders, .. } => {
            // This command is one of them where a program that has the device open started it, and ends by itself.
            let others = holders.iter().filter(|holder| holder.process != std::process::id());
            let numbers: Vec<_> = others.map(|holder| holder.process.to_string()).collect();
            match numbers.as_slice() {
                [] => "start this command without the descriptor that it has of the device".to_owned(),
                _ => {
                    format!(
                        "stop these programs in their own way; if they hang, `kill {}`",
                        numbers.join(" ")
                    )
                }
            }
        }
        HandoverError::NotRoot { .. } => "the same with sudo".to_owned(),
        HandoverError::Step { failed, .. } => match &**failed {
            FailedStep { why: Why::Driver { wanted: Some(driver), .. }, after: After::Undone, .. } => {
                format!("`modprobe {driver}`, then again; `dmesg | tail` tells why a driver refused")
            }
            _ => "`dmesg | tail` tells more".to_owned(),
        },
        HandoverError::Rest { taken, .. } => {
            let commands: Vec<_> = taken.iter().map(|at| format!("tidegate vfio give {at}")).collect();
            commands.join("; ")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{Scratch, scratch};
    use tidegate::p2p::backend::Member;
    use tidegate::p2p::vfio::handover::{HeldBy, Holder, Step};

    fn at() -> PciAddress {
        "0000:01:00.0".parse().unwrap()
    }

    fn said(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn complaint(error: HandoverError) -> String {
        said(|out| refused("taken", &error, out).map(|ended| assert_eq!(ended, Ended::Badly)))
    }

    #[test]
    fn what_was_taken_says_its_node_and_the_way_back() {
        let member = Member { at: at(), driver: Some("vfio-pci".into()) };
        let one = Taken {
            at: at(),
            changed: true,
            driver: Some("nvme".into()),
            node: Some("vfio3".into()),
            group: (7, vec![member]),
        };
        assert_eq!(
            said(|out| taken(&one, out)),
            "0000:01:00.0 is with vfio-pci now (/dev/vfio/devices/vfio3, IOMMU group 7); `tidegate vfio give 0000:01:00.0` gives it \
             back to nvme\n"
        );
        let again = Taken { changed: false, driver: None, node: None, ..one };
        let again = said(|out| taken(&again, out));
        assert!(
            again.contains("nothing was changed") && again.contains("CONFIG_VFIO_DEVICE_CDEV"),
            "{again}"
        );
    }

    #[test]
    fn what_was_given_says_who_has_it_and_how_that_was_chosen() {
        let one = Given { at: at(), changed: true, driver: Some("nvme".into()), noted: true };
        assert_eq!(said(|out| given(&one, out)), "0000:01:00.0 is with nvme: as before it was taken\n");
        let one = Given { driver: None, noted: false, ..one };
        assert!(said(|out| given(&one, out)).contains("with no driver: no note"));
        let one = Given { changed: false, ..one };
        assert!(said(|out| given(&one, out)).contains("nothing was changed"));
    }

    #[test]
    fn a_refusal_says_what_to_do_next() {
        let held = Holder { process: 42, name: "qemu".into(), by: HeldBy::Device };
        let own = Holder { process: std::process::id(), ..held.clone() };
        let step = |why| FailedStep { step: Step::Probe, why, after: After::Undone }.into();
        let gone = Why::Driver { wanted: Some("nvme".into()), found: None };
        for (error, next) in [
            (
                HandoverError::NotViable { at: at(), group: 7, members: vec![] },
                "tidegate vfio take --group 0000:01:00.0",
            ),
            (HandoverError::Held { at: at(), holders: vec![held.clone(), own.clone()] }, "`kill 42`"),
            (HandoverError::Held { at: at(), holders: vec![own] }, "without the descriptor"),
            (HandoverError::NotRoot { file: "/run/tidegate".into() }, "sudo"),
            (HandoverError::Step { at: at(), failed: step(gone) }, "modprobe nvme"),
            (HandoverError::Step { at: at(), failed: step(Why::Errno(libc::EIO)) }, "dmesg | tail"),
            (
                HandoverError::Rest { error: HandoverError::NoDriver.into(), taken: vec![at()] },
                "tidegate vfio give 0000:01:00.0",
            ),
            (HandoverError::NoIommu { at: at() }, "intel_iommu=on"),
            (HandoverError::NoDriver, "modprobe vfio-pci"),
        ] {
            let text = complaint(error);
            assert!(text.starts_with("not taken: ") && text.contains(next), "{text}");
        }
    }

    fn run_in(root: &Scratch, verb: Verb) -> (Ended, String, String) {
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let ended = run(&Arguments { verb }, &Places::below(root.path()), &mut out, &mut complaints).unwrap();
        (ended, String::from_utf8(out).unwrap(), String::from_utf8(complaints).unwrap())
    }

    #[test]
    fn refusals_go_to_stderr_and_answers_to_stdout() {
        let root = scratch("vfio");
        let (ended, out, complaints) = run_in(&root, Verb::Take { at: at(), group: false });
        assert_eq!((ended, out.as_str()), (Ended::Badly, ""));
        assert!(complaints.contains("no such PCI function"), "{complaints}");
        root.link("sys/bus/pci/devices/0000:01:00.0/driver", "../../drivers/nvme");
        let (ended, out, complaints) = run_in(&root, Verb::Give { at: at() });
        assert_eq!((ended, complaints.as_str()), (Ended::Well, ""));
        assert_eq!(out, "0000:01:00.0 is with nvme: it was not taken: nothing was changed\n");
    }
}
