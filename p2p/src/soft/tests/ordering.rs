use super::kit::*;
use crate::backend::{Function, Registers, Space};
use crate::engine::softnic::abi::{self, Opcode};
use crate::soft::{Builder, Refusal, Route, Soft, Toward};

/// A copy into the window whose completion was seen and whose data is held in the lane.
fn held(lab: &mut Lab) {
    lab.soft.hold(NIC, Toward::Function(GPU), true);
    lab.post_copy_in(b"tidegate", 0);
    lab.wait();
    lab.idle();
    assert_eq!(lab.vram(0, 8), [0; 8], "completed, and nothing arrived yet");
}

#[test]
fn a_completion_does_not_prove_that_the_peer_got_the_data() {
    let early = (0..32).any(|seed| {
        let mut lab = Lab::new(seed);
        lab.post_copy_in(b"tidegate", 0);
        lab.wait();
        lab.vram(0, 8) == [0; 8]
    });
    assert!(early, "no seed showed the completion before the data");
}

#[test]
fn an_unmap_does_not_stop_what_is_past_the_iommu() {
    let mut lab = Lab::new(20);
    held(&mut lab);
    assert_eq!(lab.space.unmap(WINDOW, VRAM), Ok(VRAM));
    lab.soft.hold(NIC, Toward::Function(GPU), false);
    lab.idle();
    assert_eq!((lab.vram(0, 8), lab.refusals()), (b"tidegate".to_vec(), vec![]));
}

#[test]
fn an_unmap_stops_what_is_not_yet_past_the_iommu() {
    let mut lab = Lab::new(21);
    lab.post_copy_in(b"tidegate", 0);
    lab.space.unmap(WINDOW, VRAM).unwrap();
    lab.wait();
    lab.idle();
    assert_eq!((lab.vram(0, 8), lab.refusals()), (vec![0; 8], vec![Refusal::Unmapped]));
}

#[test]
fn a_read_by_the_initiator_pushes_its_writes() {
    let mut lab = Lab::new(22);
    held(&mut lab);
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    assert_eq!(lab.wait().tail.to_le_bytes(), *b"tidegate");
    assert_eq!(lab.vram(0, 8), b"tidegate");
}

#[test]
fn a_read_elsewhere_by_the_initiator_pushes_nothing() {
    let mut lab = Lab::new(23);
    held(&mut lab);
    lab.post(Opcode::Readback, HOST + BUFFER, 0, 8);
    lab.wait();
    lab.idle();
    assert_eq!(lab.vram(0, 8), [0; 8]);
}

#[test]
fn a_cpu_read_of_the_target_pushes_through_the_root_complex() {
    for touch in [0, 1] {
        let mut lab = Lab::new(24);
        held(&mut lab);
        match touch {
            0 => assert_eq!(lab.gpu.map_bar(0).unwrap().read64(0).to_le_bytes(), *b"tidegate"),
            _ => drop(lab.gpu.config_read(0, 4).unwrap()),
        }
        assert_eq!(lab.vram(0, 8), b"tidegate");
    }
}

#[test]
fn a_cpu_read_of_the_initiator_pushes_only_as_far_as_the_root_complex() {
    let mut lab = Lab::new(25);
    held(&mut lab);
    lab.bar.read32(abi::ID);
    assert_eq!(lab.vram(0, 8), [0; 8]);
}

#[test]
fn no_cpu_read_pushes_a_direct_route() {
    let below = |b: Builder| b.switch(Route::Direct).nic(NIC).gpu(GPU, VRAM).root_ports().edu(EDU);
    let soft = below(Soft::builder(26)).build().unwrap();
    let mut lab = Lab::on(soft, crate::backend::Trust::Shared);
    held(&mut lab);
    lab.gpu.map_bar(0).unwrap().read64(0);
    lab.gpu.config_read(0, 4).unwrap();
    assert_eq!(lab.vram(0, 8), [0; 8]);
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    assert_eq!(lab.wait().tail.to_le_bytes(), *b"tidegate");
}

#[test]
fn a_redirecting_switch_is_pushed_as_root_ports_are() {
    let soft = Soft::builder(27).switch(Route::RootComplex).nic(NIC).gpu(GPU, VRAM).build().unwrap();
    let mut lab = Lab::on(soft, crate::backend::Trust::Shared);
    held(&mut lab);
    assert_eq!(lab.gpu.map_bar(0).unwrap().read64(0).to_le_bytes(), *b"tidegate");
}

#[test]
fn dma_reaches_registers_of_a_peer() {
    let mut lab = Lab::new(28);
    let registers = lab.gpu.export(2, 0..4096).unwrap();
    let at = WINDOW + (1 << 30);
    lab.space
        .map_dmabuf(at, &registers, 4096, crate::backend::Rights::ReadWrite, crate::backend::Trust::Shared)
        .unwrap();
    lab.host.write(BUFFER, b"doorbell");
    lab.post(Opcode::Copy, HOST + BUFFER, at + 0x10, 8);
    lab.wait();
    let gpu = lab.gpu.map_bar(2).unwrap();
    assert_eq!(gpu.read64(0x10).to_le_bytes(), *b"doorbell");
    lab.post(Opcode::Readback, at + 0x10, 0, 8);
    assert_eq!(lab.wait().tail.to_le_bytes(), *b"doorbell");
}
