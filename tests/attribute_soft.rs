//! SET_MMIO_ATTRIBUTE under traffic, on the soft fabric: what is in flight arrives, what was T=1 becomes T=0 and back.

mod bed;

use bed::{BY, Bed, GPU, NicChannel, VRAM, poll, post};
use std::cell::Cell;
use tidegate::core::tdi::{BarRange, Host, Link, PageTag, TaggedRange, TrustDomain};
use tidegate::core::{Cause, ChannelConfig, Completion, Deadline, Gate, Status, Submit, WaitError};
use tidegate::p2p::engine::softnic::SoftNic;
use tidegate::p2p::soft::{BuildError, Builder, FaultKind, Soft, Toward};
use tidegate::p2p::{Device, Export, ExportError, Import, ImportError, PciAddress, Want};
use tidegate::tdisp::platform::PlatformKind;
use tidegate::tdisp::report::{Attr, ChangeError, To};
use tidegate::tdisp::tdi::*;

const CHUNK: u64 = 4096;
/// Another NIC, which stays an ordinary function: it sends T=0.
const PLAIN: PciAddress = PciAddress { segment: 0, bus: 4, device: 0, function: 0 };
const OPEN: To = To::Shared { reason: "a test" };

/// A GPU whose VRAM can change, and a NIC, both in RUN; and a NIC that is not.
struct Story {
    bed: Bed,
    plain: Device<Soft>,
    provider: Provider,
    gpu: Tdi<Device<Soft>>,
    gpu_run: Run,
    nic_run: Run,
    _nic: Tdi<Device<Soft>>,
}

impl Story {
    fn new(seed: u64, platform: PlatformKind) -> Story {
        Story::with(seed, platform, |builder| builder)
    }

    fn with(seed: u64, platform: PlatformKind, more: impl FnOnce(Builder) -> Builder) -> Story {
        let bed = Bed::with(seed, |builder| more(builder.nic(PLAIN)));
        let plain = bed.domain.attach(PLAIN).unwrap();
        let provider = bed.provider(platform);
        let dsm = bed.dsm(&bed.gpu).updatable(|piece| piece.bar == 0);
        let (gpu, gpu_run) = bed.bind(&bed.gpu, &provider, dsm);
        let (nic, nic_run) = bed.tdi(&bed.nic, &provider);
        Story { bed, plain, provider, gpu, gpu_run, nic_run, _nic: nic }
    }

    fn link(&self) -> P2pLink {
        self.provider.link(&self.nic_run, &self.gpu_run).unwrap()
    }

    fn export(&self, chunks: std::ops::Range<u64>) -> Export<Soft> {
        self.bed.gpu.export(0, chunks.start * CHUNK..chunks.end * CHUNK).unwrap()
    }

    /// A channel of the NIC that sends T=0.
    fn plain_channel(&self) -> NicChannel {
        let poller = self.bed.domain.fabric().poller("plain");
        self.plain.channel(&poller, SoftNic::queue(0), ChannelConfig::depth(16)).unwrap()
    }

    fn plain_frame(&self, byte: u8) {
        self.bed.soft.wire(PLAIN).unwrap().send(&[byte; CHUNK as usize]).unwrap();
    }

    /// Changes while the owner polls and the devices step.
    fn change(
        &mut self,
        chunks: std::ops::Range<u64>,
        to: To,
        channel: &mut NicChannel,
        got: &mut Vec<Completion>,
    ) -> AttributeReport {
        let bytes = BarRange { bar: 0, range: chunks.start * CHUNK..chunks.end * CHUNK };
        let mut change = self.gpu.set_attribute(bytes, to, BY).unwrap();
        for _ in 0..1_000_000 {
            if change.turn() == AttributeProgress::Done {
                return change.finish();
            }
            self.bed.domain.fabric().turn();
            self.bed.soft.step();
            got.extend(poll(channel));
        }
        panic!("no end: {:?}", self.bed.domain.fabric().inspect());
    }
}

/// Four chunks change with eight descriptors in flight, four of them to other pages.
fn change_under_traffic(seed: u64, platform: PlatformKind) {
    let mut story = Story::new(seed, platform);
    let there = story.bed.domain.import_private(&story.export(0..4), &story.link()).unwrap();
    let elsewhere = story.bed.domain.import_private(&story.export(4..8), &story.link()).unwrap();
    let mut channel = story.bed.channel(16);
    let (old, stays) = (there.region().handle(), elsewhere.region().handle());
    for i in 0..4 {
        for (window, n) in [(old, i), (stays, i + 4)] {
            assert!(matches!(
                post(&mut channel, window.span(i * CHUNK..(i + 1) * CHUNK), n),
                Submit::Queued(_)
            ));
            story.bed.frame(b'a' + n as u8, CHUNK as usize);
        }
    }
    let mut got = Vec::new();
    let report = story.change(0..4, OPEN, &mut channel, &mut got);
    assert_eq!((&report.outcome, report.refusal), (&AttributeOutcome::Changed, None), "seed {seed}");
    assert!(report.drain.is_clean(), "{:?}", report.drain);
    assert_eq!(
        (report.drain.in_flight, report.drain.drained),
        (4, 4),
        "what names other windows is not waited for"
    );
    assert!(matches!(post(&mut channel, old.span(0..64), 9), Submit::Stale(_)), "old handles stay stale");
    got.extend(story.bed.settle(&mut channel));
    assert!(got.len() == 8 && got.iter().all(|c| c.status == Status::Done), "seed {seed}: {got:?}");
    for n in 0..8 {
        assert_eq!(story.bed.vram(n * CHUNK, 4096), [b'a' + n as u8; 4096], "seed {seed}: nothing is lost");
    }
    assert!(matches!(post(&mut channel, stays.span(0..CHUNK), 10), Submit::Queued(_)), "the rest goes on");

    // T=0 reaches the pages now, and only these.
    let private = story.bed.domain.import(&story.export(4..8), Want::default());
    assert!(matches!(private, Err(ImportError::Tag { found: PageTag::Private, .. })));
    let shared = there.recover().unwrap();
    let mut plain = story.plain_channel();
    let open = shared.region().handle();
    assert!(matches!(post(&mut channel, open.span(0..64), 11), Submit::Denied(_)), "T=1 does not");
    assert!(matches!(post(&mut plain, open.span(0..CHUNK), 1), Submit::Queued(_)));
    assert!(matches!(post(&mut plain, open.span(CHUNK..2 * CHUNK), 2), Submit::Queued(_)));
    story.plain_frame(b'P');
    story.plain_frame(b'Q');

    // And back, with these in flight.
    let mut got = Vec::new();
    let report = story.change(0..4, To::Private, &mut plain, &mut got);
    assert_eq!((&report.outcome, report.refusal), (&AttributeOutcome::Changed, None), "seed {seed}");
    assert_eq!((report.drain.in_flight, report.drain.drained), (2, 2));
    got.extend(story.bed.settle(&mut plain));
    assert!(got.len() == 2 && got.iter().all(|c| c.status == Status::Done), "seed {seed}: {got:?}");
    assert_eq!((story.bed.vram(0, 8), story.bed.vram(CHUNK, 8)), (vec![b'P'; 8], vec![b'Q'; 8]));
    let back: Import<Soft, _> = shared.recover().unwrap_err().import;
    let again = back.recover_private(&story.link()).unwrap();
    assert!(matches!(post(&mut channel, again.region().handle().span(0..CHUNK), 12), Submit::Queued(_)));
    // The first frame goes to what was posted first.
    story.bed.frame(b'y', CHUNK as usize);
    story.bed.frame(b'z', CHUNK as usize);
    assert_eq!(story.bed.settle(&mut channel).len(), 2);
    story.bed.soft.run_until_idle(100_000);
    assert_eq!((story.bed.vram(4 * CHUNK, 8), story.bed.vram(0, 8)), (vec![b'y'; 8], vec![b'z'; 8]));
    assert_eq!(story.bed.soft.violations(), [], "seed {seed}");
    assert_eq!(story.gpu.tags().unwrap().declassified(), 4 * CHUNK);
}

#[test]
fn what_is_in_flight_while_pages_change_arrives_for_every_seed() {
    for seed in 0..20 {
        change_under_traffic(seed, PlatformKind::Soft);
        change_under_traffic(seed, PlatformKind::Cca);
    }
}

#[test]
fn posted_writes_have_arrived_before_the_device_is_asked() {
    let mut story = Story::new(3, PlatformKind::Soft);
    let window = story.bed.domain.import_private(&story.export(0..1), &story.link()).unwrap();
    let mut channel = story.bed.channel(4);
    story.bed.soft.hold(bed::NIC, Toward::Function(GPU), true);
    assert!(matches!(post(&mut channel, window.region().handle().span(0..CHUNK), 0), Submit::Queued(_)));
    story.bed.frame(b'x', CHUNK as usize);
    let mut got = story.bed.settle(&mut channel);
    assert_eq!((got.len(), story.bed.vram(0, 8)), (1, vec![0; 8]), "done, and on its way");
    let report = story.change(0..1, OPEN, &mut channel, &mut got);
    assert_eq!(report.outcome, AttributeOutcome::Changed);
    assert_eq!(story.bed.vram(0, 4096), [b'x'; 4096], "the flush pushed it");
    assert_eq!(story.bed.soft.violations(), []);
}

#[test]
fn a_window_is_not_recovered_while_it_drains() {
    let mut story = Story::new(10, PlatformKind::Soft);
    let window = story.bed.domain.import_private(&story.export(0..1), &story.link()).unwrap();
    let mut channel = story.bed.channel(4);
    assert!(matches!(post(&mut channel, window.region().handle().span(0..CHUNK), 0), Submit::Queued(_)));
    let link = story.link();
    let mut change = story.gpu.set_attribute(BarRange { bar: 0, range: 0..CHUNK }, OPEN, BY).unwrap();
    assert!(matches!(change.turn(), AttributeProgress::Drain(_)));
    let early = window.recover_private(&link).unwrap_err();
    assert_eq!(early.why, ImportError::Live);
    drop(change);
    // Its frame comes: the mapping is still there, and goes when the drain has ended.
    story.bed.frame(b'w', CHUNK as usize);
    let got = story.bed.settle(&mut channel);
    while story.bed.domain.fabric().turn() {
        story.bed.soft.step();
    }
    assert_eq!((got.len(), story.bed.vram(0, 8)), (1, vec![b'w'; 8]));
    let again = early.import.recover_private(&link).unwrap();
    while story.bed.domain.fabric().turn() {}
    assert!(matches!(post(&mut channel, again.region().handle().span(0..64), 1), Submit::Queued(_)));
    story.bed.frame(b'v', 64);
    assert_eq!(story.bed.settle(&mut channel).len(), 1);
    assert_eq!((story.bed.vram(0, 8), story.bed.soft.violations()), (vec![b'v'; 8], vec![]));
}

#[test]
fn a_drain_that_is_forced_changes_nothing_and_the_old_tag_stands() {
    let mut story = Story::new(4, PlatformKind::Soft);
    let window = story.bed.domain.import_private(&story.export(0..1), &story.link()).unwrap();
    let mut channel = story.bed.channel(4);
    assert!(matches!(post(&mut channel, window.region().handle().span(0..CHUNK), 0), Submit::Queued(_)));
    story.bed.soft.run_until_idle(1000);
    story.bed.soft.misbehave(bed::NIC, FaultKind::Dead);
    let bytes = BarRange { bar: 0, range: 0..CHUNK };
    let mut change = story.gpu.set_attribute(bytes.clone(), OPEN, Deadline::millis(0, 1)).unwrap();
    while change.turn() != AttributeProgress::Done {
        story.bed.domain.fabric().turn();
    }
    let report = change.finish();
    assert_eq!(report.outcome, AttributeOutcome::Unchanged(AttributeError::NotQuiet));
    assert!(!report.drain.is_clean() && report.pages.attr == Attr::Private, "{report:?}");
    assert_eq!(story.gpu.tags().unwrap().iter().next().unwrap().attr, Attr::Private);
    let shared = story.bed.domain.import(&story.export(0..1), Want::default());
    assert!(matches!(shared, Err(ImportError::Tag { found: PageTag::Private, .. })), "{shared:?}");
    // The device still runs, for others.
    assert!(story.gpu_run.is_live());
    assert!(story.bed.domain.import_private(&story.export(1..2), &story.link()).is_ok());
    story.bed.soft.run_until_idle(1000);
    assert_eq!(story.bed.soft.violations(), []);
}

#[test]
fn a_wait_inside_ones_own_section_changes_nothing() {
    let mut story = Story::new(5, PlatformKind::Soft);
    let window = story.bed.domain.import_private(&story.export(0..1), &story.link()).unwrap();
    let mut channel = story.bed.channel(4);
    let pinned = channel.pin().unwrap();
    let change = story.gpu.set_attribute(BarRange { bar: 0, range: 0..CHUNK }, OPEN, BY).unwrap();
    let report = change.wait();
    let AttributeOutcome::Unchanged(AttributeError::Wait(WaitError::OwnPin { .. })) = report.outcome else {
        panic!("{report:?}")
    };
    drop(pinned);
    assert!(window.region().is_revoked());
    assert_eq!(story.bed.gpu.trust().0, tidegate::core::tdi::TdiState::Run);
    assert_eq!(story.gpu.tags().unwrap().iter().next().unwrap().attr, Attr::Private);
}

/// A proof that has the pages change while it is looked at for the second time.
#[derive(Debug)]
struct Sly<'a> {
    link: P2pLink,
    gpu: &'a Device<Soft>,
    looks: Cell<u32>,
}

impl Link for Sly<'_> {
    fn initiator(&self) -> &Gate {
        self.link.initiator()
    }
    fn target(&self) -> &Gate {
        self.link.target()
    }
    fn domain(&self) -> TrustDomain {
        self.link.domain()
    }
    fn is_live(&self) -> bool {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == 2 {
            let all = TaggedRange { bar: 0, range: 0..VRAM, tag: PageTag::Shared };
            self.gpu.set_tags(&[all]).unwrap();
        }
        self.link.is_live()
    }
}

#[test]
fn a_window_whose_pages_change_while_it_is_made_is_not_handed_out() {
    let story = Story::new(6, PlatformKind::Soft);
    let sly = Sly { link: story.link(), gpu: &story.bed.gpu, looks: Cell::new(0) };
    let made = story.bed.domain.import_private(&story.export(0..1), &sly);
    assert!(matches!(made, Err(ImportError::Tag { found: PageTag::Shared, .. })), "{made:?}");
    assert_eq!(story.bed.gpu.gate().windows(), 1, "it was made");
    while story.bed.domain.fabric().turn() {}
    assert_eq!(story.bed.gpu.gate().windows(), 0, "and is taken back");
    let quiet = story.bed.gpu.quiesce(Cause::User, BY).unwrap().wait().unwrap();
    assert!(quiet.report().is_clean());
}

#[test]
fn on_a_host_with_larger_pages_whole_ones_are_exported_and_change() {
    const PAGE: u64 = 0x1_0000;
    let mut story = Story::with(7, PlatformKind::Soft, |builder| builder.page_size(PAGE));
    assert_eq!(story.bed.gpu.host_page(), PAGE);
    assert!(matches!(story.bed.gpu.export(0, 0..CHUNK), Err(ExportError::Range { .. })));
    let export = story.bed.gpu.export(0, 0..PAGE).unwrap();
    let import = story.bed.domain.import_private(&export, &story.link()).unwrap();
    let part = story.gpu.set_attribute(BarRange { bar: 0, range: 0..CHUNK }, OPEN, BY).map(drop);
    let (bar, start, end, page) = (0, 0, CHUNK, PAGE);
    assert_eq!(part, Err(AttributeError::Change(ChangeError::Unaligned { bar, start, end, page })));
    assert!(!import.region().is_revoked());
    let report = story.gpu.set_attribute(BarRange { bar: 0, range: 0..PAGE }, OPEN, BY).unwrap().wait();
    assert_eq!(report.outcome, AttributeOutcome::Changed);
    assert!(import.recover().is_ok());
    // A page that holds both kinds is neither: nobody may map it.
    let bed = Bed::with(8, |builder| builder.page_size(VRAM));
    let (_tdi, _run) = bed.tdi(&bed.gpu, &bed.provider(PlatformKind::Soft));
    let both = bed.domain.import(&bed.gpu.export(0, 0..VRAM).unwrap(), Want::default());
    assert!(matches!(both, Err(ImportError::Tag { at: 0, found: PageTag::Inaccessible, .. })), "{both:?}");
    for bytes in [0, 2048, 0x3000] {
        let refused = Soft::builder(9).page_size(bytes).build().map(drop);
        assert_eq!(refused, Err(BuildError::Page { bytes }));
    }
}
