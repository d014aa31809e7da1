//! Counts the membarriers that a piece of work makes: a seccomp filter on a thread of its own turns each into a
//! signal, whose handler counts it and makes the call.
#![expect(unsafe_code, reason = "prctl, sigaction and a signal's context; the tests below count real calls")]

use crate::missing::Missing;
use std::sync::atomic::{AtomicU64, Ordering};

static SEEN: AtomicU64 = AtomicU64::new(0);

/// Calls with this in their sixth argument are the handler's own.
#[cfg(target_arch = "x86_64")]
const OURS: u32 = 0x7469_6465;

/// Runs `work` on a thread of its own; how many membarriers that thread made.
///
/// # Errors
/// [`Missing`] where seccomp filters, or x86-64, are not there.
pub fn membarriers(work: impl FnOnce() + Send) -> Result<u64, Missing> {
    std::thread::scope(|scope| {
        let counted = scope.spawn(|| {
            install()?;
            SEEN.store(0, Ordering::Relaxed);
            work();
            Ok(SEEN.load(Ordering::Relaxed))
        });
        counted.join().unwrap_or_else(|_| Err(Missing::new("the counted work panicked")))
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn install() -> Result<(), Missing> {
    Err(Missing::new("membarriers are counted on x86-64 only"))
}

#[cfg(target_arch = "x86_64")]
fn install() -> Result<(), Missing> {
    let failed = |op: &str| Missing::new(format!("{op}: {}", std::io::Error::last_os_error()));
    // SAFETY: 1. zeroes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: 1. `count` is async-signal-safe: an atomic and a system call.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(failed("sigaction"));
    }
    let load = |at: u32| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: at };
    let unless = |k: u32, jf: u8| libc::sock_filter { code: 0x15, jt: 0, jf, k };
    let answer = |k: u32| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    // struct seccomp_data: nr at 0, arch at 4, args[5] at 56 (include/uapi/linux/seccomp.h).
    let mut filter = [
        load(0),
        unless(libc::SYS_membarrier as u32, 3),
        load(56),
        unless(OURS, 2),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_TRAP),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: 1. an attribute of this thread, which ends soon.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(failed("PR_SET_NO_NEW_PRIVS"));
    }
    // SAFETY: 1. the program is copied by the call. 2. it holds for this thread only.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } != 0 {
        return Err(failed("PR_SET_SECCOMP"));
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
extern "C" fn count(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    SEEN.fetch_add(1, Ordering::Relaxed);
    // SAFETY: 1. the kernel gives a handler with SA_SIGINFO the interrupted context, and nobody else has it.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let argument = |register: libc::c_int| registers[register as usize];
    let (command, flags, cpu) = (argument(libc::REG_RDI), argument(libc::REG_RSI), argument(libc::REG_RDX));
    // SAFETY: 1. the call that was asked for; integers only.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu, 0, 0, i64::from(OURS)) };
    registers[libc::REG_RAX as usize] = answer;
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn each_membarrier_is_counted_and_answered() {
        let mut answers = Vec::new();
        let counted = membarriers(|| {
            for _ in 0..3 {
                // SAFETY: 1. command 0 asks what there is.
                answers.push(unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) });
            }
        });
        assert_eq!(counted, Ok(3));
        assert_eq!(answers.iter().filter(|a| **a > 0).count(), 3, "{answers:?}");
    }
}
