//! SET_MMIO_ATTRIBUTE of a TDI that runs: the order, what is refused before anything is disturbed, and what is left
//! when it fails in the middle.

mod common;

use common::tdi::*;
use tidegate_core::drain::{Held, HeldWhy, Outcome};
use tidegate_core::tdi::*;
use tidegate_core::{Cause, Deadline, MapError};
use tidegate_tdisp::platform::{PlatformKind, Refusal, Step};
use tidegate_tdisp::report::{Attr, ChangeError, To};
use tidegate_tdisp::requester::{RequestError, TransportError};
use tidegate_tdisp::state::State;
use tidegate_tdisp::tdi::*;
use tidegate_tdisp::wire::{ErrorCode, RequestCode};

const SET: u8 = 0x8A;
const OPEN: To = To::Shared { reason: "a test" };
/// Platforms whose firmware unmaps pages of a TDI that runs.
const UNMAPPING: [PlatformKind; 2] = [PlatformKind::Soft, PlatformKind::Cca];
const EIO: i32 = 5;

fn bytes(range: std::ops::Range<u64>) -> BarRange {
    BarRange { bar: 0, range }
}

/// Two private pages of BAR 0, and two shared ones.
fn private() -> BarRange {
    bytes(0x2000..0x4000)
}

fn shared() -> BarRange {
    bytes(0x8000..0xA000)
}

fn change(rig: &mut Rig, pages: BarRange, to: To) -> AttributeReport {
    rig.tdi.set_attribute(pages, to, BY).unwrap().wait()
}

#[track_caller]
fn changed(report: &AttributeReport) {
    assert_eq!((&report.outcome, report.refusal), (&AttributeOutcome::Changed, None));
    assert_eq!(report.untagged, None);
}

#[track_caller]
fn unchanged(report: AttributeReport) -> AttributeError {
    match report.outcome {
        AttributeOutcome::Unchanged(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Tags of BAR 0: what the host was told, and what the device acts by. Inaccessible is the host's alone.
fn tags(rig: &Rig) -> Vec<TaggedRange> {
    joined(rig.host.tags().into_iter().filter(|tag| tag.bar == 0))
}

fn device(rig: &Rig) -> Vec<TaggedRange> {
    joined(rig.model.pages.lock().unwrap().clone().into_iter())
}

fn mapped(rig: &Rig) -> u64 {
    rig.provider.mapped_bytes(&rig.host)
}

fn joined(tags: impl Iterator<Item = TaggedRange>) -> Vec<TaggedRange> {
    let mut all: Vec<TaggedRange> = Vec::new();
    for tag in tags {
        match all.last_mut() {
            Some(last) if last.tag == tag.tag && last.range.end == tag.range.start => {
                last.range.end = tag.range.end
            }
            _ => all.push(tag),
        }
    }
    all
}

fn opened() -> Vec<TaggedRange> {
    use PageTag::{Private, Shared};
    vec![
        piece(0..0x2000, Private),
        piece(0x2000..0x4000, Shared),
        piece(0x4000..0x8000, Private),
        piece(0x8000..0x1_0000, Shared),
    ]
}

fn piece(bytes: std::ops::Range<u64>, tag: PageTag) -> TaggedRange {
    range(0, bytes, tag)
}

#[test]
fn private_pages_become_shared_in_the_safe_order_and_back() {
    for platform in UNMAPPING {
        let mut rig = Rig::new(platform);
        let run = rig.start();
        let there = rig.window(bytes(0x3000..0x4000), None);
        let elsewhere = rig.window(bytes(0x4000..0x8000), None);
        let report = change(&mut rig, private(), OPEN);
        changed(&report);
        assert_eq!(
            (report.pages.attr, report.pages.offset, report.pages.len),
            (Attr::Shared, 0x2000, 0x2000)
        );
        assert!(report.drain.is_clean() && report.drain.cause == Cause::Attribute);
        let order = ["tags 5", "unmap 0:0x3000", "SET shared", "pages 4", "tags 5"];
        assert_eq!(rig.log.take(), order, "{platform}");
        assert_eq!((tags(&rig), device(&rig), mapped(&rig)), (opened(), opened(), 0x6000));
        assert!(there.is_revoked() && !elsewhere.is_revoked() && rig.host.is_open() && run.is_live());
        assert_eq!(rig.tdi.tags().unwrap().declassified(), 0x2000, "counted");

        let there = rig.window(bytes(0x2000..0x3000), None);
        changed(&change(&mut rig, private(), To::Private));
        let order = ["tags 5", "unmap 0:0x2000", "SET private", "pages 4", "tags 3"];
        assert_eq!(rig.log.take(), order, "{platform}");
        assert_eq!((tags(&rig), device(&rig), mapped(&rig)), (layout(), layout(), 0x8000));
        assert!(there.is_revoked() && !elsewhere.is_revoked());
        drop((there, elsewhere));
        let report = rig.unbind();
        assert_eq!((names(&report).len(), report.refusal), (5, None));
        unbound(report).restore();
        rig.assert_free();
    }
}

#[test]
fn tdx_does_not_unmap_private_pages_of_a_tdi_that_runs_so_nothing_is_disturbed() {
    let mut rig = Rig::new(PlatformKind::Tdx);
    let _run = rig.start();
    let window = rig.window(private(), None);
    let refusal = Refusal::State { step: Step::PrivateMmioUnmap, state: State::Run };
    let refused = rig.tdi.set_attribute(private(), OPEN, BY).unwrap_err();
    assert_eq!(refused, AttributeError::Firmware(refusal));
    assert!(!window.is_revoked() && rig.log.take().is_empty());
    // The other way there is nothing to unmap.
    changed(&change(&mut rig, shared(), To::Private));
    assert_eq!((tags(&rig), mapped(&rig)), (device(&rig), 0xA000));
    assert_eq!(tags(&rig)[0], piece(0..0xA000, PageTag::Private));
    // And back no more: now they are mapped as private.
    assert!(matches!(rig.tdi.set_attribute(shared(), OPEN, BY), Err(AttributeError::Firmware(_))));
    window.revoke(Cause::User, BY).wait().unwrap();
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn pages_change_in_run_only() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let state = |rig: &mut Rig| rig.tdi.set_attribute(private(), OPEN, BY).unwrap_err();
    assert_eq!(state(&mut rig), AttributeError::State(TdiState::Unlocked));
    let locked = rig.lock();
    assert_eq!(state(&mut rig), AttributeError::State(TdiState::Locked));
    let acceptance = rig.provider.accept(&locked).unwrap();
    let run = locked.start(acceptance).unwrap();
    rig.dsm.fail();
    rig.log.take();
    // Nobody told us: it is asked first.
    assert_eq!(state(&mut rig), AttributeError::State(TdiState::Error));
    assert_eq!(rig.log.take(), ["host Error"]);
    assert!(!run.is_live() && !rig.host.is_open() && rig.tdi.tags().is_none());
    assert_eq!(state(&mut rig), AttributeError::State(TdiState::Error));
    unbound(rig.unbind()).restore();
    assert_eq!(state(&mut rig), AttributeError::State(TdiState::Unlocked));
    rig.assert_free();
}

#[test]
fn a_closed_gate_and_one_that_was_restored_since_lock_refuse_a_change() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let _run = rig.start();
    let q = rig.host.quiet();
    assert!(matches!(rig.tdi.set_attribute(private(), OPEN, BY), Err(AttributeError::Gate(_))));
    q.restore();
    assert_eq!(rig.tdi.set_attribute(private(), OPEN, BY).unwrap_err(), AttributeError::Stale);
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn what_cannot_change_is_refused_before_anything_is_disturbed() {
    let mut with_fixed = layout();
    with_fixed.push(range(2, 0..0x1000, PageTag::Private));
    let mut rig = Rig::of(&fabric(), provider(PlatformKind::Soft), with_fixed, 0x100);
    let _run = rig.start();
    let window = rig.window(private(), None);
    let mut refused = |bar, range, to| match rig.tdi.set_attribute(BarRange { bar, range }, to, BY) {
        Err(AttributeError::Change(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(2, 0..0x1000, OPEN), ChangeError::NotUpdatable { index: 2 });
    assert_eq!(refused(2, 0x1000..0x2000, OPEN), ChangeError::NotOneRange { bar: 2, at: 0x1000 });
    assert_eq!(refused(0, 0x7000..0x9000, OPEN), ChangeError::NotOneRange { bar: 0, at: 0x8000 });
    assert_eq!(refused(5, 0..0x1000, OPEN), ChangeError::Outside { bar: 5, start: 0, end: 0x1000 });
    assert!(matches!(refused(0, 0..0x800, OPEN), ChangeError::Unaligned { page: 0x1000, .. }));
    assert!(matches!(refused(0, 0..0x1000, To::Private), ChangeError::Already { at: 0, .. }));
    assert!(!window.is_revoked() && rig.log.take().is_empty());
}

#[test]
fn a_device_without_the_request_is_not_asked() {
    let mut rig = Rig::new(PlatformKind::Soft);
    // Its capabilities lose the bit of 0x8A; they are read when the `Tdi` is made.
    rig.session(|request, device| {
        let mut response = device(request);
        if request[1] == 0x82 {
            response[21] &= !(1 << 2);
        }
        Ok(response)
    });
    rig.tdi = Tdi::new(rig.host.clone(), rig.provider.clone(), rig.dsm.clone()).unwrap();
    let _run = rig.start();
    let request = RequestCode::SetMmioAttribute;
    let refused = rig.tdi.set_attribute(private(), OPEN, BY).unwrap_err();
    assert_eq!(refused, AttributeError::Request(RequestError::UnsupportedRequest { request }));
    assert!(rig.log.take().is_empty());
}

#[test]
fn a_refusal_of_the_device_leaves_tags_and_mappings_as_they_were() {
    for (platform, pages, to) in [
        (PlatformKind::Soft, private(), OPEN),
        (PlatformKind::Cca, private(), OPEN),
        (PlatformKind::Tdx, shared(), To::Private),
    ] {
        let mut rig = Rig::new(platform);
        let run = rig.start();
        rig.refuse(SET, ErrorCode::InvalidRequest);
        let window = rig.window(pages.clone(), None);
        let report = change(&mut rig, pages.clone(), to);
        assert_eq!(
            (report.pages.attr, report.refusal),
            (if to == OPEN { Attr::Private } else { Attr::Shared }, None)
        );
        let (request, code) = (RequestCode::SetMmioAttribute, ErrorCode::InvalidRequest);
        assert_eq!(
            unchanged(report),
            AttributeError::Request(RequestError::Refused { request, code, data: 0 })
        );
        assert_eq!((tags(&rig), device(&rig), mapped(&rig)), (layout(), layout(), 0x8000), "{platform}");
        assert!(window.is_revoked() && run.is_live() && rig.host.is_open());
        rig.heal();
        changed(&change(&mut rig, pages, to));
        unbound(rig.unbind()).restore();
        rig.assert_free();
    }
}

#[test]
fn a_host_that_does_not_take_the_new_tags_is_reported_and_keeps_the_pages_from_everybody() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let _run = rig.start();
    let mut change = rig.tdi.set_attribute(private(), OPEN, BY).unwrap();
    let held = rig.host.tags();
    let error = TagError::Overlap { bar: 0, at: 0x2000 };
    rig.host.refuse_tags(Some(error.clone()));
    while change.turn() != AttributeProgress::Done {}
    let report = change.finish();
    assert_eq!((&report.outcome, &report.untagged), (&AttributeOutcome::Changed, &Some(error)));
    assert_eq!((report.pages.attr, rig.host.tags()), (Attr::Inaccessible, held));
    rig.host.refuse_tags(None);
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn a_range_id_that_the_device_does_not_have_changes_nothing() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let _run = rig.start();
    rig.session(|request, device| {
        let mut request = request.to_vec();
        if request[1] == SET {
            request[30] = 9;
        }
        Ok(device(&request))
    });
    let why = unchanged(change(&mut rig, private(), OPEN));
    assert!(
        matches!(why, AttributeError::Request(RequestError::Refused { code: ErrorCode::InvalidRequest, .. })),
        "{why:?}"
    );
    assert_eq!((tags(&rig), device(&rig)), (layout(), layout()));
}

#[test]
fn a_busy_device_is_asked_again_until_the_deadline() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let _run = rig.start();
    rig.refuse_times(SET, ErrorCode::Busy, 3);
    let mut change = rig.tdi.set_attribute(private(), OPEN, BY).unwrap();
    assert_eq!(change.turn(), AttributeProgress::Ask, "a turn does not wait");
    let held = rig.host.tags().into_iter().filter(|tag| tag.tag == PageTag::Inaccessible);
    assert_eq!(held.count(), 2, "they, and BAR 2");
    changed(&change.wait());
    assert_eq!(rig.log.take().iter().filter(|line| *line == "SET shared").count(), 4);
    assert_eq!(tags(&rig), opened());

    rig.refuse(SET, ErrorCode::Busy);
    let why = unchanged(rig.tdi.set_attribute(private(), To::Private, SOON).unwrap().wait());
    assert!(matches!(why, AttributeError::Request(RequestError::Busy { .. })), "{why:?}");
    assert_eq!((tags(&rig), device(&rig)), (opened(), opened()));
}

#[test]
fn pages_whose_change_was_not_answered_are_nobodys_until_the_tdi_is_unbound() {
    for reach in [false, true] {
        let mut rig = Rig::new(PlatformKind::Soft);
        let run = rig.start();
        rig.lose(SET, reach);
        let report = change(&mut rig, private(), OPEN);
        let lost = AttributeError::Request(RequestError::Transport(TransportError::TimedOut));
        assert_eq!(
            (report.outcome, report.pages.attr),
            (AttributeOutcome::InDoubt(lost), Attr::Inaccessible)
        );
        assert_eq!(tags(&rig)[1], piece(0x2000..0x4000, PageTag::Inaccessible));
        assert!(run.is_live() && rig.host.is_open(), "the rest goes on");
        rig.heal();
        let refused = rig.tdi.set_attribute(bytes(0x3000..0x4000), OPEN, BY).unwrap_err();
        assert_eq!(refused, AttributeError::Change(ChangeError::InDoubt { bar: 0, at: 0x3000 }));
        changed(&change(&mut rig, bytes(0x4000..0x5000), OPEN));
        unbound(rig.unbind()).restore();
        rig.assert_free();
    }
}

#[test]
fn a_tdi_that_goes_to_error_during_the_change_is_in_error_for_everybody() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let run = rig.start();
    let change = rig.tdi.set_attribute(private(), OPEN, BY).unwrap();
    rig.dsm.fail();
    let report = change.wait();
    assert_eq!(unchanged(report), AttributeError::State(TdiState::Error));
    assert!(!run.is_live() && !rig.host.is_open());
    assert_eq!(rig.state(), TdiState::Error);
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn a_drain_that_is_forced_asks_the_device_nothing() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let run = rig.start();
    let window = rig.window(private(), Some(EIO));
    let report = change(&mut rig, private(), OPEN);
    let Outcome::Forced(held) = &report.drain.outcome else { panic!("{report:?}") };
    let why = HeldWhy::Unmap(MapError { op: "unmap", errno: EIO });
    assert!(matches!(&held[..], [Held { why: found, .. }] if *found == why), "{held:?}");
    assert_eq!((report.pages.attr, unchanged(report)), (Attr::Private, AttributeError::NotQuiet));
    assert_eq!(rig.log.take(), ["tags 5", "unmap 0:0x2000", "tags 3"], "the old tags stand");
    assert_eq!((tags(&rig), device(&rig)), (layout(), layout()));
    assert!(run.is_live() && rig.host.is_open());
    // What was forced is forced until it is released; other pages have nothing to do with it.
    assert_eq!(unchanged(change(&mut rig, private(), OPEN)), AttributeError::NotQuiet);
    changed(&change(&mut rig, bytes(0x4000..0x5000), OPEN));
    drop(window);
}

#[test]
fn an_unbind_in_the_middle_ends_the_change() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let run = rig.start();
    let change = rig.tdi.set_attribute(private(), OPEN, BY).unwrap();
    let q = rig.host.quiet();
    let q = rig.host.intercept(Event::Flr, q).unwrap();
    rig.log.take();
    assert_eq!(unchanged(change.wait()), AttributeError::State(TdiState::Unlocked));
    assert!(rig.log.take().is_empty(), "nothing was sent, and nobody was told tags");
    assert!(!run.is_live() && rig.host.tags().is_empty());
    q.restore();
    rig.assert_free();
}

#[test]
fn doubt_in_the_middle_ends_the_change() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let _run = rig.start();
    let change = rig.tdi.set_attribute(private(), OPEN, BY).unwrap();
    drop(rig.host.quiesce(Cause::Doubt, Deadline::default()));
    assert!(matches!(unchanged(change.wait()), AttributeError::Gate(_)));
    assert!(!rig.log.take().contains(&"SET shared".to_owned()));
    assert_eq!((tags(&rig), device(&rig)), (layout(), layout()));
    unbound(rig.unbind()).restore();
    rig.assert_free();
}

#[test]
fn a_change_that_is_given_up_leaves_the_tags_as_they_were() {
    for drop_it in [true, false] {
        let mut rig = Rig::new(PlatformKind::Soft);
        let _run = rig.start();
        // A session that is busy, so that the pages are unmapped by then.
        rig.refuse(SET, ErrorCode::Busy);
        let mut change = rig.tdi.set_attribute(private(), OPEN, BY).unwrap();
        assert_eq!(change.turn(), AttributeProgress::Ask);
        match drop_it {
            true => drop(change),
            false => assert_eq!(unchanged(change.finish()), AttributeError::GivenUp),
        }
        assert_eq!((tags(&rig), device(&rig), mapped(&rig)), (layout(), layout(), 0x8000));
        rig.heal();
        changed(&rig.tdi.set_attribute(private(), OPEN, BY).unwrap().wait());
    }
}

#[test]
fn a_host_that_refuses_the_tags_is_not_disturbed_further() {
    let mut rig = Rig::new(PlatformKind::Soft);
    let _run = rig.start();
    let window = rig.window(private(), None);
    let error = TagError::Overlap { bar: 0, at: 0 };
    rig.host.refuse_tags(Some(error.clone()));
    assert_eq!(rig.tdi.set_attribute(private(), OPEN, BY).unwrap_err(), AttributeError::Tags(error));
    assert!(!window.is_revoked() && rig.log.take().is_empty());
}

#[test]
fn a_report_is_read_in_the_pages_of_the_host() {
    for (page, private) in [(0x1000, 0x8000), (0x4000, 0x8000), (0x1_0000, 0)] {
        let mut rig = Rig::new(PlatformKind::Soft);
        rig.host.set_page(page);
        let locked = rig.lock();
        let tags = rig.host.tags();
        let whole = |tag: PageTag| -> u64 {
            tags.iter().filter(|t| t.tag == tag).map(|t| t.range.end - t.range.start).sum()
        };
        assert_eq!(whole(PageTag::Private), private, "pages of {page:#x}");
        assert_eq!(whole(PageTag::Shared), private);
        let acceptance = rig.provider.accept(&locked).unwrap();
        let _run = locked.start(acceptance).unwrap();
        let part = rig.tdi.set_attribute(bytes(0x1000..0x2000), OPEN, BY).map(drop);
        let (bar, start, end) = (0, 0x1000, 0x2000);
        let unaligned = AttributeError::Change(ChangeError::Unaligned { bar, start, end, page });
        assert_eq!(part, if page == 0x1000 { Ok(()) } else { Err(unaligned) });
        if page == 0x4000 {
            changed(&rig.tdi.set_attribute(bytes(0..0x4000), OPEN, BY).unwrap().wait());
            assert_eq!(rig.host.tags()[0], piece(0..0x4000, PageTag::Shared));
        }
        unbound(rig.unbind()).restore();
        rig.assert_free();
    }
}

#[test]
fn a_host_that_has_no_pages_is_not_bound() {
    for bytes in [0, 0x800, 0x3000] {
        let mut rig = Rig::new(PlatformKind::Tdx);
        rig.host.set_page(bytes);
        let refused = rig.tdi.lock(LockParams::default()).map(drop);
        assert_eq!(refused, Err(BindError::HostPage { bytes }));
        assert!(rig.log.take().is_empty(), "the device was not even asked");
        rig.host.set_page(0x1000);
        rig.assert_free();
    }
}
