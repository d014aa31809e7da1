//! The picture: a box a state, an arrow for all transitions between two.

use super::words::{needs, trigger};
use std::fmt::Write;
use tidegate_tdisp::state::{State, Transition};

const WIDTH: f64 = 1220.0;
const HEIGHT: f64 = 740.0;
/// Half a box.
const BOX: (f64, f64) = (95.0, 30.0);
const LINE: f64 = 15.0;

/// Arrows between two states.
type Arrow = (State, State, Vec<&'static Transition>);
type Point = (f64, f64);

/// Where a state stands.
fn place(state: State) -> Point {
    match state {
        State::ConfigUnlocked => (150.0, 230.0),
        State::ConfigLocked => (600.0, 230.0),
        State::Run => (1050.0, 230.0),
        State::Error => (600.0, 690.0),
    }
}

/// The way of an arrow: its ends, the point that bends it, and the middle of what is written at it.
struct Way {
    ends: [Point; 2],
    bend: Point,
    words: Point,
}

/// `height`: of the words.
fn way(from: State, to: State, height: f64) -> Way {
    use State::{ConfigLocked as Locked, ConfigUnlocked as Unlocked, Error, Run};
    let ((x0, y0), (x1, y1)) = (place(from), place(to));
    // Beside the middles of the boxes, so that there and back are two lines.
    let (above, below) = (y0 - 15.0, y0 + 15.0);
    match (from, to) {
        (Unlocked, Locked) | (Locked, Run) => {
            let middle = ((x0 + x1) / 2.0, above);
            let words = (middle.0, y0 - BOX.1 - 4.0 - height / 2.0);
            Way { ends: [(x0 + BOX.0, above), (x1 - BOX.0, above)], bend: middle, words }
        }
        (Locked, Unlocked) => {
            let middle = ((x0 + x1) / 2.0, below);
            let words = (middle.0, below + 8.0 + height / 2.0);
            Way { ends: [(x0 - BOX.0, below), (x1 + BOX.0, below)], bend: middle, words }
        }
        (Run, Unlocked) => {
            let ends = [(x0 - 50.0, y0 + BOX.1), (x1 - 20.0, y1 + BOX.1)];
            Way { ends, bend: (560.0, 560.0), words: (800.0, 370.0) }
        }
        (Locked, Error) => {
            let middle = (x0, (y0 + y1) / 2.0);
            Way { ends: [(x0, y0 + BOX.1), (x1, y1 - BOX.1)], bend: middle, words: (x0, middle.1 + 60.0) }
        }
        (Run, Error) => {
            let (ends, bend) = ([(x0 + 40.0, y0 + BOX.1), (x1 + BOX.0, y1)], (x0 + 40.0, y1));
            Way { ends, bend, words: halfway(ends, bend) }
        }
        (Error, Unlocked) => {
            let (ends, bend) = ([(x0 - BOX.0, y0), (x1 - 60.0, y1 + BOX.1)], (x1 - 60.0, y0));
            Way { ends, bend, words: halfway(ends, bend) }
        }
        _ => panic!("no way from {from} to {to} is drawn"),
    }
}

/// The middle of a bent line.
fn halfway([(x0, y0), (x1, y1)]: [Point; 2], (x, y): Point) -> Point {
    ((x0 + x1 + 2.0 * x) / 4.0, (y0 + y1 + 2.0 * y) / 4.0)
}

/// How the state is coloured: who is trusted with what.
fn colour(state: State) -> &'static str {
    match state {
        State::ConfigUnlocked => "#e8eaed",
        State::ConfigLocked => "#fef3d0",
        State::Run => "#d7f0dc",
        State::Error => "#f9dcdc",
    }
}

pub(crate) fn svg(arrows: &[Arrow]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>States of a TDI</title>\n\
         <defs><marker id=\"head\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto-start-reverse\"><path d=\"M0 0 L10 5 L0 10 z\" fill=\"#444\"/></marker></defs>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    // First every line, then what must not be crossed by one.
    for (from, to, _) in arrows {
        line(&mut out, *from, *to);
    }
    for arrow in arrows {
        label(&mut out, arrow);
    }
    for state in State::ALL {
        let (x, y) = place(state);
        let (left, top) = (x - BOX.0, y - BOX.1);
        writeln!(
            out,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"{}\" stroke=\"#444\"/>\n\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"15\" font-weight=\"bold\">{state}</text>",
            2.0 * BOX.0,
            2.0 * BOX.1,
            colour(state),
            y + 5.0
        )
        .unwrap();
    }
    out.push_str("</svg>\n");
    out
}

fn line(out: &mut String, from: State, to: State) {
    let path = if from == to {
        let (x, y) = place(from);
        let top = y - BOX.1;
        format!(
            "M{} {top} C{} {} {} {} {} {top}",
            x - 30.0,
            x - 60.0,
            top - 60.0,
            x + 60.0,
            top - 60.0,
            x + 30.0
        )
    } else {
        let Way { ends: [(x0, y0), (x1, y1)], bend: (x, y), .. } = way(from, to, 0.0);
        format!("M{x0:.1} {y0:.1} Q{x:.1} {y:.1} {x1:.1} {y1:.1}")
    };
    writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"#444\" marker-end=\"url(#head)\"/>").unwrap();
}

/// What is written at an arrow: its triggers, and what they need.
fn words(rules: &[&Transition]) -> Vec<(bool, String)> {
    let mut lines: Vec<(bool, String)> = Vec::new();
    for rule in rules {
        lines.push((true, trigger(rule.on).into()));
        lines.extend(needs(rule.needs).into_iter().map(|need| (false, need.into())));
    }
    lines
}

/// Written on white, so that no line goes through the words.
fn label(out: &mut String, (from, to, rules): &Arrow) {
    let lines = words(rules);
    let height = LINE * lines.len() as f64;
    let (x, middle) = if from == to {
        let (x, y) = place(*from);
        (x, y - BOX.1 - 48.0 - height / 2.0)
    } else {
        way(*from, *to, height).words
    };
    let top = middle - height / 2.0;
    // As wide as such letters are at the most, about.
    let wide = |(bold, line): &(bool, String)| line.len() as f64 * if *bold { 7.6 } else { 6.4 };
    let width = lines.iter().map(wide).fold(0.0, f64::max) + 8.0;
    writeln!(
        out,
        "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"white\"/>",
        x - width / 2.0
    )
    .unwrap();
    for (at, (bold, line)) in lines.iter().enumerate() {
        let (weight, fill) = if *bold { ("bold", "#111") } else { ("normal", "#555") };
        let y = top + LINE * (at as f64 + 0.8);
        writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" font-weight=\"{weight}\" fill=\"{fill}\">{line}</text>"
        )
        .unwrap();
    }
}
