//! Each kind of violation, provoked with raw descriptors and registers.

use super::kit::*;
use crate::backend::{Backend, Function, Registers, Rights, Space, Trust};
use crate::engine::edu::abi as edu;
use crate::engine::softnic::abi::Opcode;
use crate::soft::{Breach, FaultKind, FileId, Toward, Who};
use std::os::fd::AsFd;
use tidegate_core::tdi::{PageTag, TaggedRange, TdiState, TrustDomain};

#[test]
fn a_write_that_lands_after_the_targets_stop_is_recorded() {
    let mut lab = Lab::trusted(70);
    lab.soft.hold(NIC, Toward::Function(GPU), true);
    lab.post_copy_in(b"too late", 0);
    lab.wait();
    lab.idle();
    lab.space.unmap(WINDOW, VRAM).unwrap();
    lab.model(GPU).set_state(TdiState::Unlocked, None);
    assert_eq!(lab.breaches(), [Breach::StopWithOutstanding { accepted: 0, outbound: 0, inbound: 1 }]);
    lab.soft.hold(NIC, Toward::Function(GPU), false);
    lab.idle();
    let late = Breach::DmaAfterStop { stopped: GPU, address: WINDOW, len: 8, write: true };
    assert_eq!(lab.breaches()[1..], [late]);
    assert_eq!(lab.soft.violations()[1].who, Who::Function(NIC));
    assert_eq!(lab.vram(0, 8), [0; 8], "T=1 to an unlocked TDI is rejected all the same");
}

#[test]
fn a_write_that_lands_after_the_initiators_stop_is_recorded() {
    let mut lab = Lab::new(82);
    lab.bind(NIC, HOME);
    lab.post(Opcode::Copy, HOST + BUFFER, HOST + BUFFER + 4096, 8);
    lab.idle();
    lab.soft.hold(NIC, Toward::Memory, true);
    lab.soft.wire(NIC).unwrap().send(&[7; 64]).unwrap();
    lab.post(Opcode::Receive, HOST + BUFFER, 0, 64);
    lab.step_until(|lab| lab.soft.wire(NIC).unwrap().sent() == 1);
    lab.idle();
    lab.model(NIC).set_state(TdiState::Unlocked, None);
    lab.soft.hold(NIC, Toward::Memory, false);
    lab.idle();
    let late = Breach::DmaAfterStop { stopped: NIC, address: HOST + BUFFER, len: 64, write: true };
    assert_eq!(lab.breaches()[0], Breach::StopWithOutstanding { accepted: 0, outbound: 3, inbound: 0 });
    assert_eq!(lab.breaches()[1], late);
}

#[test]
fn dma_for_work_accepted_before_the_initiators_stop_is_recorded() {
    let mut lab = Lab::new(71);
    lab.bind(NIC, HOME);
    lab.post(Opcode::Receive, HOST + BUFFER, 0, 64);
    lab.idle();
    lab.model(NIC).set_state(TdiState::Unlocked, None);
    assert_eq!(lab.breaches(), [Breach::StopWithOutstanding { accepted: 1, outbound: 0, inbound: 0 }]);
    lab.soft.wire(NIC).unwrap().send(&[7; 64]).unwrap();
    lab.wait();
    lab.idle();
    let data = Breach::DmaAfterStop { stopped: NIC, address: HOST + BUFFER, len: 64, write: true };
    assert_eq!(lab.breaches()[1], data);
    assert_eq!(lab.breaches().len(), 4, "the data and both halves of the completion");
    lab.post_copy_in(b"new work", 0);
    lab.wait();
    lab.idle();
    assert_eq!(lab.breaches().len(), 4, "work accepted after the stop is fine");
}

#[test]
fn a_doorbell_rung_before_the_stop_is_old_work() {
    let mut lab = Lab::new(81);
    lab.bind(NIC, HOME);
    lab.post(Opcode::Readback, HOST + BUFFER, 0, 8);
    lab.model(NIC).set_state(TdiState::Unlocked, None);
    lab.wait();
    let late = lab.breaches();
    assert!(matches!(late[0], Breach::StopWithOutstanding { accepted: 1, .. }));
    assert!(late[1..].iter().all(|b| matches!(b, Breach::DmaAfterStop { stopped: NIC, .. })));
    assert_eq!(late.len(), 5, "fetch, data, both halves of the completion");
}

#[test]
fn a_stopped_device_that_withheld_a_write_is_caught() {
    let mut lab = Lab::new(72);
    lab.bind(NIC, HOME);
    lab.soft.misbehave(NIC, FaultKind::LateWrite { after: 1000 });
    lab.post(Opcode::Copy, HOST + BUFFER, HOST + BUFFER + 4096, 8);
    lab.wait();
    lab.step_until(|lab| lab.model(NIC).outstanding() == 0);
    lab.model(NIC).set_state(TdiState::Unlocked, None);
    assert_eq!(lab.breaches(), []);
    lab.idle();
    let late = Breach::DmaAfterStop { stopped: NIC, address: HOST + BUFFER + 4096, len: 8, write: true };
    assert_eq!(lab.breaches(), [late]);
}

#[test]
fn an_unmapped_window_contains_a_withheld_write() {
    let mut lab = Lab::trusted(73);
    lab.soft.misbehave(NIC, FaultKind::LateWrite { after: 1000 });
    lab.post_copy_in(b"withheld", 0);
    lab.wait();
    lab.step_until(|lab| lab.model(NIC).outstanding() == 0);
    lab.space.unmap(WINDOW, VRAM).unwrap();
    lab.model(GPU).set_state(TdiState::Unlocked, None);
    lab.idle();
    assert_eq!(lab.breaches(), []);
}

#[test]
fn t0_to_private_pages_is_recorded_for_devices_and_for_the_cpu() {
    let lab = Lab::new(74);
    lab.bind(GPU, HOME);
    let device = lab.soft.open(EDU).unwrap();
    device.attach(&lab.space).unwrap();
    device.config_write(4, 2, 6).unwrap();
    let bar = device.map_bar(0).unwrap();
    bar.write64(edu::DMA_SOURCE, WINDOW + 0x40);
    bar.write64(edu::DMA_TARGET, edu::BUFFER);
    bar.write64(edu::DMA_COUNT, 8);
    bar.write64(edu::DMA_COMMAND, edu::COMMAND_RUN);
    lab.idle();
    lab.gpu.map_bar(0).unwrap().write32(0x80, 1);
    let at = |at, write| Breach::UnprotectedAccess { target: GPU, bar: 0, at, write };
    let who: Vec<Who> = lab.soft.violations().into_iter().map(|v| v.who).collect();
    assert_eq!(lab.breaches(), [at(0x40, false), at(0x80, true)]);
    assert_eq!(who, [Who::Function(EDU), Who::Cpu]);
    assert_eq!(bar.read64(edu::DMA_COMMAND) & edu::COMMAND_RUN, 0, "edu does not notice");
}

#[test]
fn t1_from_another_trust_domain_is_recorded() {
    let mut lab = Lab::trusted(75);
    lab.model(NIC).set_state(TdiState::Unlocked, None);
    lab.bind(NIC, TrustDomain(2));
    lab.post_copy_in(b"stranger", 0);
    lab.wait();
    lab.idle();
    let foreign = Breach::ForeignDomain { target: GPU, from: TrustDomain(2), to: Some(HOME) };
    assert_eq!((lab.breaches(), lab.vram(0, 8)), (vec![foreign], vec![0; 8]));
}

#[test]
fn dma_to_quarantined_memory_is_recorded_until_it_is_released() {
    let mut lab = Lab::new(76);
    let held = 0x9000..0xa000;
    lab.soft.quarantine(lab.host.file().as_fd(), held.clone()).unwrap();
    lab.post(Opcode::Copy, HOST + BUFFER, HOST + 0x8ffc, 8);
    lab.wait();
    lab.idle();
    let file = FileId::of(lab.host.file()).unwrap();
    let touched = Breach::QuarantineTouched { file, range: 0x8ffc..0x9004, write: true };
    assert_eq!(lab.breaches(), [touched]);
    lab.post(Opcode::Readback, HOST + 0x9ff8, 0, 8);
    lab.wait();
    assert_eq!(lab.breaches().len(), 2, "a read touches it too");
    lab.soft.release(lab.host.file().as_fd(), &held).unwrap();
    lab.post(Opcode::Readback, HOST + 0x9ff8, 0, 8);
    lab.wait();
    assert_eq!(lab.breaches().len(), 2);
}

#[test]
fn quarantined_vram_is_guarded_as_host_memory_is() {
    let mut lab = Lab::new(77);
    lab.soft.quarantine(lab.soft.vram_file(GPU).unwrap().as_fd(), 0..4096).unwrap();
    lab.post_copy_in(b"touched!", 0);
    lab.wait();
    lab.idle();
    assert!(matches!(lab.breaches()[..], [Breach::QuarantineTouched { write: true, .. }]));
}

#[test]
fn a_stop_under_a_live_mapping_is_recorded_and_a_dead_one_is_not() {
    for (dead, trust) in [(false, Trust::Private), (false, Trust::Shared), (true, Trust::Shared)] {
        let lab = Lab::on(builder(78).build().unwrap(), trust);
        lab.bind(GPU, HOME);
        if dead {
            lab.gpu.reset().unwrap();
        }
        lab.model(GPU).set_state(TdiState::Unlocked, None);
        let mapped = Breach::MappedAtStop { importer: NIC, iova: WINDOW };
        assert_eq!(lab.breaches(), if dead { vec![] } else { vec![mapped] }, "{trust:?}");
    }
}

fn page(range: std::ops::Range<u64>, tag: PageTag) -> TaggedRange {
    TaggedRange { bar: 0, range, tag }
}

#[test]
fn a_change_of_pages_under_a_live_mapping_is_recorded_and_a_dead_one_is_not() {
    for dead in [false, true] {
        let lab = Lab::on(builder(83).build().unwrap(), Trust::Private);
        lab.bind(GPU, HOME);
        let model = lab.model(GPU);
        model.set_pages(&[page(0..VRAM, PageTag::Private)]);
        assert_eq!(lab.breaches(), [], "nothing changes");
        if dead {
            lab.space.unmap(WINDOW, VRAM).unwrap();
        }
        model.set_pages(&[page(0..VRAM / 2, PageTag::Private), page(VRAM / 2..VRAM, PageTag::Shared)]);
        let mapped = Breach::MappedAtChange { importer: NIC, iova: WINDOW };
        assert_eq!(lab.breaches(), if dead { vec![] } else { vec![mapped] });
    }
}

#[test]
fn a_change_of_other_pages_than_those_that_are_mapped_is_nobodys_business() {
    let lab = Lab::on(builder(84).build().unwrap(), Trust::Private);
    lab.space.unmap(WINDOW, VRAM).unwrap();
    let window = lab.gpu.export(0, 0..4096).unwrap();
    lab.space.map_dmabuf(WINDOW, &window, 4096, Rights::Write, Trust::Private).unwrap();
    lab.bind(GPU, HOME);
    lab.model(GPU).set_pages(&[page(0..4096, PageTag::Private), page(4096..VRAM, PageTag::Shared)]);
    assert_eq!(lab.breaches(), []);
}

#[test]
fn a_change_of_pages_with_requests_on_their_way_is_recorded() {
    let mut lab = Lab::trusted(85);
    lab.soft.hold(NIC, Toward::Function(GPU), true);
    lab.post_copy_in(b"too late", 0x2000);
    lab.wait();
    lab.idle();
    lab.space.unmap(WINDOW, VRAM).unwrap();
    let change = |at: u64| {
        let around = [page(0..at, PageTag::Private), page(at + 0x1000..VRAM, PageTag::Private)];
        lab.model(GPU).set_pages(&around);
    };
    change(0x4000);
    assert_eq!(lab.breaches(), [], "other pages");
    change(0x2000);
    assert_eq!(lab.breaches(), [Breach::ChangedUnderWay { inbound: 1 }]);
}

#[test]
fn a_devices_mapping_of_itself_is_its_own_business() {
    let lab = Lab::new(79);
    let own = lab.soft.space().unwrap();
    lab.space.unmap(WINDOW, VRAM).unwrap();
    own.map_dmabuf(WINDOW, &lab.window, VRAM, Rights::Read, Trust::Shared).unwrap();
    lab.gpu.attach(&own).unwrap();
    lab.bind(GPU, HOME);
    lab.model(GPU).set_state(TdiState::Unlocked, None);
    assert_eq!(lab.breaches(), []);
}

#[test]
fn a_stop_with_work_outstanding_is_recorded() {
    let mut lab = Lab::trusted(80);
    lab.post(Opcode::Receive, WINDOW, 0, 4096);
    lab.idle();
    lab.model(NIC).set_state(TdiState::Unlocked, None);
    assert_eq!(lab.breaches(), [Breach::StopWithOutstanding { accepted: 1, outbound: 0, inbound: 0 }]);
}
