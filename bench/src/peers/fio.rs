//! fio as a program: its report is read, its job is the same shape as ours.

use crate::missing::Missing;
use std::path::Path;
use std::process::Command;

/// A fio that runs.
#[derive(Debug, Clone)]
pub struct Fio {
    version: String,
}

impl Fio {
    /// Asks for its version.
    ///
    /// # Errors
    /// [`Missing`] if there is no fio on the path.
    pub fn find() -> Result<Fio, Missing> {
        let asked = Command::new("fio").arg("--version").output();
        let asked = asked.map_err(|error| Missing::new(format!("fio (apt-get install fio): {error}")))?;
        Ok(Fio { version: String::from_utf8_lossy(&asked.stdout).trim().to_owned() })
    }

    /// As it calls itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Nanoseconds of a random 4 KiB read of `file` (cached, registered buffers and file), `burst` at a time, over
    /// `millis`, on one CPU, without fio's own time stamps for each operation.
    ///
    /// # Errors
    /// [`Missing`] if it fails or its report can't be read.
    pub fn read_4k(
        &self,
        file: &Path,
        size: u64,
        burst: u32,
        cpu: usize,
        millis: u64,
    ) -> Result<f64, Missing> {
        let mut fio = Command::new("fio");
        fio.args(["--name=read", "--ioengine=io_uring", "--rw=randread", "--bs=4k", "--direct=0"])
            .args([
                "--fixedbufs=1",
                "--registerfiles=1",
                "--norandommap=1",
                "--randrepeat=0",
                "--invalidate=0",
            ])
            .args([
                "--gtod_reduce=1",
                "--thread=1",
                "--time_based=1",
                "--output-format=json",
                "--group_reporting=1",
            ])
            .arg(format!("--filename={}", file.display()))
            .arg(format!("--size={size}"))
            .args([format!("--iodepth={burst}"), format!("--iodepth_batch_submit={burst}")])
            .args([
                format!("--iodepth_batch_complete_min={burst}"),
                format!("--iodepth_batch_complete_max={burst}"),
            ])
            .args([
                format!("--cpus_allowed={cpu}"),
                format!("--runtime={millis}ms"),
                "--ramp_time=100ms".into(),
            ]);
        let ran = fio.output().map_err(|error| Missing::new(format!("fio: {error}")))?;
        if !ran.status.success() {
            let said = String::from_utf8_lossy(&ran.stderr);
            return Err(Missing::new(format!("fio failed: {}", said.lines().next().unwrap_or_default())));
        }
        nanoseconds(&ran.stdout).ok_or_else(|| Missing::new("fio's report has no rate of reads"))
    }
}

/// Of a read, from the report; fio may print notes before the JSON.
fn nanoseconds(report: &[u8]) -> Option<f64> {
    let start = report.iter().position(|b| *b == b'{')?;
    let json: serde_json::Value = serde_json::from_slice(report.get(start..)?).ok()?;
    let rate = json["jobs"][0]["read"]["iops"].as_f64()?;
    (rate > 0.0).then(|| 1e9 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_past_its_notes() {
        let report = br#"note: both iodepth >= 1 and synchronous
            {"jobs": [{"read": {"iops": 1000000.0}}]}"#;
        assert_eq!(nanoseconds(report), Some(1000.0));
        assert_eq!(nanoseconds(br#"{"jobs": [{"read": {"iops": 0.0}}]}"#), None);
        assert_eq!(nanoseconds(b"fio: nothing"), None);
    }
}
