//! The errno of each operation, and what had been done before it.

use super::{World, collect, contents, file_of, pattern, ring_or_skip, skip, temporary};
use std::fs::File;
use tidegate_core::engine::uring::{Uring, UringError, at};
use tidegate_core::{Op, Status};

const ENOSPC: Status = Status::Device(libc::ENOSPC as u16);

#[test]
fn a_full_device_is_enospc() {
    let file = File::options().write(true).open("/dev/full").unwrap();
    let Some(engine) = ring_or_skip(Uring::builder().file(file)) else { return };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    let ended = world.one(Op::write(handle.span(0..4096), 0));
    assert_eq!((ended.status, ended.len), (ENOSPC, 0));
}

#[test]
fn what_was_written_before_the_disk_was_full_is_said_and_is_there() {
    let Some(file) = on_a_disk_of(64 << 10) else { return skip("no tmpfs of one's own (needs root)") };
    let bytes = pattern(100_000, 3);
    for registered in [false, true] {
        file.set_len(0).unwrap();
        let Some(engine) = ring_or_skip(Uring::builder().file(file.try_clone().unwrap())) else { return };
        let buffers = engine.buffers();
        let mut world = World::new(engine, 200_000);
        let _held = registered.then(|| buffers.register(&world.memory.backing()));
        world.region.write(0, &bytes).unwrap();
        let handle = world.region.handle();
        let ended = world.one(Op::write(handle.span(0..100_000), 0));
        assert_eq!((ended.status, ended.len), (ENOSPC, 64 << 10));
        assert_eq!(contents(&file), bytes[..64 << 10]);
        let ended = world.one(Op::write(handle.span(0..1), 64 << 10));
        assert_eq!((ended.status, ended.len), (ENOSPC, 0));
        // And the channel goes on.
        let ended = world.one(Op::read(0, handle.span(100_000..200_000)));
        assert_eq!((ended.status, ended.len), (Status::Done, 64 << 10));
        assert_eq!(world.bytes(100_000, 64 << 10), bytes[..64 << 10]);
    }
}

/// A file on a tmpfs of so many bytes, mounted where nobody else sees it.
fn on_a_disk_of(bytes: u64) -> Option<File> {
    // Mount namespaces are the thread's.
    let mount = move || {
        // SAFETY: 1. takes no memory.
        if unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_FS) } != 0 {
            return None;
        }
        let on = std::env::temp_dir().join(format!("tidegate-uring-full-{}", std::process::id()));
        std::fs::create_dir(&on).ok()?;
        let path = std::ffi::CString::new(on.to_str()?).ok()?;
        let options = std::ffi::CString::new(format!("size={bytes}")).ok()?;
        let null = std::ptr::null();
        // SAFETY: 1. strings that outlive the call.
        let private = unsafe {
            libc::mount(c"none".as_ptr(), c"/".as_ptr(), null, libc::MS_REC | libc::MS_PRIVATE, null.cast())
        };
        // SAFETY: 1. as above.
        let mounted = private == 0
            && unsafe {
                libc::mount(c"t".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast())
            } == 0;
        let file =
            mounted.then(|| File::options().read(true).write(true).create_new(true).open(on.join("f")));
        if mounted {
            // SAFETY: 1. as above.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = std::fs::remove_dir(&on);
        file?.ok()
    };
    std::thread::spawn(mount).join().unwrap()
}

#[test]
fn a_medium_that_can_not_be_read_is_eio() {
    // Address 4096 of this process is not mapped.
    let Some(engine) = ring_or_skip(Uring::builder().file(File::open("/proc/self/mem").unwrap())) else {
        return;
    };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    let ended = world.one(Op::read(4096, handle.span(0..100)));
    assert_eq!((ended.status, ended.len), (Status::Device(libc::EIO as u16), 0));
}

#[test]
fn each_of_a_burst_keeps_its_own_errno_and_the_others_go_on() {
    let bytes = pattern(4096, 1);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let read_only = File::open("/dev/null").unwrap();
    let builder = Uring::builder().file(file_of(&bytes)).file(full).file(read_only);
    let Some(engine) = ring_or_skip(builder) else { return };
    let mut world = World::new(engine, 4096 * 32);
    let handle = world.region.handle();
    world.submit((0..32).map(|n| {
        let span = handle.span(n * 4096..(n + 1) * 4096);
        match n % 3 {
            0 => Op::read(0, span),
            n => Op::write(span, at(n as u16, 0)),
        }
        .cookie(n)
    }));
    let mut ended = collect(&mut world.channel, 32);
    ended.sort_by_key(|c| c.cookie);
    for (n, c) in ended.iter().enumerate() {
        let expect = [(Status::Done, 4096), (ENOSPC, 0), (Status::Device(libc::EBADF as u16), 0)][n % 3];
        assert_eq!((c.cookie, c.status, c.len), (n as u64, expect.0, expect.1));
    }
    let counters = world.channel.counters();
    assert_eq!((counters.done, counters.device_errors, counters.spurious), (11, 21, 0));
}

#[test]
fn an_engine_of_nothing_is_refused() {
    assert_eq!(Uring::builder().build().map(drop), Err(UringError::NoFile));
    let fence = tidegate_core::engine::uring::Fence::DataSync;
    let refused = Uring::builder().file(temporary()).iopoll().fence(fence).build().map(drop);
    assert_eq!(refused, Err(UringError::SyncOnIopoll));
}
