//! uring: cached reads and no-ops through the kernel's ring. register: memory made a fixed buffer.
#![expect(
    unsafe_code,
    reason = "the io-uring crate's push takes entries by address; the memory outlives the ring"
)]

use super::Group;
use crate::missing::{Missing, Setup, missing};
use crate::rig::Rig;
use crate::round::{Contender, Round};
use crate::seams;
use crate::stats::{Random, Sorted};
use io_uring::{IoUring, opcode, squeue, types};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use tidegate_core::{
    Access, Backing, Channel, ChannelConfig, Completion, Fabric, Op, Region, Shared, Status, Submit,
};

const BURST: u32 = 32;
const BLOCK: u64 = 4096;
/// Of the file, which is read once so that all of it is cached.
const FILE: u64 = 64 << 20;
const DEPTH: u32 = 64;

pub(super) struct Uring {
    file: File,
    /// fio opens it by name; removed at the end.
    path: PathBuf,
    memory: Backing,
    /// Where each read goes, at random: the same for ours and the crate.
    offsets: Vec<u64>,
}

impl Uring {
    pub(super) fn new() -> Setup<Uring> {
        let path = std::env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()));
        let mut file =
            File::options().read(true).write(true).create_new(true).open(&path).map_err(missing)?;
        let chunk = vec![0x5a; 1 << 20];
        for _ in 0..FILE >> 20 {
            file.write_all(&chunk).map_err(missing)?;
        }
        // Clean pages: nothing is written back in the middle of a figure.
        file.sync_all().map_err(missing)?;
        let blocks = Random::new(31).permutation((FILE / BLOCK) as usize);
        let offsets = blocks.into_iter().map(|block| block as u64 * BLOCK).collect();
        let memory = seams::memory("bench uring", u64::from(BURST) * BLOCK)?.backing();
        Ok(Uring { file, path, memory, offsets })
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Ours: a channel of the file engine.
struct Ours {
    channel: Channel<seams::Uring>,
    region: Region<Shared>,
    next: usize,
    _fixed: Box<dyn Send>,
}

impl Ours {
    fn new(file: Option<File>, memory: &Backing) -> Setup<Ours> {
        let engine = seams::uring(file, DEPTH)?;
        let fixed = seams::fixed(&engine, memory)?;
        let fabric = Fabric::builder().build().map_err(missing)?;
        let region = fabric.register(memory.clone(), Access::ReadWrite).map_err(missing)?;
        let config = ChannelConfig::depth(DEPTH);
        let channel = fabric.channel(&fabric.poller("uring"), engine, config).map_err(missing)?;
        Ok(Ours { channel, region, next: 0, _fixed: fixed })
    }

    /// `n` reads, 32 at a time.
    fn run(&mut self, offsets: &[u64], n: u64) {
        let to = self.region.handle();
        let mut out = [Completion::EMPTY; BURST as usize];
        for _ in 0..n / u64::from(BURST) {
            if let Ok(mut pinned) = self.channel.pin() {
                for i in 0..u64::from(BURST) {
                    let at = i * BLOCK;
                    let answer = pinned.submit(Op::read(offsets[self.next], to.span(at..at + BLOCK)));
                    assert!(matches!(answer, Submit::Queued(_)), "{answer:?}");
                    self.next = (self.next + 1) % offsets.len();
                }
            }
            let mut done = 0;
            while done < BURST as usize {
                let Ok(mut pinned) = self.channel.pin() else { continue };
                let n = pinned.poll(&mut out);
                assert!(out[..n].iter().all(|c| c.status == Status::Done), "{:?}", out[0]);
                done += n;
            }
        }
    }
}

/// The crate used directly: `entry(i)` is the i-th of a burst.
fn direct(ring: &mut IoUring, n: u64, expect: i32, mut entry: impl FnMut(u64) -> squeue::Entry) {
    for _ in 0..n / u64::from(BURST) {
        {
            let mut queue = ring.submission();
            for i in 0..u64::from(BURST) {
                // SAFETY: 1. its buffer is in memory that outlives the ring, and nobody else uses it meanwhile.
                unsafe { queue.push(&entry(i)) }.expect("the queue holds two bursts");
            }
        }
        ring.submit_and_wait(BURST as usize).expect("the ring takes a burst");
        let mut done = 0;
        while done < BURST {
            for completion in ring.completion() {
                assert_eq!(completion.result(), expect);
                done += 1;
            }
        }
    }
}

/// A ring with the memory as its only fixed buffer.
fn ring_with(memory: &Backing) -> Setup<IoUring> {
    let ring = IoUring::new(DEPTH).map_err(missing)?;
    let buffer = [libc::iovec { iov_base: memory.cpu().as_ptr().cast(), iov_len: memory.len() as usize }];
    // SAFETY: 1. the memory outlives the ring: the caller keeps the backing.
    unsafe { ring.submitter().register_buffers(&buffer) }.map_err(missing)?;
    Ok(ring)
}

impl Group for Uring {
    fn crosses(&self) -> bool {
        false
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let Uring { file, path, memory, offsets } = self;
        let offsets = &*offsets;
        let ring = ring_with(memory).and_then(|ring| {
            ring.submitter().register_files(&[file.as_raw_fd()]).map_err(missing)?;
            Ok(ring)
        });
        let base = memory.cpu().as_ptr();
        let mut next = 0;
        let mut contenders = Vec::new();
        match ring {
            Ok(mut ring) => contenders.push(Contender::new("uring/read-4k@io-uring", move |n| {
                direct(&mut ring, n, BLOCK as i32, |i| {
                    let at = offsets[next];
                    next = (next + 1) % offsets.len();
                    let to = base.wrapping_add((i * BLOCK) as usize);
                    opcode::ReadFixed::new(types::Fixed(0), to, BLOCK as u32, 0).offset(at).build()
                });
            })),
            Err(why) => round.miss("uring/read-4k@io-uring", &why),
        }
        match file.try_clone().map_err(missing).and_then(|file| Ours::new(Some(file), memory)) {
            Ok(mut ours) => contenders.push(Contender::new("uring/read-4k", move |n| ours.run(offsets, n))),
            Err(why) => round.miss("uring/read-4k", &why),
        }
        round.race(rig, contenders.into_iter().map(|c| c.in_bursts_of(BURST)).collect());

        let mut contenders = Vec::new();
        match IoUring::new(DEPTH).map_err(missing) {
            Ok(mut ring) => contenders.push(Contender::new("uring/nop@io-uring", move |n| {
                direct(&mut ring, n, 0, |_| opcode::Nop::new().build());
            })),
            Err(why) => round.miss("uring/nop@io-uring", &why),
        }
        match Ours::new(None, memory) {
            Ok(mut ours) => contenders.push(Contender::new("uring/nop", move |n| ours.run(offsets, n))),
            Err(why) => round.miss("uring/nop", &why),
        }
        round.race(rig, contenders.into_iter().map(|c| c.in_bursts_of(BURST)).collect());

        let millis = if rig.quick { 500 } else { 1500 };
        let fio = rig.fio.as_ref().map_err(Clone::clone);
        let theirs = fio.and_then(|fio| fio.read_4k(path, FILE, BURST, rig.caller, millis));
        round.put_or_miss("uring/read-4k@fio", theirs);
        Ok(())
    }
}

pub(super) struct Register {
    memory: Backing,
}

impl Register {
    pub(super) fn new() -> Setup<Register> {
        Ok(Register { memory: seams::memory("bench register", 256 << 20)?.backing() })
    }
}

impl Group for Register {
    fn crosses(&self) -> bool {
        false
    }

    /// Both on the same memory, touched before: what is counted is the making of a fixed buffer.
    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let memory = &self.memory;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rig.samples(12) {
            let mut ring = Err(Missing::new("not measured"));
            let made = IoUring::new(DEPTH).map_err(missing);
            let time = rig.clock.time(|| {
                ring = made.and_then(|ring| {
                    let (base, len) = (memory.cpu().as_ptr(), memory.len() as usize);
                    let buffer = [libc::iovec { iov_base: base.cast(), iov_len: len }];
                    // SAFETY: 1. `self` keeps the memory longer than this ring lives.
                    unsafe { ring.submitter().register_buffers(&buffer) }.map_err(missing)?;
                    Ok(ring)
                });
            });
            match ring {
                Ok(_) => theirs.push(time),
                Err(why) => round.miss("register@register_buffers", &why),
            }
            let fabric = Fabric::builder().build().map_err(missing)?;
            match seams::uring(None, DEPTH) {
                Ok(engine) => {
                    let mut made = None;
                    let time = rig.clock.time(|| {
                        made = Some((
                            seams::fixed(&engine, memory),
                            fabric.register(memory.clone(), Access::ReadWrite),
                        ));
                    });
                    match made {
                        Some((Ok(_), Ok(_))) => ours.push(time),
                        Some((Err(why), _)) => round.miss("register", &why),
                        _ => round.miss("register", &Missing::new("the region could not be registered")),
                    }
                }
                Err(why) => round.miss("register", &why),
            }
        }
        for (series, times) in [("register", ours), ("register@register_buffers", theirs)] {
            if !times.is_empty() {
                round.put(series, Sorted::new(times).median());
            }
        }
        Ok(())
    }
}
