use super::kit::*;
use crate::backend::{Function, Registers, ResetMethod, Space, Trust};
use crate::engine::softnic::abi::{self, Opcode};
use crate::soft::{FaultKind, Refusal, gpu_register};
use tidegate_core::tdi::{PageTag, TaggedRange, TdiState, TrustDomain};

fn state(lab: &Lab) -> TdiState {
    lab.soft.tdi_state(GPU).unwrap()
}

#[test]
fn two_tdis_in_run_reach_each_other_by_private_windows_only() {
    let mut lab = Lab::trusted(50);
    lab.post_copy_in(b"private!", 0);
    lab.wait();
    lab.idle();
    assert_eq!((lab.vram(0, 8), lab.refusals(), lab.breaches()), (b"private!".to_vec(), vec![], vec![]));

    let mut lab = Lab::new(50);
    lab.bind(GPU, HOME);
    lab.bind(NIC, HOME);
    lab.post_copy_in(b"ioas....", 0);
    lab.wait();
    lab.idle();
    assert_eq!((lab.vram(0, 8), lab.refusals()), (vec![0; 8], vec![Refusal::Unmapped]));
}

#[test]
fn a_tdi_in_locked_or_error_sends_nothing() {
    for end in [TdiState::Locked, TdiState::Error] {
        let mut lab = Lab::new(51);
        lab.model(NIC).set_state(TdiState::Locked, Some(HOME));
        lab.model(NIC).set_state(end, None);
        lab.post_copy_in(b"silence!", 0);
        lab.idle();
        assert_eq!((lab.refusals(), lab.poll()), (vec![Refusal::NotRunning], None), "{end:?}");
    }
}

#[test]
fn a_read_whose_initiator_left_run_is_not_answered() {
    let mut lab = Lab::trusted(52);
    lab.soft.hold(NIC, crate::soft::Toward::Memory, true);
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    // The fetch of the descriptor is under way when the TDI fails.
    assert!(lab.soft.step());
    lab.model(NIC).set_state(TdiState::Error, None);
    lab.idle();
    assert_eq!(lab.refusals(), [Refusal::LateCompletion]);
    assert_ne!(lab.register(abi::QUEUE_STATUS) & abi::QUEUE_STATUS_FAILED, 0);
}

#[test]
fn private_pages_answer_a_cpu_of_their_domain_and_no_other() {
    let lab = Lab::trusted(53);
    lab.model(GPU).set_pages(&[
        TaggedRange { bar: 0, range: 0..4096, tag: PageTag::Private },
        TaggedRange { bar: 4, range: 0..4096, tag: PageTag::MsixLocked },
    ]);
    let (host, home) = (lab.gpu.map_bar(0).unwrap(), lab.gpu.map_bar_trusted(0, HOME).unwrap());
    home.write64(0, 0x1234);
    assert_eq!((home.read64(0), host.read64(0), host.read32(0)), (0x1234, u64::MAX, u32::MAX));
    host.write64(0, 0);
    assert_eq!(home.read64(0), 0x1234, "the host's write was dropped");
    let away = lab.gpu.map_bar_trusted(0, TrustDomain(2)).unwrap();
    assert_eq!(away.read64(0), u64::MAX);
    host.write64(4096, 7);
    assert_eq!((host.read64(4096), home.read64(4096)), (7, u64::MAX), "beyond: shared, no T=1");
    assert_eq!(lab.gpu.map_bar(4).unwrap().read32(0), u32::MAX);
    assert_eq!(lab.gpu.map_bar(2).unwrap().read32(gpu_register::RESETS), 1, "other BARs are open");
}

#[test]
fn pages_that_change_in_run_answer_by_their_new_tag() {
    let lab = Lab::new(62);
    lab.space.unmap(WINDOW, VRAM).unwrap();
    lab.bind(GPU, HOME);
    let (host, home) = (lab.gpu.map_bar(0).unwrap(), lab.gpu.map_bar_trusted(0, HOME).unwrap());
    home.write64(4096, 7);
    for tag in [PageTag::Shared, PageTag::Private] {
        let piece = |range, tag| TaggedRange { bar: 0, range, tag };
        lab.model(GPU).set_pages(&[piece(0..4096, PageTag::Private), piece(4096..8192, tag)]);
        let (seen, hidden) = if tag == PageTag::Shared { (&host, &home) } else { (&home, &host) };
        assert_eq!((seen.read64(4096), hidden.read64(4096)), (7, u64::MAX), "{tag:?}");
        assert_eq!((home.read64(0), host.read64(0)), (0, u64::MAX), "the page before stays private");
    }
}

#[test]
fn an_unlocked_tdi_answers_no_t1() {
    let lab = Lab::new(61);
    let home = lab.gpu.map_bar_trusted(0, HOME).unwrap();
    home.write64(0, 7);
    assert_eq!((home.read64(0), lab.vram(0, 8)), (u64::MAX, vec![0; 8]));
    assert_eq!(lab.refusals(), [Refusal::TargetNotRunning; 2]);
}

#[test]
fn a_lenient_fabric_answers_t1_to_shared_pages_in_run() {
    let lab = Lab::on(builder(54).lenient().build().unwrap(), Trust::Private);
    lab.bind(GPU, HOME);
    lab.model(GPU).set_pages(&[TaggedRange { bar: 0, range: 0..4096, tag: PageTag::Private }]);
    assert_eq!(lab.gpu.map_bar_trusted(0, HOME).unwrap().read64(4096), 0);
}

#[test]
fn config_writes_lead_a_bound_tdi_to_error_and_an_unlocked_one_nowhere() {
    let writes: [(&str, u16, u8, u32); 5] = [
        ("memory decode off", 4, 2, 4),
        ("bus mastering off", 4, 2, 2),
        ("a BAR", 0x10, 4, u32::MAX),
        ("FLR", 0x58, 2, 0x8000),
        ("sleep", 0x44, 2, 3),
    ];
    for (what, at, width, value) in writes {
        for bound in [true, false] {
            let lab = Lab::new(55);
            lab.gpu.config_write(4, 2, 6).unwrap();
            if bound {
                lab.bind(GPU, HOME);
            }
            assert_eq!(lab.gpu.config_write(at, width, value), Ok(()), "{what}");
            let want = if bound { TdiState::Error } else { TdiState::Unlocked };
            assert_eq!(state(&lab), want, "{what}");
        }
    }
    let lab = Lab::trusted(55);
    lab.gpu.config_write(4, 2, 0x142 | 6).unwrap();
    lab.gpu.config_write(0x0c, 2, 0x10).unwrap();
    assert_eq!(state(&lab), TdiState::Run, "setting bits and the cache line size are harmless");
}

#[test]
fn an_flr_leads_to_error_and_a_bus_reset_to_unlocked() {
    for (method, want) in [(ResetMethod::Flr, TdiState::Error), (ResetMethod::Bus, TdiState::Unlocked)] {
        let lab = Lab::on(builder(56).resets(GPU, &[method]).build().unwrap(), Trust::Private);
        lab.bind(GPU, HOME);
        lab.gpu.map_bar_trusted(0, HOME).unwrap().write64(0, 7);
        lab.gpu.reset().unwrap();
        assert_eq!(state(&lab), want);
        let secret = lab.vram(0, 1)[0];
        assert_eq!(secret, if want == TdiState::Error { 7 } else { 0 }, "{method:?}");
        assert_eq!(lab.gpu.map_bar(0).unwrap().read32(0), if want == TdiState::Error { u32::MAX } else { 0 });
    }
}

#[test]
fn a_stop_clears_private_pages_unless_told_not_to() {
    for (keep, want) in [(false, [0, 9]), (true, [7, 9])] {
        let builder = if keep { builder(57).keep_private_pages() } else { builder(57) };
        let lab = Lab::on(builder.build().unwrap(), Trust::Private);
        lab.bind(GPU, HOME);
        lab.space.unmap(WINDOW, VRAM).unwrap();
        lab.model(GPU).set_pages(&[TaggedRange { bar: 0, range: 0..8192, tag: PageTag::Private }]);
        lab.gpu.map_bar_trusted(0, HOME).unwrap().write64(4096, 7);
        lab.gpu.map_bar(0).unwrap().write64(8192, 9);
        lab.model(GPU).set_state(TdiState::Unlocked, None);
        let host = lab.gpu.map_bar(0).unwrap();
        assert_eq!([host.read64(4096), host.read64(8192)], want);
        assert_eq!(lab.breaches(), []);
    }
}

#[test]
fn a_tdi_fails_by_itself_when_told_to() {
    let lab = Lab::trusted(58);
    lab.soft.misbehave(GPU, FaultKind::TdiError);
    lab.soft.misbehave(EDU, FaultKind::TdiError);
    assert_eq!((state(&lab), lab.soft.tdi_state(EDU)), (TdiState::Error, Some(TdiState::Unlocked)));
}

#[test]
fn after_stop_the_device_is_ordinary_again() {
    let mut lab = Lab::trusted(59);
    lab.space.unmap(WINDOW, VRAM).unwrap();
    lab.model(GPU).set_state(TdiState::Unlocked, None);
    lab.model(NIC).set_state(TdiState::Unlocked, None);
    lab.space
        .map_dmabuf(WINDOW, &lab.window, VRAM, crate::backend::Rights::ReadWrite, Trust::Shared)
        .unwrap();
    lab.post_copy_in(b"ordinary", 0);
    lab.wait();
    lab.idle();
    assert_eq!((lab.vram(0, 8), lab.breaches()), (b"ordinary".to_vec(), vec![]));
}

#[test]
fn the_model_counts_what_is_outstanding() {
    let mut lab = Lab::new(60);
    let counts = |lab: &Lab| (lab.model(NIC).outstanding(), lab.model(GPU).outstanding());
    assert_eq!(counts(&lab), (0, 0));
    lab.post_copy_in(b"counted!", 0);
    assert_eq!(counts(&lab), (1, 0), "rung, not fetched");
    lab.soft.hold(NIC, crate::soft::Toward::Function(GPU), true);
    lab.wait();
    lab.idle();
    assert_eq!(counts(&lab), (1, 1), "completed, and a posted write not delivered");
    lab.gpu.config_read(0, 4).unwrap();
    assert_eq!(counts(&lab), (0, 0));
}
