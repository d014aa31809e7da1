//! docs/tdi-states.md and docs/tdi-states.svg are drawn from the tables that the responder runs on. This test compares
//! them; `TIDEGATE_RENEW=1 cargo test -p tidegate-tdisp --test state_picture` writes them anew.

mod drawing;
mod words;

use std::fmt::Write;
use std::path::Path;
use tidegate_tdisp::state::event::{Hits, When};
use tidegate_tdisp::state::{Reach, State, TABLE, Transition, Trigger};
use words::{needs, request, spaced, trigger};

/// The triggers in the order in which the tables name them first.
fn triggers() -> Vec<Trigger> {
    let mut all = Vec::new();
    for rule in TABLE.transitions {
        if !all.contains(&rule.on) {
            all.push(rule.on);
        }
    }
    all
}

fn heading(out: &mut String, title: &str, columns: &[String]) {
    let line = columns.iter().map(|_| "---").collect::<Vec<_>>().join("|");
    write!(out, "\n## {title}\n\n| {} |\n|{line}|\n", columns.join(" | ")).unwrap();
}

fn row(out: &mut String, cells: &[String]) {
    writeln!(out, "| {} |", cells.join(" | ")).unwrap();
}

fn text() -> String {
    let mut out = String::from(
        "# The states of a TDI\n\n\
         Drawn from the tables in `tdisp/src/state/`, on which the responder runs: do not edit.\n\
         `TIDEGATE_RENEW=1 cargo test -p tidegate-tdisp --test state_picture` writes this page and the picture anew;\n\
         without the variable that test compares them. What the tables promise is tried by `tdisp/tests/state_model`.\n\n\
         ![States and transitions](tdi-states.svg)\n",
    );
    let words = |list: &[&str]| list.iter().map(|word| word.to_string()).collect::<Vec<_>>();

    let mut columns = words(&["in"]);
    columns.extend(triggers().into_iter().map(|on| trigger(on).to_string()));
    heading(&mut out, "Where each trigger leads", &columns);
    for state in State::ALL {
        let mut cells = vec![state.to_string()];
        cells.extend(triggers().into_iter().map(|on| match TABLE.transition(state, on) {
            Some(rule) if rule.to == state => "stays".into(),
            Some(rule) => rule.to.to_string(),
            None => "-".into(),
        }));
        row(&mut out, &cells);
    }
    out.push_str("\nA dash: a request is answered with INVALID_INTERFACE_STATE, an event changes nothing.\n");

    heading(&mut out, "What has to be met first", &words(&["in", "on", "needs, in this order"]));
    for rule in TABLE.transitions.iter().filter(|rule| !rule.needs.is_empty()) {
        row(&mut out, &[rule.from.to_string(), trigger(rule.on).into(), needs(rule.needs).join("; ")]);
    }
    out.push_str("\nA request whose needs are not all met changes nothing.\n");

    let columns = words(&["in", "lock, report, bound streams", "nonce", "private pages are reached by"]);
    heading(&mut out, "What is there", &columns);
    let kept = |kept| if kept { "kept" } else { "gone" };
    for line in TABLE.kept {
        let reach = TABLE.memory.iter().find(|(state, _)| *state == line.state).unwrap().1;
        let reach = match reach {
            Reach::Ordinary => "T=0 (they are ordinary memory)",
            Reach::Trusted => "T=1, through a bound stream",
            Reach::Nobody => "nobody",
        };
        let cells = [line.state.to_string(), kept(line.lock).into(), kept(line.nonce).into(), reach.into()];
        row(&mut out, &cells);
    }

    heading(&mut out, "Requests that move nothing", &words(&["request", "answered in"]));
    // The request of PCIe 7.0 is there with a feature only, and the page is the same with it and without.
    for (code, states) in TABLE.queries.iter().filter(|(code, _)| u8::from(*code) != 0x8C) {
        let states: Vec<_> = states.iter().map(State::to_string).collect();
        row(&mut out, &[request(*code), states.join(", ")]);
    }

    let wiping: Vec<_> = TABLE.wiping.iter().map(|code| request(*code)).collect();
    write!(
        out,
        "\nWhile a STOP wipes what the trust domain left, these are answered: {}. Every other request is BUSY, and no\n\
         private page is reached.\n",
        wiping.join(", ")
    )
    .unwrap();

    heading(&mut out, "Events", &words(&["event", "hits the TDI", "if", "is a"]));
    for rule in TABLE.events {
        let hits = match rule.hits {
            Hits::Function => "of the function",
            Hits::FunctionAndVirtual => "of the function, and those of its virtual functions",
            Hits::BoundToStream => "that is bound to the stream",
            Hits::LockedBySession => "that the session locked",
            Hits::All => "whichever it is",
        };
        let when = match rule.when {
            When::Always => "",
            When::MsixLocked => "the MSI-X table is locked",
        };
        row(&mut out, &[spaced(rule.event), hits.into(), when.into(), trigger(rule.does).into()]);
    }
    out.push_str("\nAn event without a line is a fault of every TDI.\n");
    out
}

/// The transitions between two states, as one arrow.
fn arrows() -> Vec<(State, State, Vec<&'static Transition>)> {
    let mut all: Vec<(State, State, Vec<_>)> = Vec::new();
    for rule in TABLE.transitions {
        match all.iter_mut().find(|arrow| (arrow.0, arrow.1) == (rule.from, rule.to)) {
            Some(arrow) => arrow.2.push(rule),
            None => all.push((rule.from, rule.to, vec![rule])),
        }
    }
    all
}

fn is_fresh(name: &str, drawn: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("TIDEGATE_RENEW").is_some() {
        std::fs::write(&file, drawn).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == drawn,
        "docs/{name} is not what the tables say: \
         TIDEGATE_RENEW=1 cargo test -p tidegate-tdisp --test state_picture"
    );
}

#[test]
fn the_page_in_docs_says_what_the_tables_say() {
    is_fresh("tdi-states.md", &text());
}

#[test]
fn the_picture_in_docs_is_the_tables() {
    is_fresh("tdi-states.svg", &drawing::svg(&arrows()));
}
