//! Each precondition has a test that a wrong order runs into.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const GPU: FunctionId = FunctionId::new(0x100);
const PAGE: TaggedRange =
    TaggedRange { bar: 2, offset: 0x3000, len: 0x1000, attr: Attr::Private, index: Some(0), id: Some(2) };
const TDX_LIKE: [PlatformKind; 2] = [PlatformKind::Tdx, PlatformKind::Soft];

/// A TDI in RUN, with a private page mapped and its DMA context open.
fn running(platform: PlatformKind) -> Firmware {
    let mut firmware = Firmware::new(platform);
    firmware.bind(GPU).unwrap();
    firmware.observe(GPU, State::ConfigLocked).unwrap();
    firmware.map_private(GPU, &PAGE).unwrap();
    firmware.open_context(GPU).unwrap();
    firmware.observe(GPU, State::Run).unwrap();
    assert_eq!((firmware.mapped_bytes(GPU), firmware.has_context(GPU)), (0x1000, true));
    firmware
}

/// Does the step; a STOP that is let through is answered by the device.
fn play(firmware: &mut Firmware, step: Step) -> Result<(), Refusal> {
    firmware.apply(step, GPU)?;
    if step == Step::StopInterface {
        firmware.observe(GPU, State::ConfigUnlocked)?;
    }
    Ok(())
}

#[test]
fn the_list_of_each_platform_runs_to_its_end_from_locked_run_and_error() {
    for platform in PlatformKind::ALL {
        for from in [State::ConfigLocked, State::Run, State::Error] {
            let mut firmware = running(platform);
            firmware.observe(GPU, from).unwrap();
            let (last, before) = platform.steps().split_last().unwrap();
            for step in before {
                assert_eq!(play(&mut firmware, *step), Ok(()), "{platform}: {step}");
            }
            assert_eq!(firmware.apply(Step::VerifyUnlocked, GPU), Ok(()));
            assert_eq!(play(&mut firmware, *last), Ok(()), "{platform}: {last}");
            assert!(!firmware.is_bound(GPU));
            assert_eq!(firmware.apply(Step::VerifyUnlocked, GPU), Ok(()), "and after the list");
            assert_eq!(firmware.bind(GPU), Ok(()), "and can be bound again");
        }
    }
}

#[test]
fn the_order_of_one_platform_is_refused_by_the_other() {
    let mut cca = running(PlatformKind::Cca);
    assert_eq!(play(&mut cca, Step::StopInterface), Err(Refusal::MappedMmio { bar: 2, offset: 0x3000 }));
    let mut tdx = running(PlatformKind::Tdx);
    let step = Step::PrivateMmioUnmap;
    assert_eq!(play(&mut tdx, step), Err(Refusal::State { step, state: State::Run }));
}

#[test]
fn tdx_refuses_the_unmap_and_the_reclaim_in_every_state_but_unlocked() {
    for platform in TDX_LIKE {
        for state in [State::ConfigLocked, State::Run, State::Error] {
            let mut firmware = running(platform);
            firmware.observe(GPU, state).unwrap();
            for step in [Step::PrivateMmioUnmap, Step::Reclaim] {
                assert_eq!(firmware.apply(step, GPU), Err(Refusal::State { step, state }));
            }
            assert_eq!(firmware.mapped_bytes(GPU), 0x1000, "a refused step did nothing");
        }
    }
}

#[test]
fn tdx_refuses_the_reclaim_while_mmio_or_dma_is_mapped() {
    for platform in TDX_LIKE {
        let mut firmware = running(platform);
        play(&mut firmware, Step::StopInterface).unwrap();
        assert_eq!(firmware.apply(Step::Reclaim, GPU), Err(Refusal::ContextStands));
        play(&mut firmware, Step::TrustedContextCleanup).unwrap();
        assert_eq!(firmware.apply(Step::Reclaim, GPU), Err(Refusal::MappedMmio { bar: 2, offset: 0x3000 }));
        play(&mut firmware, Step::PrivateMmioUnmap).unwrap();
        assert_eq!(firmware.apply(Step::Reclaim, GPU), Ok(()));
    }
}

#[test]
fn cca_refuses_context_off_while_mapped_stop_before_context_off_and_destroy_before_stop() {
    let mut firmware = running(PlatformKind::Cca);
    let mapped = Refusal::MappedMmio { bar: 2, offset: 0x3000 };
    assert_eq!(firmware.apply(Step::TrustedContextOff, GPU), Err(mapped));
    play(&mut firmware, Step::PrivateMmioUnmap).unwrap();
    assert_eq!(firmware.apply(Step::StopInterface, GPU), Err(Refusal::ContextStands));
    firmware.apply(Step::TrustedContextOff, GPU).unwrap();
    let step = Step::Destroy;
    assert_eq!(firmware.apply(step, GPU), Err(Refusal::State { step, state: State::Run }));
    play(&mut firmware, Step::StopInterface).unwrap();
    assert_eq!(firmware.apply(step, GPU), Ok(()));
}

#[test]
fn cca_refuses_destroy_while_dma_is_on() {
    let mut firmware = running(PlatformKind::Cca);
    play(&mut firmware, Step::PrivateMmioUnmap).unwrap();
    firmware.device_reset(GPU);
    assert_eq!(firmware.apply(Step::Destroy, GPU), Err(Refusal::ContextStands));
}

#[test]
fn a_blocked_stream_replaces_unlocked_in_every_precondition_and_is_not_called_unlocked() {
    for platform in PlatformKind::ALL {
        let mut firmware = running(platform);
        firmware.observe(GPU, State::Error).unwrap();
        firmware.block_stream(GPU).unwrap();
        assert!(!firmware.has_context(GPU), "nothing passes a blocked stream");
        assert_eq!(firmware.open_context(GPU), Err(Refusal::Blocked));
        let step = Step::VerifyUnlocked;
        assert_eq!(firmware.apply(step, GPU), Err(Refusal::State { step, state: State::Error }));
        for step in platform.steps().iter().filter(|step| **step != Step::StopInterface) {
            assert_eq!(firmware.apply(*step, GPU), Ok(()), "{platform}: {step}");
        }
        let function = GPU;
        assert_eq!(firmware.bind(GPU), Err(Refusal::NeedsReset { function }));
        assert_eq!(firmware.apply(Step::VerifyUnlocked, GPU), Err(Refusal::NeedsReset { function }));
        firmware.device_reset(GPU);
        assert_eq!(firmware.bind(GPU), Ok(()));
    }
}

#[test]
fn steps_of_another_platform_and_functions_that_are_not_bound_are_named() {
    let platform = PlatformKind::Tdx;
    for step in [Step::TrustedContextOff, Step::Destroy] {
        assert_eq!(running(platform).apply(step, GPU), Err(Refusal::NoSuchStep { platform, step }));
    }
    let platform = PlatformKind::Cca;
    for step in [Step::TrustedContextCleanup, Step::Reclaim] {
        assert_eq!(running(platform).apply(step, GPU), Err(Refusal::NoSuchStep { platform, step }));
    }
    let function = FunctionId::new(1);
    let mut firmware = running(platform);
    assert_eq!(firmware.apply(Step::StopInterface, function), Err(Refusal::NotBound { function }));
    assert_eq!(firmware.observe(function, State::Run), Err(Refusal::NotBound { function }));
    assert_eq!(firmware.bind(GPU), Err(Refusal::AlreadyBound { function: GPU }));
}

/// A part of a range that is mapped as a whole.
fn part(offset: u64, len: u64) -> TaggedRange {
    TaggedRange { offset, len, ..PAGE }
}

#[test]
fn pages_are_unmapped_by_themselves_in_run_on_cca_and_never_on_tdx() {
    for platform in PlatformKind::ALL {
        let mut firmware = running(platform);
        firmware.map_private(GPU, &part(0x8000, 0x8000)).unwrap();
        let unmapped = firmware.unmap_private(GPU, &part(0xA000, 0x2000));
        if platform == PlatformKind::Tdx {
            let step = Step::PrivateMmioUnmap;
            assert_eq!(unmapped, Err(Refusal::State { step, state: State::Run }));
            assert_eq!(firmware.mapped_bytes(GPU), 0x9000);
            firmware.block_stream(GPU).unwrap();
            assert_eq!(
                firmware.unmap_private(GPU, &part(0xA000, 0x2000)),
                Ok(()),
                "a blocked stream will do"
            );
        }
        let mapped: Vec<_> = firmware.bound[&GPU].mapped.iter().map(|((_, at), len)| (*at, *len)).collect();
        assert_eq!(mapped, [(0x3000, 0x1000), (0x8000, 0x2000), (0xC000, 0x4000)], "{platform}");
        // Over the borders of what is mapped, and what is not.
        firmware.unmap_private(GPU, &part(0x3000, 0xA000)).unwrap();
        let mapped: Vec<_> = firmware.bound[&GPU].mapped.iter().map(|((_, at), len)| (*at, *len)).collect();
        assert_eq!(mapped, [(0xD000, 0x3000)], "{platform}");
    }
    let function = FunctionId::new(1);
    let refused = running(PlatformKind::Soft).unmap_private(function, &PAGE);
    assert_eq!(refused, Err(Refusal::NotBound { function }));
}

#[test]
fn an_attribute_request_passes_in_run_with_nothing_of_the_pages_mapped() {
    for platform in PlatformKind::ALL {
        let mut firmware = running(platform);
        let mapped = Refusal::MappedMmio { bar: 2, offset: 0x3000 };
        assert_eq!(firmware.check_attribute(GPU, &part(0x2000, 0x2000)), Err(mapped));
        assert_eq!(firmware.check_attribute(GPU, &part(0x4000, 0x1000)), Ok(()));
        assert_eq!(firmware.check_attribute(GPU, &TaggedRange { bar: 0, ..PAGE }), Ok(()));
        for state in [State::ConfigUnlocked, State::ConfigLocked, State::Error] {
            firmware.observe(GPU, state).unwrap();
            let refused = firmware.check_attribute(GPU, &part(0x4000, 0x1000));
            assert_eq!(refused, Err(Refusal::NotRunning { state }));
        }
        firmware.observe(GPU, State::Run).unwrap();
        firmware.block_stream(GPU).unwrap();
        assert_eq!(firmware.check_attribute(GPU, &part(0x4000, 0x1000)), Err(Refusal::Blocked));
    }
}

#[test]
fn only_private_ranges_are_mapped_and_only_while_locked_or_running() {
    let mut firmware = Firmware::new(PlatformKind::Tdx);
    firmware.bind(GPU).unwrap();
    for state in [State::ConfigUnlocked, State::Error] {
        firmware.observe(GPU, state).unwrap();
        let step = Step::PrivateMmioUnmap;
        assert_eq!(firmware.map_private(GPU, &PAGE), Err(Refusal::State { step, state }));
        assert!(firmware.open_context(GPU).is_err());
    }
    firmware.observe(GPU, State::ConfigLocked).unwrap();
    for attr in [Attr::Shared, Attr::Inaccessible] {
        let range = TaggedRange { attr, ..PAGE };
        assert_eq!(firmware.map_private(GPU, &range), Err(Refusal::NotPrivate { attr }));
    }
    assert_eq!(firmware.mapped_bytes(GPU), 0);
}

proptest! {
    #[test]
    fn no_order_of_steps_frees_a_tdi_that_is_mapped_has_dma_or_is_neither_unlocked_nor_blocked(
        which in 0usize..3,
        steps in vec(0usize..8, 0..12),
    ) {
        let all = [
            Step::StopInterface,
            Step::PrivateMmioUnmap,
            Step::TrustedContextCleanup,
            Step::TrustedContextOff,
            Step::Reclaim,
            Step::Destroy,
            Step::VerifyUnlocked,
            Step::BlockStream,
        ];
        let mut firmware = running(PlatformKind::ALL[which]);
        let (mut unlocked, mut blocked) = (false, false);
        for step in steps.into_iter().map(|at| all[at]) {
            let before = firmware.clone();
            if play(&mut firmware, step).is_ok() {
                unlocked |= step == Step::StopInterface;
                blocked |= step == Step::BlockStream;
            }
            if !firmware.is_bound(GPU) {
                prop_assert!(unlocked || blocked);
                prop_assert_eq!(before.mapped_bytes(GPU), 0);
                prop_assert!(!before.bound[&GPU].context);
                break;
            }
        }
    }
}
