//! The io_uring engine on the running kernel, through channels.

#![expect(unsafe_code, reason = "makes pipes")]

mod errors;
mod files;
mod model;
mod order;
mod revoke;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tidegate_core::engine::uring::{Builder, Uring, UringError};
use tidegate_core::{
    Access, Channel, ChannelConfig, Completion, Deadline, Fabric, Memory, Op, Region, Shared, Submit, Ticket,
};

/// Nothing here takes longer, however busy the machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// The owner does not poll: cancel at once, and be patient.
pub(crate) const CANCEL: Deadline = Deadline { cancel: Duration::ZERO, force: LONG };

/// Says why a test proves nothing here.
pub(crate) fn skip(reason: &str) {
    // Past the harness, which swallows what a passing test prints.
    let _ = std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes());
}

/// The engine, or a line that says why not.
pub(crate) fn ring_or_skip(builder: Builder) -> Option<Uring> {
    match builder.build() {
        Ok(uring) => Some(uring),
        Err(UringError::Disabled { .. }) => {
            skip("io_uring is not available here");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A file in the temporary directory that is gone when closed.
pub(crate) fn temporary() -> File {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("tidegate-uring-{}-{n}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// Such a file with these bytes.
pub(crate) fn file_of(bytes: &[u8]) -> File {
    let mut file = temporary();
    file.write_all(bytes).unwrap();
    file
}

/// All of a file, by another way than the engine's.
pub(crate) fn contents(mut file: &File) -> Vec<u8> {
    let mut all = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut all).unwrap();
    all
}

/// Bytes that differ by position.
pub(crate) fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8).collect()
}

/// A channel of an engine, and memory to use with it.
pub(crate) struct World {
    pub(crate) fabric: Fabric,
    pub(crate) memory: Arc<Memory>,
    pub(crate) region: Region<Shared>,
    pub(crate) channel: Channel<Uring>,
}

impl World {
    pub(crate) fn new(engine: Uring, bytes: u64) -> World {
        let fabric = Fabric::builder().regions(64).build().unwrap();
        let memory = Memory::allocate("uring test", bytes).unwrap();
        let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
        let channel =
            fabric.channel(&fabric.poller("tester"), engine, ChannelConfig::depth(1 << 14)).unwrap();
        World { fabric, memory, region, channel }
    }

    /// Submits all of it in one section.
    pub(crate) fn submit(&mut self, ops: impl IntoIterator<Item = Op>) -> Vec<Ticket> {
        submit(&mut self.channel, ops)
    }

    /// Submits one operation and waits for its end.
    pub(crate) fn one(&mut self, op: Op) -> Completion {
        self.submit([op]);
        let ended = collect(&mut self.channel, 1);
        assert_eq!(ended.len(), 1);
        ended[0]
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.region.read(at, &mut bytes).unwrap();
        bytes
    }
}

pub(crate) fn submit(channel: &mut Channel<Uring>, ops: impl IntoIterator<Item = Op>) -> Vec<Ticket> {
    let mut section = channel.pin().unwrap();
    let mut tickets = Vec::new();
    for op in ops {
        match section.submit(op) {
            Submit::Queued(ticket) => tickets.push(ticket),
            refused => panic!("{refused:?}"),
        }
    }
    tickets
}

/// Polls until `n` operations ended.
pub(crate) fn collect(channel: &mut Channel<Uring>, n: usize) -> Vec<Completion> {
    let since = Instant::now();
    let mut all = Vec::new();
    let mut out = [Completion::EMPTY; 32];
    while all.len() < n {
        assert!(since.elapsed() < LONG, "{} of {n} ended: {all:?}", all.len());
        if let Ok(mut section) = channel.pin() {
            let n = section.poll(&mut out);
            all.extend_from_slice(&out[..n]);
        }
        std::thread::yield_now();
    }
    all
}

/// A pipe: its reading end, its writing end.
pub(crate) fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: 1. room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: 1. just made; nobody else owns it.
    let reader = unsafe { File::from_raw_fd(ends[0]) };
    // SAFETY: 1. as above.
    let writer = unsafe { File::from_raw_fd(ends[1]) };
    (reader, writer)
}
