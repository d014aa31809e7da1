use super::kit::*;
use crate::backend::{
    Backend, BackendError, DeviceProblem, Function, Notice, Registers, ResetMethod, Rights, Space, Trust,
};
use crate::engine::softnic::abi::Opcode;
use crate::soft::{BuildError, FaultKind, GPU_ID, Refusal, Soft, gpu_register};

fn import(lab: &Lab, iova: u64) -> Result<(), BackendError> {
    lab.space.map_dmabuf(iova, &lab.window, VRAM, Rights::ReadWrite, Trust::Shared)
}

/// Does a copy into the window arrive?
fn arrives(lab: &mut Lab, text: &[u8; 8]) -> bool {
    lab.post_copy_in(text, 0);
    lab.wait();
    lab.idle();
    lab.vram(0, 8) == text
}

/// The import is dead, stays dead, and comes back only by unmap and map.
fn dead_until_remapped(lab: &mut Lab) {
    assert!(!arrives(lab, b"revoked!"), "a dead import let DMA through");
    assert_eq!(lab.refusals().last(), Some(&Refusal::Unmapped));
    assert_eq!(import(lab, WINDOW), Err(BackendError::Occupied { iova: WINDOW }));
    assert_eq!(lab.space.unmap(WINDOW, VRAM), Ok(VRAM), "a dead mapping unmaps normally");
    assert_eq!(import(lab, WINDOW), Ok(()));
    assert!(arrives(lab, b"remapped"));
}

#[test]
fn memory_decode_off_kills_imports_and_on_restores_none() {
    let mut lab = Lab::new(30);
    assert!(arrives(&mut lab, b"mapped!!"));
    lab.gpu.config_write(4, 2, 0).unwrap();
    assert_eq!(import(&lab, WINDOW + (1 << 30)), Err(BackendError::Revoked));
    lab.gpu.config_write(4, 2, 2).unwrap();
    dead_until_remapped(&mut lab);
}

#[test]
fn sleep_kills_imports_and_waking_restores_none() {
    let mut lab = Lab::new(31);
    lab.gpu.config_write(0x44, 2, 3).unwrap();
    assert_eq!(lab.gpu.map_bar(2).unwrap().read32(gpu_register::ID), u32::MAX);
    assert_eq!(import(&lab, WINDOW + (1 << 30)), Err(BackendError::Revoked));
    lab.gpu.config_write(0x44, 2, 0).unwrap();
    assert_eq!(lab.gpu.map_bar(2).unwrap().read32(gpu_register::ID), GPU_ID);
    dead_until_remapped(&mut lab);
}

#[test]
fn every_reset_kills_imports_also_one_that_fails() {
    let resets: [fn(&Lab); 3] = [
        |lab| assert_eq!(lab.gpu.reset(), Ok(())),
        |lab| {
            lab.soft.misbehave(GPU, FaultKind::FailResets(1));
            assert_eq!(lab.gpu.reset(), Err(BackendError::Os { op: "reset", errno: libc::EAGAIN }));
        },
        |lab| lab.gpu.config_write(0x58, 2, 0x8000).unwrap(),
    ];
    for reset in resets {
        let mut lab = Lab::new(32);
        let scratch = lab.gpu.map_bar(2).unwrap();
        scratch.write64(gpu_register::SCRATCH, 7);
        let before = scratch.read32(gpu_register::RESETS);
        reset(&lab);
        let was_reset = scratch.read32(gpu_register::RESETS) > before;
        assert_eq!(scratch.read64(gpu_register::SCRATCH), if was_reset { 0 } else { 7 });
        dead_until_remapped(&mut lab);
    }
}

#[test]
fn a_function_without_reset_methods_answers_einval_and_loses_its_imports() {
    let soft = builder(33).resets(GPU, &[]).build().unwrap();
    let mut lab = Lab::on(soft, Trust::Shared);
    assert_eq!(lab.gpu.reset_methods(), []);
    assert_eq!(lab.gpu.reset(), Err(BackendError::Os { op: "reset", errno: libc::EINVAL }));
    assert_eq!(lab.gpu.config_write(0x58, 2, 0x8000), Ok(()), "no FLR capability: the bit does nothing");
    dead_until_remapped(&mut lab);
}

#[test]
fn a_close_revokes_for_ever() {
    let Lab { gpu, soft, space, window, .. } = Lab::new(34);
    drop(gpu);
    space.unmap(WINDOW, VRAM).unwrap();
    let again = soft.open(GPU).unwrap();
    let map = |from| space.map_dmabuf(WINDOW, from, VRAM, Rights::ReadWrite, Trust::Shared);
    assert_eq!(map(&window), Err(BackendError::Revoked));
    again.reset().unwrap();
    assert_eq!(map(&window), Err(BackendError::Revoked));
    assert_eq!(map(&again.export(0, 0..VRAM).unwrap()), Ok(()));
}

#[test]
fn an_export_without_memory_decode_is_born_revoked() {
    let lab = Lab::new(35);
    lab.gpu.config_write(4, 2, 0).unwrap();
    let window = lab.gpu.export(0, 0..4096).unwrap();
    let map = || lab.space.map_dmabuf(0x1000, &window, 4096, Rights::Read, Trust::Shared);
    assert_eq!(map(), Err(BackendError::Revoked));
    lab.gpu.config_write(4, 2, 2).unwrap();
    assert_eq!(map(), Ok(()));
}

#[test]
fn closing_the_export_leaves_its_imports() {
    let mut lab = Lab::new(36);
    lab.window = lab.gpu.export(0, 0..4096).unwrap();
    assert!(arrives(&mut lab, b"imported"));
}

#[test]
fn a_detached_function_and_one_without_bus_mastering_do_no_dma() {
    let mut lab = Lab::new(37);
    lab.post(Opcode::Receive, WINDOW, 0, 4096);
    lab.idle();
    lab.nic.detach().unwrap();
    lab.soft.wire(NIC).unwrap().send(b"detached").unwrap();
    lab.idle();
    assert!(lab.refusals().iter().all(|why| *why == Refusal::Detached) && !lab.refusals().is_empty());
    assert_eq!(lab.vram(0, 8), [0; 8]);

    let mut lab = Lab::new(37);
    lab.nic.config_write(4, 2, 2).unwrap();
    lab.post_copy_in(b"no bme..", 0);
    lab.idle();
    assert_eq!((lab.refusals(), lab.poll()), (vec![Refusal::BusMasterOff], None));
}

#[test]
fn rights_of_a_mapping_hold() {
    let mut lab = Lab::new(38);
    lab.space.unmap(WINDOW, VRAM).unwrap();
    lab.space.map_dmabuf(WINDOW, &lab.window, VRAM, Rights::Read, Trust::Shared).unwrap();
    assert!(!arrives(&mut lab, b"readonly"));
    assert_eq!(lab.refusals(), [Refusal::Rights]);
}

#[test]
fn mappings_are_checked_before_they_are_made() {
    let lab = Lab::new(39);
    let map = |iova, len| lab.space.map_dmabuf(iova, &lab.window, len, Rights::Read, Trust::Shared);
    for (iova, len) in
        [(1, 4096), (0, 0), (0, 100), (0, VRAM * 2), (0xfee0_0000, 4096), (u64::MAX - 4095, 4096)]
    {
        assert!(matches!(map(iova, len), Err(BackendError::Range { .. })), "{iova:#x}+{len:#x}");
    }
    assert!(lab.space.unmap(WINDOW, 4096).is_err(), "part of a mapping");
    assert!(lab.space.unmap(0x7000_0000, 4096).is_err(), "nothing there");
    for range in [0..VRAM * 2, 1..4096, 4096..4096] {
        assert!(matches!(lab.gpu.export(0, range), Err(BackendError::Range { .. })));
    }
    assert!(matches!(lab.gpu.export(1, 0..4096), Err(BackendError::NoBar { bar: 1 })));
    let elsewhere = Soft::builder(1).gpu(GPU, VRAM).build().unwrap();
    let foreign = elsewhere.open(GPU).unwrap().export(0, 0..4096).unwrap();
    let map = lab.space.map_dmabuf(0x1000, &foreign, 4096, Rights::Read, Trust::Shared);
    assert!(matches!(map, Err(BackendError::Os { errno: libc::EOPNOTSUPP, .. })));
    assert!(lab.nic.attach(&elsewhere.space().unwrap()).is_err());
}

#[test]
fn opening_is_exclusive_and_resets_as_a_bind_does() {
    let lab = Lab::new(40);
    let open = |at| lab.soft.open(at).map(|f| f.at());
    assert!(matches!(open(NIC), Err(BackendError::GroupBusy { at: NIC, .. })));
    let nowhere = "0000:09:00.0".parse().unwrap();
    assert_eq!(open(nowhere), Err(BackendError::Device { at: nowhere, what: DeviceProblem::Missing }));
    let soft = lab.soft.clone();
    drop(lab);
    let nic = soft.open(NIC).unwrap();
    assert_eq!(nic.config_read(4, 2).unwrap() & 6, 2, "memory decode on, bus mastering off");
}

#[test]
fn a_close_takes_the_address_space_away() {
    let Lab { nic, soft, space: _space, host: _host, gpu: _gpu, bar, .. } = Lab::new(42);
    drop(nic);
    assert_eq!(bar.read32(crate::engine::softnic::abi::ID), u32::MAX, "a closed function does not answer");
    let nic = soft.open(NIC).unwrap();
    nic.config_write(4, 2, 6).unwrap();
    bar.write32(crate::engine::softnic::abi::CONTROL, 1);
    bar.write64(0x100, HOST);
    bar.write32(0x110, 2);
    bar.write32(0x114, 1);
    bar.write32(0x120, 1);
    soft.run_until_idle(100);
    assert_eq!(soft.faults().last().map(|f| f.why), Some(Refusal::Detached));
}

#[test]
fn a_reset_device_never_gets_the_bytes_of_an_old_read() {
    let lab = Lab::new(43);
    lab.host.write(0, b"old read");
    lab.host.write(8, b"new read");
    let read = |edu: &crate::soft::OpenFunction, from: u64, to: u64, command: u64| {
        let bar = edu.map_bar(0).unwrap();
        edu.attach(&lab.space).unwrap();
        edu.config_write(4, 2, 6).unwrap();
        for (at, value) in [(0x80, from), (0x88, to), (0x90, 8), (0x98, command)] {
            bar.write64(at, value);
        }
    };
    let edu = lab.soft.open(EDU).unwrap();
    read(&edu, HOST, 0x40000, 1);
    assert!(lab.soft.step(), "the old read is issued");
    drop(edu);
    let edu = lab.soft.open(EDU).unwrap();
    read(&edu, HOST + 8, 0x40000, 1);
    lab.idle();
    read(&edu, 0x40000, HOST + BUFFER, 3);
    lab.idle();
    let mut got = [0; 8];
    lab.host.read(BUFFER, &mut got);
    assert_eq!(got, *b"new read");
}

#[test]
fn functions_answer_with_their_ids_bars_and_notices() {
    let lab = Lab::new(41);
    let edu = lab.soft.open(EDU).unwrap();
    assert_eq!((edu.config_read(0, 4), edu.config_read(8, 4)), (Ok(0x11e8_1234), Ok(0x00ff_0010)));
    assert_eq!((edu.bars(), edu.reset_methods()), ([1 << 20, 0, 0, 0, 0, 0], vec![]));
    assert_eq!(lab.gpu.bars(), [VRAM, 0, 4096, 0, 8192, 0]);
    assert_eq!(lab.nic.reset_methods(), [ResetMethod::Flr]);
    assert_eq!(lab.gpu.bar_congruence(0) % VRAM, 0);
    lab.soft.notify(GPU, Notice::Request);
    assert_eq!((lab.gpu.notice(), lab.gpu.notice(), lab.nic.notice()), (Some(Notice::Request), None, None));
    assert_eq!(lab.soft.functions(), [NIC, GPU, EDU]);
}

#[test]
fn impossible_fabrics_are_refused() {
    let twice = Soft::builder(0).edu(EDU).nic(EDU).build();
    assert_eq!(twice.err(), Some(BuildError::Twice { at: EDU }));
    for vram in [1000, 3 << 20, 1 << 40] {
        let odd = Soft::builder(0).gpu(GPU, vram).build();
        assert_eq!(odd.err(), Some(BuildError::Bar { at: GPU, bar: 0 }));
    }
}
