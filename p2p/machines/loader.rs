//! Lays a machine's text out as a sysfs tree. No dependencies, so that any crate's tests can include it by path.
//!
//! ```text
//! cpu x86,ven0002fam0019mod0011       devices/system/cpu/modalias
//! iommu ivhd0                         class/iommu/ivhd0
//! pci0000:00                          a host bridge; below it, indented by two spaces a level:
//!   00:01.1 1022:14db 060400 numa_node=0 driver->pcieport iommu_group->1
//!     config 34:40 40:10004201        bytes of config space; 4096 of them, or as many as `size=64` says
//!     bar 0 e0000000 efffffff 14220c  a line of `resource`
//!     01:00.0 10de:2330 030200        a function below the bridge
//! # from here to the end of the line is a comment
//! ```
//!
//! `name=value` is a file of the function, `name->value` a link. Config space starts with vendor, device and class, as
//! they are in front. Lines that begin with another word are left to whoever checks the machine.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A function that is being put together.
struct Function {
    at: String,
    directory: PathBuf,
    config: Vec<u8>,
    resource: Vec<String>,
}

/// Writes the tree of `text` below `root`, an empty directory that exists. Names a line that it can't read.
pub(crate) fn lay_out(text: &str, root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("bus/pci/devices"))?;
    let mut above: Vec<PathBuf> = Vec::new();
    let mut current: Option<Function> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.split(" #").next().unwrap_or("").trim_end();
        let depth = (line.len() - line.trim_start().len()) / 2;
        let words: Vec<&str> = line.split_whitespace().collect();
        let read = match words.as_slice() {
            ["config", pieces @ ..] => current.as_mut().and_then(|f| f.config(pieces)),
            ["bar", index, start, last, flags] => {
                current.as_mut().and_then(|f| f.bar(index, start, last, flags))
            }
            ["cpu", alias] => {
                let text = format!("cpu:type:{alias}:feature:,0000\n");
                Some(put(&root.join("devices/system/cpu/modalias"), text.as_bytes())?)
            }
            ["iommu", name] => Some(fs::create_dir_all(root.join("class/iommu").join(name))?),
            [host] if host.starts_with("pci") => {
                above = vec![root.join("devices").join(host)];
                Some(())
            }
            [at, ids, class, attributes @ ..] if depth > 0 && at.contains('.') => {
                finish(current.take(), root)?;
                above.truncate(depth);
                let made = Function::new(at, ids, class, &above);
                if let Some(function) = &made {
                    fs::create_dir_all(&function.directory)?;
                    above.push(function.directory.clone());
                    function.attributes(ids, class, attributes, root)?;
                }
                current = made;
                current.as_ref().map(|_| ())
            }
            // A comment, or somebody else's.
            _ => Some(()),
        };
        let bad = || Error::new(ErrorKind::InvalidData, format!("line {}: {line:?}", number + 1));
        read.ok_or_else(bad)?;
    }
    finish(current, root)
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, bytes)
}

fn finish(function: Option<Function>, root: &Path) -> Result<()> {
    let Some(Function { at, directory, config, resource }) = function else { return Ok(()) };
    put(&directory.join("config"), &config)?;
    put(&directory.join("resource"), resource.concat().as_bytes())?;
    symlink(&directory, root.join("bus/pci/devices").join(at))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|n| u8::from_str_radix(text.get(n..n + 2)?, 16).ok()).collect()
}

impl Function {
    fn new(at: &str, ids: &str, class: &str, above: &[PathBuf]) -> Option<Function> {
        let at = if at.len() == 7 { format!("0000:{at}") } else { at.to_owned() };
        let (vendor, device) = ids.split_once(':')?;
        let mut config = vec![0; 4096];
        for (from, value) in [(0, vendor), (2, device), (9, class)] {
            let mut bytes = hex(value)?;
            bytes.reverse();
            config.get_mut(from..from + bytes.len())?.copy_from_slice(&bytes);
        }
        let zero = format!("0x{:016x} 0x{:016x} 0x{:016x}\n", 0, 0, 0);
        Some(Function { directory: above.last()?.join(&at), at, config, resource: vec![zero; 13] })
    }

    fn attributes(&self, ids: &str, class: &str, attributes: &[&str], root: &Path) -> Result<()> {
        let file = |name: &str, value: &str| put(&self.directory.join(name), format!("{value}\n").as_bytes());
        let (vendor, device) = ids.split_once(':').unwrap_or_default();
        file("vendor", &format!("0x{vendor}"))?;
        file("device", &format!("0x{device}"))?;
        file("class", &format!("0x{class}"))?;
        for attribute in attributes {
            if let Some((name, value)) = attribute.split_once("->") {
                let (place, value) = match name {
                    "iommu_group" => ("kernel/iommu_groups", value.to_owned()),
                    "iommu" => ("class/iommu", value.to_owned()),
                    "driver" => ("bus/pci/drivers", value.to_owned()),
                    _ => ("bus/pci/devices", format!("0000:{value}")),
                };
                let target = root.join(place).join(value);
                symlink(&target, self.directory.join(name))?;
                if name == "iommu_group" {
                    fs::create_dir_all(target.join("devices"))?;
                    symlink(&self.directory, target.join("devices").join(&self.at))?;
                }
            } else if let Some((name, value)) = attribute.split_once('=') {
                file(name, value)?;
            }
        }
        Ok(())
    }

    fn config(&mut self, pieces: &[&str]) -> Option<()> {
        for piece in pieces {
            if let Some(size) = piece.strip_prefix("size=") {
                self.config.truncate(size.parse().ok()?);
                continue;
            }
            let (at, bytes) = piece.split_once(':')?;
            let (at, bytes) = (usize::from_str_radix(at, 16).ok()?, hex(bytes)?);
            self.config.get_mut(at..at + bytes.len())?.copy_from_slice(&bytes);
        }
        Some(())
    }

    fn bar(&mut self, index: &str, start: &str, last: &str, flags: &str) -> Option<()> {
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, last, flags) = (number(start)?, number(last)?, number(flags)?);
        let line = format!("0x{start:016x} 0x{last:016x} 0x{flags:016x}\n");
        *self.resource.get_mut(index.parse::<usize>().ok()?)? = line;
        Some(())
    }
}
