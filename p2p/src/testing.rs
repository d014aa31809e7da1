//! For unit tests: a scratch directory, for sysfs and /dev trees as fixtures.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed when dropped.
pub(crate) struct Scratch(PathBuf);

/// A new one; `name` says whose it is.
pub(crate) fn scratch(name: &str) -> Scratch {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!("tidegate-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(unique);
    fs::create_dir(&path).unwrap();
    Scratch(path)
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Creates a file with its directories and opens it.
    pub(crate) fn file(&self, name: &str) -> File {
        self.write(name, "");
        OpenOptions::new().read(true).write(true).open(self.0.join(name)).unwrap()
    }

    /// Creates a file with its directories.
    pub(crate) fn write(&self, name: &str, text: &str) {
        self.parents(name);
        fs::write(self.0.join(name), text).unwrap();
    }

    /// Creates a directory with its parents.
    pub(crate) fn dir(&self, name: &str) {
        fs::create_dir_all(self.0.join(name)).unwrap();
    }

    /// Creates a symbolic link with its directories.
    pub(crate) fn link(&self, name: &str, to: &str) {
        self.parents(name);
        std::os::unix::fs::symlink(to, self.0.join(name)).unwrap();
    }

    fn parents(&self, name: &str) {
        fs::create_dir_all(self.0.join(name).parent().unwrap()).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
