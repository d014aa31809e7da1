//! The picture: a box a state, an arrow for all transitions between two.

use super::words::{needs, trigger};
use std::fmt::Write;
use tidegate_tdisp::state::{State, Transition};

const WIDTH: f64 = 1220.0;
const HEIGHT: f64 = 690.0;
/// Half a box.
const BOX: (f64, f64) = (95.0, 30.0);
const LINE: f64 = 15.0;

/// Arrows between two states.
type Arrow = (State, State, Vec<&'static Transition>);

/// Where a state stands.
fn place(state: State) -> (f64, f64) {
    match state {
        State::ConfigUnlocked => (150.0, 240.0),
        State::ConfigLocked => (590.0, 240.0),
        State::Run => (1030.0, 240.0),
        State::Error => (810.0, 630.0),
    }
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
    for arrow in arrows {
        label(&mut out, arrow);
    }
    out.push_str("</svg>\n");
    out
}

/// The point that bends the arrow: to the left of where it goes.
fn bend(from: State, to: State) -> (f64, f64) {
    let ((x0, y0), (x1, y1)) = (place(from), place(to));
    let (dx, dy) = (x1 - x0, y1 - y0);
    let by = 0.36;
    ((x0 + x1) / 2.0 + dy * by, (y0 + y1) / 2.0 - dx * by)
}

/// Where a line from the middle of a box towards a point leaves the box.
fn border(state: State, towards: (f64, f64)) -> (f64, f64) {
    let (x, y) = place(state);
    let (dx, dy) = (towards.0 - x, towards.1 - y);
    let scale = (BOX.0 / dx.abs()).min(BOX.1 / dy.abs());
    (x + dx * scale, y + dy * scale)
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
        let (cx, cy) = bend(from, to);
        let ((x0, y0), (x1, y1)) = (border(from, (cx, cy)), border(to, (cx, cy)));
        format!("M{x0:.1} {y0:.1} Q{cx:.1} {cy:.1} {x1:.1} {y1:.1}")
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

fn label(out: &mut String, (from, to, rules): &Arrow) {
    let lines = words(rules);
    let height = LINE * lines.len() as f64;
    let (x, middle) = if from == to {
        let (x, y) = place(*from);
        (x, y - BOX.1 - 48.0 - height / 2.0)
    } else {
        let ((x0, y0), (x1, y1), (cx, cy)) = (place(*from), place(*to), bend(*from, *to));
        ((x0 + x1 + 2.0 * cx) / 4.0, (y0 + y1 + 2.0 * cy) / 4.0)
    };
    let top = middle - height / 2.0 + LINE * 0.8;
    for (at, (bold, line)) in lines.iter().enumerate() {
        let (weight, fill) = if *bold { ("bold", "#111") } else { ("normal", "#555") };
        let y = top + LINE * at as f64;
        writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" font-weight=\"{weight}\" fill=\"{fill}\" \
             stroke=\"white\" stroke-width=\"4\" paint-order=\"stroke\">{line}</text>"
        )
        .unwrap();
    }
}
