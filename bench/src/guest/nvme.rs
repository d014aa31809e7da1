//! Random reads of 4 KiB at queue depth 32: our engine, and the kernel's driver with io_uring, on one controller in turn.
#![expect(unsafe_code, reason = "hands the kernel buffers of memory that stays; guest only, by hand")]

use super::{Effort, Failure, Lent, Row, first, memory, micros, say};
use crate::stats::Sorted;
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_core::{
    Access, Channel, ChannelConfig, Completion, Engine, Fabric, Handle, Op, Shared, Status, Submit,
};
use tidegate_p2p::engine::nvme::Nvme;
use tidegate_p2p::vfio::Vfio;
use tidegate_p2p::{Domain, PciAddress};

const DEPTH: usize = 32;
const BLOCK: u64 = 4096;
/// What is read of the medium.
const STRETCH: u64 = 32 << 20;

pub(super) fn measure(effort: Effort) -> Result<Vec<Row>, Failure> {
    let at = first(0x1b36, 0x0010)?;
    let (mut ours, mut kernels) = (Vec::new(), Vec::new());
    let theirs = has_a_driver(at);
    if theirs {
        fill(&device(at)?)?;
    } else {
        say("the kernel has no driver for NVMe (CONFIG_BLK_DEV_NVME; --no-bind): its rows are missing");
    }
    for _ in 0..effort.rounds {
        if theirs {
            kernels.push(by_the_kernel(&device(at)?, effort.slice)?);
        }
        let lent = Lent::take(&[at])?;
        ours.push(by_us(at, effort.slice)?);
        // Given back.
        drop(lent);
    }
    let rows = [("tidegate", ours), ("kernel and io_uring", kernels)].into_iter().flat_map(|(who, runs)| {
        let row = |what: &str, unit, of: fn(&Run) -> f64| {
            Row::of(
                format!("nvme 4 KiB random read, depth 32, {what}: {who}"),
                unit,
                runs.iter().map(of).collect(),
            )
        };
        [row("rate", "1/s", |run| run.rate), row("p50", "us", |run| run.p50), row("p99", "us", |run| run.p99)]
    });
    Ok(rows.filter(|row| row.n > 0).collect())
}

/// Is the controller with the kernel's own driver?
fn has_a_driver(at: PciAddress) -> bool {
    let driver = std::fs::read_link(format!("/sys/bus/pci/devices/{at}/driver"));
    driver.is_ok_and(|path| path.ends_with("nvme"))
}

struct Run {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// One slice: what is in flight, and how long each took.
struct Slice {
    began: Instant,
    submitted: [Instant; DEPTH],
    took: Vec<f64>,
    state: u64,
}

impl Slice {
    fn new() -> Slice {
        let now = Instant::now();
        Slice { began: now, submitted: [now; DEPTH], took: Vec::with_capacity(1 << 20), state: 0x9e37_79b9 }
    }

    /// Where the next read of a slot is.
    fn submit(&mut self, slot: usize) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        if let Some(when) = self.submitted.get_mut(slot) {
            *when = Instant::now();
        }
        self.state % (STRETCH / BLOCK) * BLOCK
    }

    fn complete(&mut self, slot: usize) {
        let since = self.submitted.get(slot).copied().unwrap_or(self.began);
        self.took.push(micros(since.elapsed()));
    }

    fn end(self) -> Run {
        let rate = self.took.len() as f64 / self.began.elapsed().as_secs_f64();
        let sorted = Sorted::new(self.took);
        Run { rate, p50: sorted.median(), p99: sorted.at(0.99) }
    }
}

fn by_us(at: PciAddress, slice: Duration) -> Result<Run, Failure> {
    let fabric = Fabric::builder().build()?;
    let domain = Domain::new(&fabric, Vfio::new()?)?;
    let device = domain.attach(at)?;
    let buffers = memory("nvme bench", DEPTH as u64 * BLOCK)?;
    let region = domain.register(buffers.backing(), Access::ReadWrite)?;
    // A ring that is longer than what is in flight: reads end out of order, and a ring counts from its oldest.
    let ring = ChannelConfig::depth(8 * DEPTH as u32 - 1);
    let mut channel = device.channel(&fabric.poller("nvme bench"), Nvme::namespace(1), ring)?;
    reads(&mut channel, region.handle(), slice)
}

fn reads<E: Engine>(channel: &mut Channel<E>, to: Handle<Shared>, slice: Duration) -> Result<Run, Failure> {
    let mut run = Slice::new();
    let mut idle: Vec<usize> = (0..DEPTH).collect();
    let mut out = [Completion::EMPTY; DEPTH];
    let mut in_flight = 0;
    loop {
        let mut pinned = channel.pin()?;
        let n = pinned.poll(&mut out);
        for completion in out.iter().take(n) {
            if completion.status != Status::Done {
                return Err(format!("a read ended with {:?}", completion.status).into());
            }
            let slot = completion.cookie as usize;
            run.complete(slot);
            idle.push(slot);
        }
        in_flight -= n;
        if run.began.elapsed() >= slice {
            if in_flight == 0 {
                drop(pinned);
                return Ok(run.end());
            }
            continue;
        }
        while let Some(slot) = idle.pop() {
            let at = slot as u64 * BLOCK;
            let read = Op::read(run.submit(slot), to.span(at..at + BLOCK)).cookie(slot as u64);
            match pinned.submit(read) {
                Submit::Queued(_) => in_flight += 1,
                other => return Err(format!("a read was answered {other:?}").into()),
            }
        }
    }
}

fn by_the_kernel(path: &Path, slice: Duration) -> Result<Run, Failure> {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let buffers = memory("kernel bench", DEPTH as u64 * BLOCK)?;
    let base = buffers.backing().cpu();
    let mut ring = IoUring::new(DEPTH as u32)?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    let mut run = Slice::new();
    let mut idle: Vec<usize> = (0..DEPTH).collect();
    loop {
        let over = run.began.elapsed() >= slice;
        if over && idle.len() == DEPTH {
            return Ok(run.end());
        }
        let free = if over { Vec::new() } else { std::mem::take(&mut idle) };
        for slot in free {
            let to = base.as_ptr().wrapping_add(slot * BLOCK as usize);
            let read = opcode::Read::new(types::Fixed(0), to, BLOCK as u32)
                .offset(run.submit(slot))
                .build()
                .user_data(slot as u64);
            // SAFETY: 1. the buffer is `buffers`', which lives until the ring is dropped with nothing in flight, or an error
            // ends the program.
            unsafe { ring.submission().push(&read) }?;
        }
        ring.submit_and_wait(1)?;
        for entry in ring.completion() {
            if entry.result() != BLOCK as i32 {
                return Err(format!("a read of the kernel's ended with {}", entry.result()).into());
            }
            let slot = entry.user_data() as usize;
            run.complete(slot);
            idle.push(slot);
        }
    }
}

/// The first namespace of a controller that the kernel's driver has, once it shows up.
fn device(at: PciAddress) -> Result<PathBuf, Failure> {
    let below = format!("/sys/bus/pci/devices/{at}/nvme");
    let entries = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path)
            .map(|all| all.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default()
    };
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(30) {
        let namespaces = entries(Path::new(&below)).into_iter().flat_map(|controller| entries(&controller));
        let names = namespaces.filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        let node = names
            .filter(|name| name.starts_with("nvme") && name.ends_with("n1"))
            .map(|name| Path::new("/dev").join(name));
        if let Some(node) = node.into_iter().find(|node| File::open(node).is_ok()) {
            return Ok(node);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("the kernel's driver did not bring up {at}").into())
}

/// Bytes for the blocks: an image with holes would be read faster than a disk.
fn fill(path: &Path) -> Result<(), Failure> {
    let file = File::options().write(true).open(path)?;
    let chunk: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    for n in 0..STRETCH >> 20 {
        file.write_all_at(&chunk, n << 20)?;
    }
    file.sync_all()?;
    Ok(())
}
