//! Where the kernel shows itself.

use std::path::{Path, PathBuf};

/// The roots of sysfs, procfs and /dev, and the directory for what outlives a command.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) root: PathBuf,
    pub(crate) sysfs: PathBuf,
    pub(crate) proc: PathBuf,
    pub(crate) dev: PathBuf,
    pub(crate) state: PathBuf,
}

impl Places {
    /// This machine's.
    pub(crate) fn here() -> Places {
        Places::below(Path::new("/"))
    }

    /// Those of a tree of one's own.
    pub(crate) fn below(root: &Path) -> Places {
        let at = |name: &str| root.join(name);
        Places {
            root: root.to_owned(),
            sysfs: at("sys"),
            proc: at("proc"),
            dev: at("dev"),
            state: at("run/tidegate/vfio"),
        }
    }
}
