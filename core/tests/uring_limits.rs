//! A limit that holds for the whole process, and therefore has a test binary of its own.
#![expect(unsafe_code, reason = "sets a limit")]

use std::io::{Read, Seek, Write};
use tidegate_core::engine::uring::{Uring, UringError};
use tidegate_core::{Access, ChannelConfig, Completion, Fabric, Memory, Op, Status};

/// In a process of its own, whose output goes through a pipe: the limit holds for every file that it writes.
#[test]
fn a_write_over_the_file_size_limit_says_how_far_it_came() {
    const NAME: &str = "a_write_over_the_file_size_limit_says_how_far_it_came";
    if std::env::var_os("TIDEGATE_LIMITED").is_some() {
        return limited();
    }
    let program = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new(program);
    let out = child.args(["--exact", NAME, "--nocapture"]).env("TIDEGATE_LIMITED", "1").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{}{said}", String::from_utf8_lossy(&out.stdout));
    for line in said.lines().filter(|line| line.starts_with("skipped: ")) {
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
    }
}

fn limited() {
    // SAFETY: 1. no handler: the signal that comes with the error is ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let limit = libc::rlimit { rlim_cur: 10_000, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: 1. reads the struct.
    if unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) } != 0 {
        let _ = std::io::stderr().write_all(b"skipped: RLIMIT_FSIZE can not be set here\n");
        return;
    }
    let path = std::env::temp_dir().join(format!("tidegate-uring-limit-{}", std::process::id()));
    let mut file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let engine = match Uring::builder().file(file.try_clone().unwrap()).build() {
        Ok(engine) => engine,
        Err(UringError::Disabled { .. }) => {
            let _ = std::io::stderr().write_all(b"skipped: io_uring is not available here\n");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let fabric = Fabric::builder().build().unwrap();
    // A memfd is a file too: it must fit.
    let memory = Memory::allocate("limit", 8192).unwrap();
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    region.write(0, &[7; 8192]).unwrap();
    let mut channel = fabric.channel(&fabric.poller("t"), engine, ChannelConfig::default()).unwrap();
    let mut done = [Completion::EMPTY];
    for (at, status, len) in [
        (0, Status::Done, 8192),
        (8192, Status::Device(libc::EFBIG as u16), 10_000 - 8192),
        (10_000, Status::Device(libc::EFBIG as u16), 0),
    ] {
        let _ = channel.pin().unwrap().submit(Op::write(region.span(), at));
        while channel.pin().unwrap().poll(&mut done) == 0 {}
        assert_eq!((done[0].status, done[0].len), (status, len), "at {at}");
    }
    let mut all = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut all).unwrap();
    assert_eq!(all, [7; 10_000]);
}
