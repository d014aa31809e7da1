//! What io_uring gives this process.

use crate::cli::finding::{Finding, Question, after, os};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;
use tidegate::core::engine::uring::{SqPoll, Uring, UringError};
use tidegate::core::{Memory, page_size};

/// The four questions.
pub(super) fn ask() -> [Finding; 4] {
    let ring = Uring::builder().null().build();
    let made = ring.as_ref().map(drop).map_err(Clone::clone);
    let buffers = ring.ok().map(|ring| register_a_page(&ring));
    let sqpoll = made.is_ok().then(|| {
        let wanted = SqPoll { idle: Duration::from_millis(1), cpu: None };
        Uring::builder().null().sqpoll(wanted).build().map(|ring| ring.features().sqpoll)
    });
    let directory = std::env::temp_dir();
    let iopoll = made.is_ok().then(|| try_iopoll(&directory));
    [setup(made), registered(buffers), polled_submission(sqpoll), polled_completion(&directory, iopoll)]
}

fn register_a_page(ring: &Uring) -> Result<(), UringError> {
    let memory = Memory::allocate("doctor", page_size())
        .map_err(|_| UringError::Os { op: "memfd_create", errno: libc::ENOMEM })?;
    ring.buffers().register(&memory.backing()).map(drop)
}

/// With a file of one page that is gone when the process is.
fn try_iopoll(directory: &Path) -> Result<bool, UringError> {
    let refused =
        |op| move |error: io::Error| UringError::Os { op, errno: error.raw_os_error().unwrap_or(libc::EIO) };
    let file = temporary(directory).map_err(refused("open with O_DIRECT"))?;
    Uring::builder().file(file).iopoll().build().map(|ring| ring.features().iopoll)
}

fn temporary(directory: &Path) -> io::Result<File> {
    let name = directory.join(format!("tidegate-doctor-{}", std::process::id()));
    let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&name)?;
    let file = written
        .write_all(&[0; 4096])
        .and_then(|()| written.sync_all())
        .and_then(|()| OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&name));
    std::fs::remove_file(&name)?;
    file
}

fn setup(answer: Result<(), UringError>) -> Finding {
    let question = Question::new(
        "io_uring.setup",
        "io_uring_setup",
        "the engine for files, block devices and sockets works on rings; devices under VFIO don't need it",
    );
    match answer {
        Ok(()) => question.ok("a ring was made, and closed again"),
        Err(error) => {
            let (fix, errno) = match &error {
                UringError::Disabled { errno, sysctl: Some(1..) } => (
                    "sysctl -w kernel.io_uring_disabled=0 && echo kernel.io_uring_disabled=0 >/etc/sysctl.d/io_uring.conf",
                    Some(*errno),
                ),
                UringError::Disabled { errno, .. } => (
                    "# a seccomp filter that allows io_uring_setup, io_uring_enter, io_uring_register; or a kernel with CONFIG_IO_URING",
                    Some(*errno),
                ),
                UringError::Os { errno, .. } => {
                    ("ulimit -l; ulimit -n  # is a limit in the way?", Some(*errno))
                }
                _ => ("# a newer kernel", None),
            };
            question.warning(error.to_string(), fix).errno(errno)
        }
    }
}

fn registered(answer: Option<Result<(), UringError>>) -> Finding {
    let question = Question::new(
        "io_uring.buffers",
        "register one page",
        "registered memory is pinned once instead of for each operation",
    );
    match answer {
        None => question.unknown("not tried: there is no ring", after("io_uring.setup")),
        Some(Ok(())) => question.ok("registered, and let go again"),
        Some(Err(error)) => {
            let (fix, errno) = match &error {
                UringError::Memlock { .. } => (after("memory.locked"), Some(libc::ENOMEM)),
                UringError::Os { errno, .. } => {
                    ("# a seccomp filter that allows io_uring_register".to_owned(), Some(*errno))
                }
                _ => ("# a newer kernel".to_owned(), None),
            };
            question.warning(error.to_string(), fix).errno(errno)
        }
    }
}

fn polled_submission(answer: Option<Result<bool, UringError>>) -> Finding {
    let question = Question::new(
        "io_uring.sqpoll",
        "a ring with IORING_SETUP_SQPOLL",
        "a thread of the kernel's takes submissions, so that a doorbell is a store; costs a CPU",
    );
    match answer {
        None => question.unknown("not tried: there is no ring", after("io_uring.setup")),
        Some(Ok(true)) => question.ok("given"),
        Some(Ok(false)) => question.warning(
            "refused; the engine does without",
            "setcap cap_sys_nice+ep PROGRAM  # Linux 5.11 and 5.12; later ones give it to everybody, earlier ones to root",
        ),
        Some(Err(error)) => question.warning(error.to_string(), after("io_uring.setup")),
    }
}

fn polled_completion(directory: &Path, answer: Option<Result<bool, UringError>>) -> Finding {
    let question = Question::new(
        "io_uring.iopoll",
        format!("a polled read of a file in {}", directory.display()),
        "completions are polled at the disk instead of coming by interrupt; for files with O_DIRECT on disks whose driver has poll queues",
    );
    let fix = "echo 'options nvme poll_queues=2' >/etc/modprobe.d/nvme-poll.conf && update-initramfs -u && reboot  # then again, with TMPDIR \
               on the disk that counts";
    match answer {
        None => question.unknown("not tried: there is no ring", after("io_uring.setup")),
        Some(Ok(true)) => question.ok("read"),
        Some(Ok(false)) => {
            question.unknown("not served by this file system or its disk; others were not tried", fix)
        }
        Some(Err(UringError::Os { op, errno })) => {
            question.unknown(format!("{op}: {}", os(errno)), fix).errno(errno)
        }
        Some(Err(error)) => question.unknown(error.to_string(), fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::Status;

    #[test]
    fn a_ring_that_is_refused_is_a_warning_with_errno_and_the_setting() {
        assert_eq!(setup(Ok(())).status, Status::Ok);
        let off = setup(Err(UringError::Disabled { errno: libc::EPERM, sysctl: Some(2) }));
        assert_eq!((off.status, off.errno), (Status::Warning, Some(libc::EPERM)));
        assert!(off.fix.unwrap().contains("kernel.io_uring_disabled=0"));
        let filtered = setup(Err(UringError::Disabled { errno: libc::ENOSYS, sysctl: None }));
        assert!(filtered.fix.unwrap().contains("seccomp"));
    }

    #[test]
    fn registered_buffers_are_there_or_what_keeps_them_away_is_named() {
        assert_eq!(registered(Some(Ok(()))).status, Status::Ok);
        assert_eq!(registered(None).status, Status::Unknown);
        let full = registered(Some(Err(UringError::Memlock { bytes: 4096, limit: 0 })));
        assert_eq!(
            (full.status, full.fix.as_deref()),
            (Status::Warning, Some("tidegate doctor  # again, after the fix of memory.locked"))
        );
    }

    #[test]
    fn polled_submission_is_given_or_done_without() {
        assert_eq!(polled_submission(Some(Ok(true))).status, Status::Ok);
        assert_eq!(polled_submission(Some(Ok(false))).status, Status::Warning);
        assert_eq!(polled_submission(None).status, Status::Unknown);
    }

    #[test]
    fn polled_completion_that_one_disk_does_not_serve_is_unknown() {
        let asked = |answer| polled_completion(Path::new("/tmp"), answer);
        assert_eq!(asked(Some(Ok(true))).status, Status::Ok);
        assert_eq!(asked(Some(Ok(false))).status, Status::Unknown);
        let refused = asked(Some(Err(UringError::Os { op: "open with O_DIRECT", errno: libc::EINVAL })));
        assert_eq!((refused.status, refused.errno), (Status::Unknown, Some(libc::EINVAL)));
    }

    #[test]
    fn the_file_that_polling_is_tried_with_is_gone_afterwards() {
        let root = crate::cli::testing::scratch("doctor");
        let _tried = temporary(root.path());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
