//! What a probe found: for people as text, for programs as JSON.

use serde_json::{Value, json};
use std::fmt;
use std::io::{self, Write};
use tidegate::p2p::PciAddress;
use tidegate::p2p::backend::BackendError;

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// Works, with less than there could be.
    Warning,
    /// In the way of what Tidegate does.
    Problem,
    /// Could not be found out; the fix says how to.
    Unknown,
}

impl Status {
    const ALL: [Status; 4] = [Status::Ok, Status::Warning, Status::Problem, Status::Unknown];

    const fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "problem",
            Status::Unknown => "unknown",
        }
    }
}

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Which question; stable, for programs.
    pub(crate) id: &'static str,
    /// The function that it is about; `None`: the machine.
    pub(crate) at: Option<PciAddress>,
    pub(crate) status: Status,
    /// What was tried.
    pub(crate) tried: String,
    /// What came back.
    pub(crate) answered: String,
    /// The errno of it.
    pub(crate) errno: Option<i32>,
    /// Why it matters.
    pub(crate) why: &'static str,
    /// Commands that change it, run as root.
    pub(crate) fix: Option<String>,
}

/// A question that has been asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    id: &'static str,
    at: Option<PciAddress>,
    tried: String,
    why: &'static str,
}

impl Question {
    pub(crate) fn new(id: &'static str, tried: impl Into<String>, why: &'static str) -> Question {
        Question { id, at: None, tried: tried.into(), why }
    }

    pub(crate) fn about(self, at: PciAddress) -> Question {
        Question { at: Some(at), ..self }
    }

    pub(crate) fn ok(self, answered: impl Into<String>) -> Finding {
        self.answer(Status::Ok, answered, None)
    }

    pub(crate) fn warning(self, answered: impl Into<String>, fix: impl Into<String>) -> Finding {
        self.answer(Status::Warning, answered, Some(fix.into()))
    }

    pub(crate) fn problem(self, answered: impl Into<String>, fix: impl Into<String>) -> Finding {
        self.answer(Status::Problem, answered, Some(fix.into()))
    }

    pub(crate) fn unknown(self, answered: impl Into<String>, fix: impl Into<String>) -> Finding {
        self.answer(Status::Unknown, answered, Some(fix.into()))
    }

    fn answer(self, status: Status, answered: impl Into<String>, fix: Option<String>) -> Finding {
        let Question { id, at, tried, why } = self;
        Finding { id, at, status, tried, answered: answered.into(), errno: None, why, fix }
    }
}

impl Finding {
    /// Keeps the errno.
    pub(crate) fn errno(self, errno: impl Into<Option<i32>>) -> Finding {
        Finding { errno: errno.into(), ..self }
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "device": self.at.map(|at| at.to_string()),
            "status": self.status.word(),
            "tried": self.tried,
            "answered": self.answered,
            "errno": self.errno,
            "why": self.why,
            "fix": self.fix,
        })
    }
}

impl fmt::Display for Finding {
    /// One line for what is well, five for the rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.map(|at| format!(" {at}")).unwrap_or_default();
        write!(f, "{:<8} {}{at}: {}", self.status.word(), self.id, self.answered)?;
        if self.status != Status::Ok {
            write!(f, "\n         tried: {}\n         why:   {}", self.tried, self.why)?;
        }
        match &self.fix {
            Some(fix) => write!(f, "\n         fix:   {fix}"),
            None => Ok(()),
        }
    }
}

/// The errno of a library's error, where it has one.
pub(crate) fn errno(error: &BackendError) -> Option<i32> {
    match error {
        BackendError::Os { errno, .. } => Some(*errno),
        _ => None,
    }
}

/// The fix of what follows from the finding of another question.
pub(crate) fn after(id: &str) -> String {
    format!("tidegate doctor  # again, after the fix of {id}")
}

/// What an errno means, with its number.
pub(crate) fn os(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

/// `16 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut left = bytes;
    while left >= 1024 && left % 1024 == 0 && unit + 1 < units.len() {
        left /= 1024;
        unit += 1;
    }
    format!("{left} {}", units.get(unit).copied().unwrap_or_default())
}

/// All findings as text: what is well first, the worst last, where it is seen.
pub(crate) fn print(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    for status in [Status::Ok, Status::Unknown, Status::Warning, Status::Problem] {
        for finding in findings.iter().filter(|finding| finding.status == status) {
            writeln!(out, "{finding}")?;
        }
    }
    let counts = Status::ALL.map(|status| format!("{} {}", count(findings, status), status.word()));
    writeln!(out, "\n{}", counts.join(", "))
}

/// All findings as one document.
pub(crate) fn print_json(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let summary: serde_json::Map<String, Value> = Status::ALL
        .iter()
        .map(|status| (status.word().to_owned(), json!(count(findings, *status))))
        .collect();
    let findings: Vec<Value> = findings.iter().map(Finding::json).collect();
    let document = json!({ "tidegate": "doctor", "format": 1, "summary": summary, "findings": findings });
    writeln!(out, "{document:#}")
}

pub(crate) fn count(findings: &[Finding], status: Status) -> usize {
    findings.iter().filter(|finding| finding.status == status).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Finding> {
        let question = || Question::new("kernel.iommufd", "open /dev/iommu", "it is the way");
        vec![
            question().problem("No such file or directory (os error 2)", "modprobe iommufd").errno(2),
            question().about("01:00.0".parse().unwrap()).ok("opened"),
        ]
    }

    #[test]
    fn text_ends_with_the_worst_and_says_what_to_do() {
        let mut out = Vec::new();
        print(&some(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok       kernel.iommufd 0000:01:00.0: opened\n\
             problem  kernel.iommufd: No such file or directory (os error 2)\n\
             \x20        tried: open /dev/iommu\n\
             \x20        why:   it is the way\n\
             \x20        fix:   modprobe iommufd\n\n\
             1 ok, 0 warning, 1 problem, 0 unknown\n"
        );
    }

    #[test]
    fn json_is_one_document_with_stable_names() {
        let mut out = Vec::new();
        print_json(&some(), &mut out).unwrap();
        let document: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(document["summary"], json!({ "ok": 1, "warning": 0, "problem": 1, "unknown": 0 }));
        assert_eq!(document["findings"][0]["errno"], 2);
        assert_eq!(document["findings"][1]["device"], "0000:01:00.0");
        assert_eq!(document["findings"][1]["fix"], Value::Null);
    }

    #[test]
    fn sizes_are_whole_units() {
        assert_eq!(
            (size(256), size(16 << 20), size(3 << 30)),
            ("256 bytes".into(), "16 MiB".into(), "3 GiB".into())
        );
    }
}
