//! What memory promises about its process: a child that is forked, and the limits it runs under.
#![expect(unsafe_code, reason = "fork, and a thread that gives up a capability")]

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use tidegate_core::memory::{Memlock, Memory, MemoryError};

/// errno of a child's attempt to write a byte at `address` to a pipe, 0 if it could.
fn child_reads(address: *const u8) -> i32 {
    let (_reader, writer) = UnixStream::pair().unwrap();
    let fd = writer.as_raw_fd();
    // SAFETY: 1. the child calls only what is safe after fork: write and _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: 1. the kernel checks the address: that is what is tested.
        let code = unsafe { libc::write(fd, address.cast(), 1) };
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(-1);
        // SAFETY: 1. ends the child without unwinding or flushing.
        unsafe { libc::_exit(if code == 1 { 0 } else { errno }) };
    }
    let mut status = 0;
    // SAFETY: 1. `status` is a valid place; the child is ours.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(waited == child && libc::WIFEXITED(status));
    libc::WEXITSTATUS(status)
}

#[test]
fn a_forked_child_can_not_see_the_memory() {
    let own = Box::new(7_u8);
    assert_eq!(child_reads(&*own), 0, "the child can read what it inherits");
    let memory = Memory::allocate("parent's", 4096).unwrap();
    memory.write(0, b"x").unwrap();
    assert_eq!(child_reads(memory.backing().cpu().as_ptr()), libc::EFAULT);
    let mut back = [0];
    memory.read(0, &mut back).unwrap();
    assert_eq!(&back, b"x", "the parent still can");
}

/// The calling thread has no CAP_IPC_LOCK from here on (capabilities are each thread's own).
fn give_up_ipc_lock() {
    const VERSION_3: u32 = 0x2008_0522;
    const IPC_LOCK: u32 = 1 << 14;
    let header = [VERSION_3, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: 1. version 3 has a header of two words and two sets of three words, which the arrays hold.
    let code = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    assert_eq!(code, 0);
    sets[0] &= !IPC_LOCK;
    // SAFETY: 1. as above.
    let code = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(code, 0);
}

#[test]
fn beyond_the_memlock_limit_is_an_error_that_says_what_to_set() {
    const LIMIT: u64 = 256 << 10;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: 1. a valid place for the answer.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) }, 0);
    limit.rlim_cur = LIMIT;
    // SAFETY: 1. a valid limit, for this test's process only.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) }, 0);
    std::thread::spawn(|| {
        give_up_ipc_lock();
        let locked = |len| Memory::builder().name("locked").len(len).lock(true).build();
        let held = locked(LIMIT / 2).unwrap();
        let now = Memlock::now();
        assert_eq!((now.limit, now.locked), (LIMIT, held.len()));
        let error = locked(LIMIT).unwrap_err();
        let expected = MemoryError::Memlock { op: "mlock", needed: LIMIT, used: LIMIT / 2, limit: LIMIT };
        assert_eq!(error, expected);
        let text = error.to_string();
        assert!(text.contains("`ulimit -l 384`") && text.contains("LimitMEMLOCK="), "{text}");
        drop(held);
        assert_eq!(Memlock::now().locked, 0, "given back");
        locked(LIMIT).unwrap();
    })
    .join()
    .unwrap();
}
