//! Direct or bounce, and how it is said.

use super::*;
use crate::probe::{Left, Outcome, Rate, Report, Returned};
use crate::route::{Objection, Way};
use std::time::Duration;
use tidegate_core::topology::NodeId;

fn report(outcome: Outcome) -> Report {
    let rate = Rate { bytes: 4096, time: Duration::from_micros(2) };
    Report { outcome, write: Some(rate), read: None, witness: true, left: Left::Restored }
}

const DROPS: Outcome = Outcome::Drops { reads: Returned::Ones };

#[test]
fn what_was_measured_goes_before_the_verdict() {
    let switch = machine(include_str!("../../../machines/one-switch-no-iommu.txt"));
    let listed = machine(include_str!("../../../machines/two-sockets-amd.txt"));
    let unlisted = machine(include_str!("../../../machines/desktop-intel.txt"));
    let node = Some(NodeId(1));
    let bounce = Way::Bounce { node };
    for (route, unmeasured, works) in [
        (route(&switch, "43:00.0", "44:00.0"), Way::Switch, Way::Switch),
        (route(&listed, "01:00.0", "81:00.0"), Way::RootComplex, Way::RootComplex),
        (route(&unlisted, "02:00.0", "01:00.0"), bounce, Way::RootComplex),
        (route(&switch, "43:00.0", "43:00.0"), bounce, Way::Switch),
    ] {
        assert_eq!(route.choose(None, node).path, unmeasured, "{}", route.explain());
        assert_eq!(route.choose(Some(&report(Outcome::Works)), node).path, works);
        for bad in [DROPS, Outcome::Elsewhere, Outcome::WritesOnly { reads: Returned::Zeros }] {
            let choice = route.choose(Some(&report(bad)), node);
            assert_eq!(choice.path, bounce);
            let last = |path: Way| {
                let found = choice.rejected.iter().find(|rejected| rejected.path == path);
                found.and_then(|rejected| rejected.because.last().cloned())
            };
            assert_eq!(last(Way::Switch), Some(Objection::Measured(bad)));
            assert_eq!(last(Way::RootComplex), Some(Objection::Measured(bad)));
        }
    }
}

#[test]
fn a_bounce_needs_somebody_at_both_ends() {
    let odd = machine(include_str!("../../../machines/arm-odd.txt"));
    let no_bar = route(&odd, "000c:04:00.0", "000c:02:00.0");
    let fetches = "it fetches from host memory itself";
    assert_eq!(no_bar.choose(None, None).path, Way::Bounce { node: None }, "{fetches}");
    let bridge = route(&odd, "000c:00:01.0", "000c:04:00.0");
    let choice = bridge.choose(None, None);
    assert_eq!(choice.path, Way::None);
    let bounce = choice.rejected.last().unwrap();
    assert_eq!(
        (bounce.path, bounce.because.as_slice()),
        (Way::Bounce { node: None }, &[Objection::NoEngine][..])
    );
}

#[test]
fn every_rejected_way_has_a_reason() {
    for text in [
        include_str!("../../../machines/one-switch-acs-on.txt"),
        include_str!("../../../machines/two-sockets-intel.txt"),
        include_str!("../../../machines/acs-on-no-iommu.txt"),
        include_str!("../../../machines/vfs-ats.txt"),
        include_str!("../../../machines/multifunction-no-iommu.txt"),
        include_str!("../../../machines/arm-odd.txt"),
    ] {
        let machine = machine(text);
        let all = || machine.functions().iter().map(|function| function.at);
        for (from, to) in all().flat_map(|from| all().map(move |to| (from, to))) {
            let route = machine.verdict(from, to).unwrap();
            for measured in [None, Some(report(Outcome::Works)), Some(report(DROPS))] {
                let choice = route.choose(measured.as_ref(), None);
                for rejected in &choice.rejected {
                    // That a bridge's request works was measured by nobody.
                    let odd =
                        route.verdict == Verdict::Impossible && measured.as_ref().is_some_and(Report::works);
                    assert!(odd || !rejected.because.is_empty(), "{rejected:?} {}", choice.clone().explain());
                }
            }
        }
    }
}

#[test]
fn the_explanation_says_what_was_chosen_what_not_and_what_to_change() {
    let machine = machine(include_str!("../../../machines/acs-on-no-iommu.txt"));
    let route = route(&machine, "1d:00.0", "1b:00.0");
    let measured = report(DROPS);
    let explanation = route.choose(Some(&measured), Some(NodeId(0))).explain();
    assert_eq!(
        explanation.to_string(),
        "0000:1d:00.0 -> 0000:1b:00.0: via-root-complex
  because no IOMMU translates for 0000:1d:00.0: it sends bus addresses
  because both are below the switch 0000:18:00.0
  because ACS at 0000:1a:00.0 sends peer requests up (RR|CR)
  because up to the root complex pci0000:17 and down by the same port
  because pci0000:17 is on the kernel's list of host bridges
  chosen: bounce through host memory on node 0
    measured: writes do not arrive (reads gave all ones)
    write: 4096 bytes in 2µs
  rejected: direct, turning around below the root complex
    because ACS at 0000:1a:00.0 sends peer requests up (RR|CR)
    because measured: writes do not arrive (reads gave all ones)
  rejected: direct, through the root complex
    because measured: writes do not arrive (reads gave all ones)
  change: switch the IOMMU on
    kernel command line: intel_iommu=on
  change: switch redirection off: peers are no longer kept apart there, and their IOMMU groups merge at the next boot
    # setpci -s 0000:1a:00.0 ECAP_ACS+6.w=0:c
    kernel command line: pci=disable_acs_redir=0000:1a:00.0
"
    );
    let json = explanation.json();
    for part in [
        r#""path":"bounce","node":0,"measured":{"works":false,"#,
        r#""write":{"bytes":4096,"nanoseconds":2000}"#,
        r#""rejected":[{"path":"switch","because":["ACS at 0000:1a:00.0 sends peer requests up (RR|CR)","#,
        r#""commands":["setpci -s 0000:1a:00.0 ECAP_ACS+6.w=0:c"],"boot_option":"pci=disable_acs_redir=0000:1a:00.0"}]}"#,
    ] {
        assert!(json.contains(part), "{part}\n{json}");
    }
}
