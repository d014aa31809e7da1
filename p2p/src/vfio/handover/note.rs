//! The note about a function's old driver: one small file a function, which outlives the process.

use super::error::HandoverError;
use crate::pci::PciAddress;
use crate::sys::{self, Errno};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// First line of a note.
const HEAD: &str = "tidegate handover 1";
/// A note is four short lines.
const LONGEST: u64 = 4096;

/// What a function was before it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// Vendor and device id as sysfs has them: another device at the same address is not this one.
    pub(super) id: String,
    /// Its driver.
    pub(super) driver: Option<String>,
    /// Its `driver_override`.
    pub(super) only: Option<String>,
}

/// The directory of notes and locks.
#[derive(Debug)]
pub(super) struct Notes(PathBuf);

/// Held until dropped, or until the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "flock lives as long as the file")] File);

impl Notes {
    pub(super) fn new(directory: &Path) -> Notes {
        Notes(directory.to_owned())
    }

    fn file(&self, at: PciAddress) -> PathBuf {
        self.0.join(at.to_string())
    }

    /// Makes the directory and locks the function against other handovers of it.
    pub(super) fn lock(&self, at: PciAddress) -> Result<Lock, HandoverError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|error| refused(&self.0, error.into()))?;
        let path = self.0.join(format!("{at}.lock"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = file.map_err(|error| refused(&path, error.into()))?;
        match sys::try_lock(&file) {
            Ok(()) => Ok(Lock(file)),
            Err(Errno(libc::EWOULDBLOCK)) => Err(HandoverError::Busy { at, file: path }),
            Err(errno) => Err(refused(&path, errno)),
        }
    }

    /// The function's note, if there is one.
    pub(super) fn read(&self, at: PciAddress) -> Result<Option<Note>, HandoverError> {
        let file = self.file(at);
        let bad = |what| HandoverError::Note { file: file.clone(), what };
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&file);
        let open = match open {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| refused(&file, error.into()))?,
        };
        let mut text = String::new();
        open.take(LONGEST).read_to_string(&mut text).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => bad("this is not text"),
            _ => refused(&file, error.into()),
        })?;
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err(bad("this is not a note of a handover"));
        }
        let mut field = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            // A name becomes part of a path, so it must be one.
            line.filter(|value| !value.is_empty() && !value.contains('/') && *value != ".." && *value != ".")
                .ok_or_else(|| bad("a line of it is missing or malformed"))
        };
        let some = |value: &str| (value != "-").then(|| value.to_owned());
        Ok(Some(Note {
            id: field("id")?.to_owned(),
            driver: some(field("driver")?),
            only: some(field("override")?),
        }))
    }

    /// Writes it so that a crash leaves the old note or the new one, and never a part.
    pub(super) fn write(&self, at: PciAddress, note: &Note) -> Result<(), Errno> {
        let text = format!(
            "{HEAD}\nid {}\ndriver {}\noverride {}\n",
            note.id,
            note.driver.as_deref().unwrap_or("-"),
            note.only.as_deref().unwrap_or("-")
        );
        // Left by a crash; the lock is ours, so nobody else writes it.
        let new = self.0.join(format!("{at}.new"));
        let _absent = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.file(at))?;
        Ok(File::open(&self.0)?.sync_all()?)
    }

    /// The error for a note that could not be used.
    pub(super) fn refused(&self, at: PciAddress, errno: Errno) -> HandoverError {
        refused(&self.file(at), errno)
    }

    /// Removes it, if it is there.
    pub(super) fn forget(&self, at: PciAddress) -> Result<(), Errno> {
        match fs::remove_file(self.file(at)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// The error for a file that could not be used.
fn refused(file: &Path, errno: Errno) -> HandoverError {
    match errno.0 {
        libc::EACCES | libc::EPERM | libc::EROFS => HandoverError::NotRoot { file: file.to_owned() },
        errno => HandoverError::Os { file: file.to_owned(), errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::scratch;
    use std::os::unix::fs::PermissionsExt;

    fn at() -> PciAddress {
        "0000:01:00.0".parse().unwrap()
    }

    fn note() -> Note {
        Note { id: "0x1b36:0x0010".into(), driver: Some("nvme".into()), only: None }
    }

    #[test]
    fn a_note_reads_back_as_it_was_written_and_is_for_root_alone() {
        let root = scratch("notes");
        let notes = Notes::new(&root.path().join("tidegate/vfio"));
        let _lock = notes.lock(at()).unwrap();
        assert_eq!(notes.read(at()), Ok(None));
        let bare = Note { driver: None, only: Some("vfio-pci".into()), ..note() };
        for note in [note(), bare] {
            notes.write(at(), &note).unwrap();
            assert_eq!(notes.read(at()), Ok(Some(note)));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&notes.file(at())), 0o600);
        assert_eq!(mode(&notes.0), 0o700);
        notes.forget(at()).unwrap();
        notes.forget(at()).unwrap();
        assert_eq!(notes.read(at()), Ok(None));
    }

    #[test]
    fn what_a_crash_left_half_written_is_not_the_note() {
        let root = scratch("notes");
        let notes = Notes::new(root.path());
        notes.write(at(), &note()).unwrap();
        root.write("0000:01:00.0.new", "tidegate hand");
        assert_eq!(notes.read(at()), Ok(Some(note())));
        let other = Note { driver: Some("e1000e".into()), ..note() };
        notes.write(at(), &other).unwrap();
        assert_eq!(notes.read(at()), Ok(Some(other)));
    }

    #[test]
    fn a_malformed_note_is_an_error_that_says_what_to_do() {
        let root = scratch("notes");
        let notes = Notes::new(root.path());
        for text in [
            "",
            "nvme\n",
            "tidegate handover 1\nid x\ndriver nvme\n",
            "tidegate handover 1\nid x\ndriver \noverride -\n",
            "tidegate handover 1\nid x\ndriver ../../sda\noverride -\n",
            "tidegate handover 1\nid x\noverride -\ndriver nvme\n",
        ] {
            root.write("0000:01:00.0", text);
            let error = notes.read(at()).unwrap_err();
            assert!(matches!(error, HandoverError::Note { .. }), "{text:?}: {error:?}");
            assert!(error.to_string().contains("remove the file"), "{error}");
        }
    }

    #[test]
    fn one_handover_at_a_time_and_a_link_is_not_followed() {
        let root = scratch("notes");
        let notes = Notes::new(root.path());
        let first = notes.lock(at()).unwrap();
        assert!(matches!(notes.lock(at()), Err(HandoverError::Busy { .. })));
        assert!(notes.lock("0000:01:00.1".parse().unwrap()).is_ok(), "others are not concerned");
        drop(first);
        assert!(notes.lock(at()).is_ok());
        root.write("elsewhere", HEAD);
        root.link("0000:01:00.0", "elsewhere");
        assert_eq!(notes.read(at()), Err(HandoverError::Os { file: notes.file(at()), errno: libc::ELOOP }));
    }
}
