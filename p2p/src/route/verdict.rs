//! The rules: from two functions of a topology to a route.

use super::change::Change;
use super::function::{AcsState, Function, Kind, Virtual};
use super::host::HostRule;
use super::reason::Reason;
use super::{Cpu, Topology};
use crate::pci::PciAddress;
use crate::pci::extended::AcsBits;
use std::fmt;

/// Which way a request would go. The better one is the lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It turns around in a switch that both are below.
    SwitchDirect,
    /// It goes up to the root complex, which is known to hand it on.
    ViaRootComplex,
    /// It depends on hardware of which nobody told: measure it.
    Unknown,
    /// There is no such request.
    Impossible,
}

impl Verdict {
    /// `switch-direct`, `via-root-complex`, `unknown`, `impossible`.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::SwitchDirect => "switch-direct",
            Verdict::ViaRootComplex => "via-root-complex",
            Verdict::Unknown => "unknown",
            Verdict::Impossible => "impossible",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the kernel's own check answers, which its drivers' peer mappings go by and iommufd's imports do not
/// (`enum pci_p2pdma_map_type`, Linux 7.3). Beside a [`Verdict`] it tells what a driver of the kernel would get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MapType {
    /// `BUS_ADDR`: the driver gets the BAR's bus address, past the IOMMU.
    BusAddress,
    /// `THRU_HOST_BRIDGE`.
    ThroughHostBridge,
    /// `NOT_SUPPORTED`.
    NotSupported,
}

impl MapType {
    /// `bus-address`, `through-host-bridge`, `not-supported`.
    pub const fn name(self) -> &'static str {
        match self {
            MapType::BusAddress => "bus-address",
            MapType::ThroughHostBridge => "through-host-bridge",
            MapType::NotSupported => "not-supported",
        }
    }
}

/// The answer for an ordered pair: see [`Topology::verdict`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// Who asks.
    pub initiator: PciAddress,
    /// Whose BAR.
    pub target: PciAddress,
    /// Which way.
    pub verdict: Verdict,
    /// What the kernel's check would say to a driver of its own.
    pub kernel: MapType,
    /// Links between the two, as the kernel counts them: 2 inside a device, 4 below one switch.
    pub distance: u32,
    /// The lowest port that both are below.
    pub meeting: Option<PciAddress>,
    /// What it rests on, in the order of the rules.
    pub reasons: Vec<Reason>,
    /// What would make it better.
    pub changes: Vec<Change>,
    /// Do both make requests, so that each can do a leg of a bounce?
    pub(super) both_ask: bool,
}

/// The two ways up, and where they meet.
struct Ways<'a> {
    /// Initiator's, up to below the meeting port; all of it if there is none.
    from: Vec<&'a Function>,
    /// Target's, likewise.
    to: Vec<&'a Function>,
    meeting: Option<&'a Function>,
}

impl<'a> Ways<'a> {
    fn new(topology: &'a Topology, initiator: &Function, target: &Function) -> Ways<'a> {
        let from: Vec<_> = topology.upward(initiator.at).collect();
        let to: Vec<_> = topology.upward(target.at).collect();
        let meets = |f: &&Function| from.iter().position(|other| other.at == f.at);
        match to.iter().enumerate().find_map(|(n, f)| Some((n, meets(f)?))) {
            Some((down, up)) => {
                Ways { meeting: to.get(down).copied(), from: cut(from, up), to: cut(to, down) }
            }
            None => Ways { from, to, meeting: None },
        }
    }

    fn distance(&self) -> u32 {
        (self.from.len() + self.to.len()) as u32
    }

    /// Everybody who could redirect, as the kernel walks: target's way, the meeting port, initiator's way.
    fn all(&self) -> impl Iterator<Item = &'a Function> {
        self.to.iter().copied().chain(self.meeting).chain(self.from.iter().copied())
    }

    /// Bits of those who redirect.
    fn redirects(&self) -> impl Iterator<Item = (PciAddress, AcsBits)> {
        self.all().filter_map(|f| {
            let bits = acs(f)?.and(AcsBits::REDIRECTS);
            (!bits.is_empty()).then_some((f.at, bits))
        })
    }

    /// Ports whose ACS could not be read.
    fn unreadable(&self) -> impl Iterator<Item = PciAddress> {
        self.all().filter(|f| f.kind.is_port() && f.acs == AcsState::Unreadable).map(|f| f.at)
    }
}

fn cut(mut way: Vec<&Function>, at: usize) -> Vec<&Function> {
    way.truncate(at);
    way
}

fn acs(function: &Function) -> Option<AcsBits> {
    match function.acs {
        AcsState::With(acs) => Some(acs.on),
        AcsState::Without | AcsState::Unreadable => None,
    }
}

pub(super) fn route(topology: &Topology, initiator: &Function, target: &Function) -> Route {
    let ways = Ways::new(topology, initiator, target);
    let mut route = Route {
        initiator: initiator.at,
        target: target.at,
        verdict: Verdict::Impossible,
        kernel: kernel(topology, &ways, initiator, target),
        distance: ways.distance(),
        meeting: ways.meeting.map(|port| port.at),
        reasons: Vec::new(),
        changes: Vec::new(),
        both_ask: asks(initiator) && asks(target),
    };
    if !route.ends(initiator, target) {
        return route;
    }
    if let (Some(group), true) = (initiator.group, initiator.group == target.group) {
        if initiator.at != target.at {
            route.reasons.push(Reason::SameGroup { group });
        }
    }
    let turns = route.addresses(topology, initiator);
    route.verdict = match route.before_the_root(&ways, initiator, target, turns) {
        Some(verdict) => verdict,
        None => route.root_complex(topology, initiator, target, &ways),
    };
    route
}

/// May a request turn around below the root complex, as far as its address goes?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turns {
    /// A bus address, plain.
    Plain,
    /// A bus address marked as translated.
    Translated,
    /// It means nothing below the IOMMU.
    No,
}

impl Route {
    /// Rule 1: is there a request at all?
    fn ends(&mut self, initiator: &Function, target: &Function) -> bool {
        if !asks(initiator) {
            self.reasons.push(Reason::NotAnInitiator { at: initiator.at });
            return false;
        }
        if target.reachable().next().is_none() {
            if target.bars.iter().any(|bar| bar.is_memory()) {
                self.reasons.push(Reason::Unassigned { at: target.at });
                self.changes.push(Change::Assign { at: target.at });
            } else {
                self.reasons.push(Reason::NoBar { at: target.at });
            }
            return false;
        }
        if target.decode.memory == Some(false) {
            self.reasons.push(Reason::DecodeOff { at: target.at });
            let (at, of_virtual) = match target.sriov {
                Virtual::Of { physical } => (physical, true),
                _ => (target.at, false),
            };
            self.changes.push(Change::Decode { at, of_virtual });
        }
        true
    }

    /// Rule 2: what do the addresses mean?
    fn addresses(&mut self, topology: &Topology, initiator: &Function) -> Turns {
        let at = initiator.at;
        if initiator.group.is_none() {
            self.reasons.push(Reason::NoIommu { at });
            let option = match topology.cpu {
                _ if !topology.iommus.is_empty() => None,
                Cpu::Intel(_) => Some("intel_iommu=on"),
                _ => None,
            };
            self.changes.push(Change::Iommu { option });
            return Turns::Plain;
        }
        match initiator.ats {
            Some(ats) if ats.on => {
                self.reasons.push(Reason::Ats { at });
                Turns::Translated
            }
            _ => {
                self.reasons.push(Reason::Translated { at, iommu: initiator.iommu.clone() });
                Turns::No
            }
        }
    }

    /// Rules 3 and 5: does it end before the root complex? `None`: it goes on.
    fn before_the_root(
        &mut self,
        ways: &Ways<'_>,
        initiator: &Function,
        target: &Function,
        turns: Turns,
    ) -> Option<Verdict> {
        let port = ways.meeting?;
        let at = port.at;
        let inside = initiator.same_device(target);
        self.reasons.push(match port.kind {
            _ if initiator.at == target.at => Reason::Itself,
            _ if inside => Reason::SameDevice,
            Kind::SwitchUpstream => Reason::Switch { at },
            Kind::Bridge => Reason::SharedBus { at },
            _ => Reason::SamePort { at },
        });
        let switch = port.kind == Kind::SwitchUpstream && !inside;
        if turns == Turns::No {
            if switch && initiator.ats.is_some() {
                self.changes.push(Change::Ats { at: initiator.at });
            }
            return None;
        }
        if self.sent_up(ways, initiator, turns) {
            return None;
        }
        Some(if switch { Verdict::SwitchDirect } else { Verdict::Unknown })
    }

    /// Does ACS send it up?
    fn sent_up(&mut self, ways: &Ways<'_>, initiator: &Function, turns: Turns) -> bool {
        let translated = turns == Turns::Translated;
        let (mut up, mut clear) = (false, Vec::new());
        for at in ways.unreadable() {
            let redirects = initiator.group.is_some();
            self.reasons.push(Reason::AcsAssumed { at, redirects });
            up |= redirects;
            if !self.changes.contains(&Change::ReadAsRoot) {
                self.changes.push(Change::ReadAsRoot);
            }
        }
        for port in ways.all() {
            let (Some(on), at) = (acs(port), port.at) else { continue };
            let mut bits = on.and(AcsBits::REDIRECTS);
            if translated && on.has(AcsBits::DIRECT_TRANSLATED) {
                bits = bits.and(AcsBits::COMPLETION_REDIRECT);
            }
            if bits.is_empty() {
                continue;
            }
            up = true;
            self.reasons.push(Reason::Redirect { at, bits });
            let able = matches!(port.acs, AcsState::With(acs) if acs.able.has(AcsBits::DIRECT_TRANSLATED));
            let request =
                !bits.and(AcsBits(AcsBits::REDIRECTS.0 & !AcsBits::COMPLETION_REDIRECT.0)).is_empty();
            if translated && able && request {
                self.changes.push(Change::DirectTranslated { at });
                bits = bits.and(AcsBits::COMPLETION_REDIRECT);
            }
            if !bits.is_empty() {
                clear.push((at, bits));
            }
        }
        if !clear.is_empty() {
            self.changes.push(Change::ClearRedirect { at: clear });
        }
        let blocked = |f: &&&Function| acs(f).is_some_and(|on| on.has(AcsBits::TRANSLATION_BLOCKING));
        for at in ways.from.iter().filter(blocked).filter(|_| translated).map(|f| f.at) {
            up = true;
            self.reasons.push(Reason::TranslationBlocked { at });
            self.changes.push(Change::AllowTranslated { at });
        }
        up
    }

    /// Rule 4.
    fn root_complex(
        &mut self,
        topology: &Topology,
        initiator: &Function,
        target: &Function,
        ways: &Ways<'_>,
    ) -> Verdict {
        let (from, to) = (initiator.host, target.host);
        self.reasons.push(match ways.meeting {
            Some(_) => Reason::Back { host: from },
            None if from == to => Reason::RootPorts { host: from },
            None => Reason::Hosts { from, to },
        });
        if let (Some(from), Some(to)) = (initiator.node, target.node) {
            if from != to {
                self.reasons.push(Reason::Nodes { from, to });
                self.changes.push(Change::Move { at: target.at, near: initiator.at });
            }
        }
        if topology.cpu.passes_peers() {
            self.reasons.push(Reason::CpuPasses { cpu: topology.cpu });
            return Verdict::ViaRootComplex;
        }
        let mut ids = vec![from];
        if from != to {
            ids.push(to);
        }
        let mut all = true;
        for id in ids {
            let host = topology.host(id);
            let rule = host.map_or(HostRule::Unlisted, |host| host.rule);
            let passes = passes(rule, from == to);
            all &= passes;
            self.reasons.push(match rule {
                _ if passes => Reason::HostListed { host: id },
                HostRule::SameHostOnly => Reason::HostSameOnly { host: id },
                _ => {
                    let first = host.and_then(|host| host.first);
                    Reason::HostUnlisted { host: id, id: first.map(|(_, vendor, device)| (vendor, device)) }
                }
            });
        }
        if all {
            return Verdict::ViaRootComplex;
        }
        self.changes.push(Change::Probe);
        Verdict::Unknown
    }
}

/// Does it make requests of its own?
fn asks(function: &Function) -> bool {
    !function.kind.is_port() && function.kind != Kind::HostBridge
}

fn passes(rule: HostRule, same: bool) -> bool {
    rule == HostRule::Listed || rule == HostRule::SameHostOnly && same
}

/// `calc_map_type_and_dist` of drivers/pci/p2pdma.c, Linux 7.3; what it reads and we can't is taken as rule 3 says.
fn kernel(topology: &Topology, ways: &Ways<'_>, initiator: &Function, target: &Function) -> MapType {
    let assumed = initiator.group.is_some() && ways.unreadable().next().is_some();
    if ways.meeting.is_some() && !assumed && ways.redirects().next().is_none() {
        return MapType::BusAddress;
    }
    let rule = |id| topology.host(id).map_or(HostRule::Unlisted, |host| host.rule);
    let (from, to) = (initiator.host, target.host);
    let same = from == to;
    if topology.cpu.passes_peers() || passes(rule(from), same) && passes(rule(to), same) {
        MapType::ThroughHostBridge
    } else {
        MapType::NotSupported
    }
}
