//! The story's promises on the running kernel, through the public device layer:
//! `ci/vm run --env TIDEGATE_GUEST=1 -- <this binary> --test-threads=1`.
//!
//! Real exporters (NVMe's controller memory buffer, ivshmem's memory, the VRAM of bochs-display) and `edu`, which does
//! DMA into them and needs 0.1 s a transfer. Elsewhere each test says that it is skipped.

mod guest;
#[path = "guest/trouble.rs"]
mod trouble;

use guest::*;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tidegate::core::drain::{HeldWhy, Outcome};
use tidegate::core::tdi::{Event, Host, HostError, PageTag, TdiState};
use tidegate::core::{Access, Cause, Flow, Memory, Op, QuiesceError, Status, Submit};
use tidegate::p2p::backend::Registers;
use tidegate::p2p::device::{ResetError, Written};
use tidegate::p2p::engine::code;
use tidegate::p2p::{Domain, ExportError, ImportError, Want};
use tidegate::tdisp::state::State;
use tidegate::tdisp::tdi::UnbindOutcome;

#[test]
fn bytes_cross_between_devices_for_three_exporters_and_are_confirmed() {
    let Some(bed) = Bed::open() else { return };
    let mut channel = bed.channel();
    for (seed, kind) in (1..).zip(TARGETS) {
        let target = bed.attach(kind);
        let (_export, import) = bed.window(&target, kind.bar, CHUNK);
        bed.assert_alive(&mut channel, import.region().span(), seed);
        assert_eq!(seen(&target, kind.bar, CHUNK), pattern(seed, CHUNK), "{}: seen by the CPU", kind.name);
        let back = taken(&bed, &mut channel, import.region().span());
        assert_eq!(back, pattern(seed, CHUNK), "{}: read back by edu", kind.name);
    }
}

#[test]
fn an_attached_device_decodes_and_masters() {
    let Some(bed) = Bed::open() else { return };
    let all: Vec<_> = TARGETS.into_iter().map(|kind| bed.attach(kind)).collect();
    for device in all.iter().chain([&bed.edu]) {
        let command = device.config_read(COMMAND, 2).unwrap();
        assert_eq!(command & (MSE | BME), MSE | BME, "{}", device.address());
    }
}

#[test]
fn memory_disable_unbinds_and_revokes_and_recovery_brings_the_import_back() {
    let Some(bed) = Bed::open() else { return };
    let mut channel = bed.channel();
    for (seed, kind) in (10..).step_by(2).zip(TARGETS) {
        let target = bed.attach(kind);
        let config = format!("/sys/bus/pci/devices/{}/config", target.address());
        let command_now = move || u32::from(std::fs::read(&config).unwrap()[usize::from(COMMAND)]);
        let bound = bind(&target, &provider(), kind.bar, PageTag::Shared, command_now);
        let (export, import) = bed.window(&target, kind.bar, CHUNK);
        bed.assert_alive(&mut channel, import.region().span(), seed);
        let (handle, address) = (import.region().handle(), iova(&import));
        let host = bed.host(CHUNK);

        let command = target.config_read(COMMAND, 2).unwrap();
        let plain = target.config_write(COMMAND, 2, command, BY).unwrap();
        assert!(
            matches!(plain, Written::Plain) && bound.run.is_live(),
            "what changes nothing breaks nothing"
        );
        let written = target.config_write(COMMAND, 2, command & !MSE, BY).unwrap();
        let Written::Intercepted { event: Event::MemoryDisable, quiesced } = written else {
            panic!("{written:?}")
        };
        assert!(quiesced.report().is_clean(), "{:?}", quiesced.report());
        assert_eq!(target.config_read(COMMAND, 2).unwrap() & MSE, 0, "{}: it did happen", kind.name);
        assert!(!bound.run.is_live());
        assert_eq!((target.state(), bound.dsm.state()), (TdiState::Unlocked, State::ConfigUnlocked));
        let diary = bound.diary.pages.lock().unwrap().clone();
        assert!(diary.iter().all(|(state, command)| *state != TdiState::Error && command & MSE != 0));
        assert_eq!(diary.last().unwrap().0, TdiState::Unlocked, "before memory went away: {diary:x?}");

        // Dead, and refused for the right reason: the gate first, then the kernel's revoke.
        let dead = submit(&mut channel, Op::copy(host.span(), handle.span(0..CHUNK)));
        assert!(matches!(dead, Submit::Stale(_)), "{dead:?}");
        let import = import.recover().unwrap_err();
        assert!(matches!(import.why, ImportError::Gate(_)), "{}", import.why);
        assert!(matches!(bed.domain.import(&export, Want::default()), Err(ImportError::Gate(_))));
        quiesced.restore();
        assert!(matches!(bed.domain.import(&export, Want::default()), Err(ImportError::Revoked)));
        let import = import.import.recover().unwrap_err();
        assert!(matches!(import.why, ImportError::Revoked), "{}", import.why);

        assert!(matches!(target.config_write(COMMAND, 2, command, BY), Ok(Written::Plain)));
        let import = import.import.recover().unwrap();
        assert_eq!(iova(&import), address, "{}: at the same address", kind.name);
        assert_ne!(import.region().handle(), handle);
        bed.assert_alive(&mut channel, import.region().span(), seed + 1);
        assert_eq!(seen(&target, kind.bar, CHUNK), pattern(seed + 1, CHUNK));
        assert_eq!(target.state(), TdiState::Unlocked, "nothing rebinds by itself");
    }
}

#[test]
fn a_reset_unbinds_first_and_recovery_brings_the_import_back() {
    let Some(bed) = Bed::open() else { return };
    let mut channel = bed.channel();
    for (seed, kind) in (20..).step_by(2).zip(TARGETS) {
        let target = bed.attach(kind);
        // A register of the controller that only a reset clears: CC of NVMe; elsewhere VRAM, which keeps its bytes.
        let register = if kind.id == NVME.id { (0, 0x14) } else { (kind.bar, AT + CHUNK) };
        let mapped = Arc::new(Mutex::new(Some(bar(&target, register.0))));
        let look = {
            let mapped = mapped.clone();
            move || mapped.lock().unwrap().as_ref().map_or(0, |bar| bar.read32(register.1))
        };
        let write = |value| mapped.lock().unwrap().as_ref().unwrap().write32(register.1, value);
        write(0x0046_0000);
        let bound = bind(&target, &provider(), kind.bar, PageTag::Shared, look.clone());
        let (_export, import) = bed.window(&target, kind.bar, CHUNK);
        bed.assert_alive(&mut channel, import.region().span(), seed);
        let (handle, address) = (import.region().handle(), iova(&import));
        let host = bed.host(CHUNK);

        assert_eq!(target.reset_kind(), kind.reset);
        let (event, quiesced) = target.reset(quiet(&target, Cause::Reset), BY).unwrap();
        assert_eq!(event, kind.reset);
        assert!(!bound.run.is_live());
        assert_eq!((target.state(), bound.dsm.state()), (TdiState::Unlocked, State::ConfigUnlocked));
        let diary = bound.diary.pages.lock().unwrap().clone();
        assert!(diary.iter().all(|page| page.1 == 0x0046_0000), "{}: each before the reset", kind.name);
        assert_eq!(diary.last().unwrap().0, TdiState::Unlocked);
        if kind.id == NVME.id {
            assert_eq!(look(), 0, "it was reset for real");
        }
        *mapped.lock().unwrap() = None;

        let dead = submit(&mut channel, Op::copy(host.span(), handle.span(0..CHUNK)));
        assert!(matches!(dead, Submit::Stale(_)), "{dead:?}");
        quiesced.restore();
        let import = import.recover().unwrap();
        assert_eq!(iova(&import), address);
        bed.assert_alive(&mut channel, import.region().span(), seed + 1);
        assert_eq!(seen(&target, kind.bar, CHUNK), pattern(seed + 1, CHUNK));
    }
}

#[test]
fn the_intercept_names_the_reset_and_an_observer_can_hold_it_back() {
    let Some(bed) = Bed::open() else { return };
    for kind in TARGETS {
        let target = bed.attach(kind);
        let listener = Arc::new(Listener::default());
        target.observe(Some(listener.clone()));
        listener.refuses.store(1, Ordering::Relaxed);
        let refused = target.reset(quiet(&target, Cause::Reset), BY).unwrap_err();
        let ResetError::Refused(refused) = refused else { panic!("{refused}") };
        assert_eq!(*listener.heard.lock().unwrap(), [("before", kind.reset)], "{}: held back", kind.name);
        listener.refuses.store(0, Ordering::Relaxed);
        let (_, quiesced) = target.reset(refused.back.unwrap(), BY).unwrap();
        let heard = std::mem::take(&mut *listener.heard.lock().unwrap());
        assert_eq!(heard, [("before", kind.reset), ("before", kind.reset), ("after", kind.reset)]);
        quiesced.restore();
        // FLR by the function's own bit: the same event, whatever VFIO_DEVICE_RESET would be.
        let Some(pcie) = target.caps().pcie.filter(|pcie| pcie.flr) else { continue };
        let control = target.config_read(pcie.devctl(), 2).unwrap();
        let written = target.config_write(pcie.devctl(), 2, control | 0x8000, BY).unwrap();
        assert!(matches!(written, Written::Intercepted { event: Event::Flr, .. }), "{written:?}");
        assert_eq!(*listener.heard.lock().unwrap(), [("before", Event::Flr), ("after", Event::Flr)]);
    }
}

#[test]
fn a_device_without_a_reset_says_so_and_gives_the_proof_back() {
    let Some(bed) = Bed::open() else { return };
    let target = bed.attach(IVSHMEM);
    let (_export, import) = bed.window(&target, IVSHMEM.bar, CHUNK);
    let foreign = bed.edu.reset(quiet(&target, Cause::Reset), BY).unwrap_err();
    let ResetError::Foreign(foreign) = foreign else { panic!("{foreign}") };
    foreign.restore();
    let import = import.recover().unwrap();
    let error = bed.edu.reset(quiet(&bed.edu, Cause::Reset), BY).unwrap_err();
    let ResetError::Host { why: HostError::Unsupported { op: "reset" }, back } = error else {
        panic!("{error}")
    };
    assert!(back.is_for(bed.edu.gate()));
    back.restore();
    bed.assert_alive(&mut bed.channel(), import.region().span(), 30);
}

#[test]
fn a_window_that_died_unasked_is_never_confirmed() {
    let Some(bed) = Bed::open() else { return };
    for kind in TARGETS {
        let target = bed.attach(kind);
        let (_export, import) = bed.window(&target, kind.bar, CHUNK);
        let mut channel = bed.channel();
        bed.assert_alive(&mut channel, import.region().span(), 40);
        let confirmed = channel.confirmed();
        // Root switches memory decode off past VFIO: no gate, no revoke, no notice. The mapping leads nowhere.
        let command = target.config_read(COMMAND, 2).unwrap();
        write_command_past_vfio(target.address(), command & !MSE);
        assert!(target.watch(BY).is_none(), "nobody tells");
        let host = bed.host(CHUNK);
        host.write(0, &pattern(41, CHUNK)).unwrap();
        let lie = copy(&mut channel, host.span(), import.region().span());
        assert_eq!(lie.status, Status::Done, "the device says that all went well");
        assert_eq!(confirm(&mut channel).status, Status::Device(code::DEAD_WINDOW), "{}", kind.name);
        assert_eq!(channel.confirmed(), confirmed, "{}: and nothing confirms it", kind.name);

        // Doubt: the quiesce ends by force, and names what nothing confirms.
        let quiesced = target.quiesce(Cause::Doubt, BY).unwrap().wait().unwrap();
        let report = quiesced.report().clone();
        let Outcome::Forced(held) = &report.outcome else { panic!("{report:?}") };
        assert!(held.iter().any(|h| h.why == HeldWhy::NotFlushed), "{report:?}");
        assert!(report.unconfirmed.iter().any(|(_, first, last)| (*first..=*last).contains(&lie.ticket)));
        assert_eq!(channel.confirmed(), confirmed);
        drop(channel);
        assert!(matches!(target.config_write(COMMAND, 2, command, BY), Ok(Written::Plain)));
        quiesced.restore();
        let import = import.recover().unwrap();
        assert_eq!(seen(&target, kind.bar, CHUNK), pattern(40, CHUNK), "{}: nothing arrived", kind.name);
        bed.assert_alive(&mut bed.channel(), import.region().span(), 42);
    }
}

#[test]
fn close_kills_imports_and_tells_the_tdi() {
    let Some(bed) = Bed::open() else { return };
    for kind in TARGETS {
        let mut channel = bed.channel();
        let target = bed.attach(kind);
        let bound = bind(&target, &provider(), kind.bar, PageTag::Shared, || 0);
        let (export, import) = bed.window(&target, kind.bar, CHUNK);
        bed.assert_alive(&mut channel, import.region().span(), 50);
        let host = bed.host(CHUNK);
        let gate = target.gate().clone();
        let again = target.clone();
        target.close(BY).unwrap();
        assert!(!bound.run.is_live());
        assert_eq!((again.state(), bound.dsm.state()), (TdiState::Unlocked, State::ConfigUnlocked));
        assert!(matches!(again.export(kind.bar, 0..CHUNK), Err(ExportError::Gate(_))));
        let dead = submit(&mut channel, Op::copy(host.span(), import.region().span()));
        assert!(matches!(dead, Submit::Stale(_)), "{dead:?}");
        assert!(matches!(bed.domain.import(&export, Want::default()), Err(ImportError::Gate(_))));
        assert!(gate.check().is_err());
        assert_eq!(gate.windows(), 0);
        // The last clones go: the function is free for its next owner, and revoked for ever.
        drop((again, export, import, bound));
        let target = bed.attach(kind);
        let (_export, import) = bed.window(&target, kind.bar, CHUNK);
        bed.assert_alive(&mut channel, import.region().span(), 51);
        drop(channel);
    }
}

#[test]
fn a_handle_of_another_domain_is_denied() {
    let Some(bed) = Bed::open() else { return };
    let target = bed.attach(IVSHMEM);
    let (export, import) = bed.window(&target, IVSHMEM.bar, CHUNK);
    let other = Domain::new(bed.domain.fabric(), bed.vfio.clone()).unwrap();
    let memory = Memory::allocate("other", CHUNK).unwrap();
    let region = other.register(memory.backing(), Access::ReadWrite).unwrap();
    let window = other.import(&export, Want::default()).unwrap();
    let mut channel = bed.channel();
    let host = bed.host(CHUNK);
    for op in [
        Op::copy(region.span(), import.region().span()),
        Op::copy(host.span(), region.span()),
        Op::copy(host.span(), window.region().span()),
    ] {
        assert_eq!(submit(&mut channel, op), Submit::Denied(Flow::Domain));
    }
    bed.assert_alive(&mut channel, import.region().span(), 60);
    // One quiesce ends both domains' windows.
    assert_eq!(target.gate().windows(), 2);
    let quiesced = quiet(&target, Cause::User);
    assert!(window.region().is_revoked() && import.region().is_revoked());
    assert!(matches!(target.quiesce(Cause::User, BY), Err(QuiesceError::Busy { .. })), "one at a time");
    quiesced.restore();
    assert!(window.recover().is_ok() && import.recover().is_ok());
}

#[test]
fn a_private_window_is_refused_without_a_tsm_and_counted_with_an_emulated_one() {
    for emulate in [false, true] {
        let bed = if emulate { Bed::emulated() } else { Bed::open() };
        let Some(bed) = bed else { return };
        let (target, provider) = (bed.attach(BOCHS), provider());
        let target_tdi = bind(&target, &provider, BOCHS.bar, PageTag::Private, || 0);
        let edu_tdi = bind(&bed.edu, &provider, 0, PageTag::Shared, || 0);
        let export = target.export(BOCHS.bar, AT..AT + CHUNK).unwrap();
        assert!(matches!(bed.domain.import(&export, Want::default()), Err(ImportError::Tag { .. })));
        let backwards = provider.link(&target_tdi.run, &edu_tdi.run).unwrap();
        assert!(matches!(bed.domain.import_private(&export, &backwards), Err(ImportError::Link)));
        let link = provider.link(&edu_tdi.run, &target_tdi.run).unwrap();
        let fabric = bed.domain.fabric();
        assert_eq!(fabric.emulated_imports(), 0);
        if !emulate {
            let refused = bed.domain.import_private(&export, &link);
            assert!(matches!(refused, Err(ImportError::NoTrustedTable)), "{refused:?}");
            assert_eq!((fabric.emulated_imports(), target.gate().windows()), (0, 0));
            continue;
        }
        let import = bed.domain.import_private(&export, &link).unwrap();
        assert_eq!(fabric.emulated_imports(), 1);
        let mut channel = bed.channel();
        bed.assert_alive(&mut channel, import.region().span(), 70);
        assert_eq!(seen(&target, BOCHS.bar, CHUNK), pattern(70, CHUNK));
        // A proof dies with its RUN.
        let mut target_tdi = target_tdi;
        let report = target_tdi.tdi.unbind(quiet(&target, Cause::Unbind), BY).wait();
        let UnbindOutcome::Unbound(quiesced) = report.outcome else { panic!("{report:?}") };
        quiesced.restore();
        assert!(matches!(bed.domain.import_private(&export, &link), Err(ImportError::Link)));
        assert_eq!(fabric.emulated_imports(), 1, "only what was imported is counted");
        // T=1 does not reach a shared window.
        let shared = import.recover().unwrap();
        let host = bed.host(CHUNK);
        let op = Op::copy(host.span(), shared.region().span());
        assert_eq!(submit(&mut channel, op), Submit::Denied(Flow::Trust));
    }
}

#[test]
fn the_msix_table_is_not_exported_unless_asked_aloud() {
    let Some(bed) = Bed::open() else { return };
    for id in [NVME.id, IGB] {
        let device = bed.domain.attach(bed.find(id)).unwrap();
        let msix = device.caps().msix.unwrap();
        for place in [msix.table, msix.pba] {
            let size = device.bars()[usize::from(place.bar)];
            let page = place.offset & !(CHUNK - 1)..(place.offset & !(CHUNK - 1)) + CHUNK;
            for range in [page.clone(), 0..size] {
                let refused = device.export(place.bar, range);
                assert!(matches!(refused, Err(ExportError::Msix { .. })), "{refused:?}");
            }
            device.export_with_msix(place.bar, page).unwrap();
        }
        for bad in [1..CHUNK + 1, 0..0, 0..1 << 40] {
            assert!(matches!(device.export(msix.table.bar ^ 1, bad), Err(ExportError::Range { .. })));
        }
    }
}
