use super::kit::*;
use crate::backend::Trust;
use crate::engine::softnic::abi::Opcode;
use crate::soft::{Soft, Step, StepKind};
use std::time::{Duration, Instant};

fn traffic(seed: u64) -> Vec<Step> {
    let mut lab = Lab::on(builder(seed).trace().build().unwrap(), Trust::Shared);
    let wire = lab.soft.wire(NIC).unwrap();
    for n in 0..6 {
        lab.write(Opcode::Receive, WINDOW + n * 16384, 0, 16384);
        lab.write(Opcode::Copy, WINDOW, HOST + BUFFER, 10_000);
        wire.send(&vec![n as u8; 9000]).unwrap();
    }
    lab.ring();
    lab.idle();
    lab.soft.trace()
}

#[test]
fn the_same_seed_makes_the_same_steps() {
    let steps = traffic(90);
    assert!(steps.len() > 100);
    assert_eq!(steps, traffic(90));
    assert_ne!(steps, traffic(91));
}

/// The bytes are read, and written: twice the length goes over the NIC's link.
#[test]
fn a_paced_link_takes_its_time_for_what_it_carries() {
    for (pace, least) in [(0, 0), (512, 2 * 4096 / 2), (2048, 2 * 4096 * 2)] {
        let soft = builder(93).pace(NIC, pace).build().unwrap();
        let mut lab = Lab::on(soft, Trust::Shared);
        let before = lab.soft.now();
        lab.post_copy_in(&[7; 4096], 0);
        lab.wait();
        let took = lab.soft.now() - before;
        assert!((least..least + 200 + least / 50).contains(&took), "{pace} for each KiB: {took}");
        assert_eq!(lab.vram(0, 4096), [7; 4096]);
    }
}

#[test]
fn nothing_moves_without_a_step() {
    let mut lab = Lab::new(92);
    lab.post_copy_in(b"standing", 0);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!((lab.poll(), lab.soft.now(), lab.model(NIC).outstanding()), (None, 0, 1));
    assert!(lab.soft.step());
    assert_eq!(lab.soft.now(), 1);
    lab.idle();
    let end = lab.soft.now();
    assert!(!lab.soft.step());
    assert_eq!((lab.soft.run_until_idle(5), lab.soft.now()), (0, end), "an idle fabric's clock stands");
}

#[test]
fn a_step_is_one_action() {
    let mut lab = Lab::on(builder(93).trace().delay(0).build().unwrap(), Trust::Shared);
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    let mut kinds = Vec::new();
    while lab.soft.step() {
        let trace = lab.soft.trace();
        assert_eq!(trace.len(), kinds.len() + 1);
        kinds.push(trace.last().unwrap().kind);
    }
    use StepKind::{IssueRead, Read, Translate};
    assert_eq!(kinds[..6], [IssueRead, Translate, Read, IssueRead, Translate, Read], "ring, then data");
}

#[test]
fn requests_take_their_time_and_the_clock_skips_it() {
    let end = |delay| {
        let mut lab = Lab::on(builder(96).delay(delay).build().unwrap(), Trust::Shared);
        lab.post(Opcode::Readback, WINDOW, 0, 8);
        let steps = lab.soft.run_until_idle(1000);
        (steps, lab.soft.now())
    };
    let (steps, now) = end(0);
    assert_eq!(steps, now);
    let (slow_steps, slow_now) = end(100_000);
    assert!(slow_steps < 30 && slow_now > 50_000, "{slow_steps} steps, clock {slow_now}");
}

#[test]
fn dma_into_registers_wakes_a_sleeping_device() {
    use crate::backend::{Backend, Function, Registers, Rights, Space};
    let mut lab = Lab::on(builder(97).threads().build().unwrap(), Trust::Shared);
    let edu = lab.soft.open(EDU).unwrap();
    let bar = edu.map_bar(0).unwrap();
    let at = WINDOW + (1 << 30);
    let window = edu.export(0, 0..4096).unwrap();
    lab.space.map_dmabuf(at, &window, 4096, Rights::Write, Trust::Shared).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    lab.host.write(BUFFER, &5_u32.to_le_bytes());
    lab.post(Opcode::Copy, HOST + BUFFER, at + 0x08, 4);
    let start = Instant::now();
    while bar.read32(0x08) != 120 {
        assert!(start.elapsed() < Duration::from_secs(10), "edu slept on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn threads_move_the_devices_by_themselves_and_end_with_the_fabric() {
    let soft = builder(94).threads().build().unwrap();
    let mut lab = Lab::on(soft.clone(), Trust::Shared);
    let wire = lab.soft.wire(NIC).unwrap();
    let start = Instant::now();
    for n in 0..200_u32 {
        lab.post(Opcode::Receive, WINDOW, 0, 65536);
        while wire.send(&vec![n as u8; 30_000]).is_err() {
            std::thread::yield_now();
        }
        let done = loop {
            match lab.poll() {
                Some(done) => break done,
                None => std::thread::yield_now(),
            }
            assert!(start.elapsed() < Duration::from_secs(20), "stuck at frame {n}");
        };
        assert_eq!((done.index, done.len), (n, 30_000));
    }
    lab.post(Opcode::Readback, WINDOW, 0, 8);
    let back = loop {
        if let Some(done) = lab.poll() {
            break done;
        }
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    };
    assert_eq!((back.tail.to_le_bytes(), lab.breaches()), ([199; 8], vec![]));
    let shared = std::sync::Arc::downgrade(&soft.shared);
    drop(lab);
    drop(wire);
    drop(soft);
    assert!(shared.upgrade().is_none(), "a device's thread outlived the fabric");
}

#[test]
fn idle_threads_sleep() {
    let at = |n: u8| format!("00ff:{n:02x}:00.0").parse().unwrap();
    let soft = Soft::builder(95).nic(at(1)).gpu(at(2), VRAM).edu(at(3)).threads().build().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(200));
    assert!(ticks() <= before + 3, "three idle devices used more than 30 ms of CPU in 200 ms");
    drop(soft);
}

/// CPU time of this process's soft threads in ticks of 10 ms.
fn ticks() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stat =
        |dir: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(dir.ok()?.path().join("stat")).ok();
    tasks
        .filter_map(stat)
        .filter(|line| line.contains("(soft 00ff"))
        .filter_map(|line| {
            let rest: Vec<u64> = line
                .rsplit_once(')')?
                .1
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|n| n.parse().ok())
                .collect();
            Some(rest.iter().sum::<u64>())
        })
        .sum()
}
