//! From rounds to rows: ratios, the JSON, the tables.

use crate::goals::{Against, Goal};
use crate::missing::Missing;
use crate::round::Round;
use crate::stats::Sorted;
use serde_json::{Value, json};
use std::fmt::Write;

/// One line of the result.
#[derive(Debug, Clone)]
pub struct Row {
    /// Which.
    pub goal: Goal,
    /// Median of ours, if there is one.
    pub ours: Result<f64, Missing>,
    /// Median of the peer's, or the bound.
    pub theirs: Result<f64, Missing>,
    /// Median of the rounds' ratios, and the smallest and largest.
    pub ratio: Option<(f64, f64, f64)>,
    /// Rounds with both figures.
    pub rounds: usize,
    /// Rounds whose cache-line trips before and after differed much, however often they were measured.
    pub unsteady: usize,
}

/// Series of the cache-line trip in a round, and the mark of an unsteady one.
pub const LINE: &str = "line";
/// Put in a round that stayed unsteady.
pub const UNSTEADY: &str = "unsteady";

impl Row {
    /// Of the rounds of its group.
    pub fn of(goal: &Goal, rounds: &[Round<'_>]) -> Row {
        let median = |series: &str| -> Result<f64, Missing> {
            let figures: Vec<f64> =
                rounds.iter().filter_map(|round| round.figure(series)?.as_ref().ok().copied()).collect();
            let sorted = Sorted::new(figures);
            if !sorted.is_empty() {
                return Ok(sorted.median());
            }
            let why = rounds.iter().find_map(|round| round.figure(series)?.as_ref().err().cloned());
            Err(why.unwrap_or_else(|| Missing::new("not measured")))
        };
        let theirs_of = |round: &Round<'_>| -> Option<f64> {
            match goal.against {
                Against::Peer(peer) => round.figure(&format!("{}@{peer}", goal.id))?.as_ref().ok().copied(),
                Against::Line => round.figure(LINE)?.as_ref().ok().copied(),
                Against::Bound(bound) => Some(bound),
            }
        };
        let ratio_of = |round: &Round<'_>| -> Option<f64> {
            Some(round.figure(goal.id)?.as_ref().ok()? / theirs_of(round)?)
        };
        let ratios = Sorted::new(rounds.iter().filter_map(ratio_of).collect());
        let (low, high) = ratios.spread();
        let unsteady = rounds.iter().filter(|round| round.figure(UNSTEADY).is_some()).count();
        Row {
            goal: *goal,
            ours: median(goal.id),
            theirs: match goal.against {
                Against::Peer(peer) => median(&format!("{}@{peer}", goal.id)),
                Against::Line => median(LINE),
                Against::Bound(bound) => Ok(bound),
            },
            ratio: (!ratios.is_empty()).then(|| (digits(ratios.median()), digits(low), digits(high))),
            rounds: ratios.len(),
            unsteady,
        }
    }

    /// From ratio and goal alone; `None` without one of them.
    pub fn met(&self) -> Option<bool> {
        Some(self.ratio?.0 <= self.goal.most?)
    }

    fn json(&self) -> Value {
        let figure = |value: &Result<f64, Missing>| value.as_ref().ok().map(|v| digits(*v));
        let mut row = json!({
            "id": self.goal.id,
            "ours": figure(&self.ours),
            "peer": self.goal.peer(),
            "peer_value": figure(&self.theirs),
            "unit": self.goal.unit,
            "ratio": self.ratio.map(|r| r.0),
            "spread": self.ratio.map(|r| [r.1, r.2]),
            "rounds": self.rounds,
            "goal": self.goal.most,
            "met": self.met(),
        });
        let why: Vec<String> = [("ours", &self.ours), ("peer", &self.theirs)]
            .into_iter()
            .filter_map(|(whose, figure)| Some(format!("{whose}: {}", figure.as_ref().err()?)))
            .collect();
        if !why.is_empty() {
            row["missing"] = why.join("; ").into();
        }
        if self.unsteady > 0 {
            row["unsteady"] = self.unsteady.into();
        }
        row
    }
}

/// Four significant digits.
fn digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// The array, a row a line.
pub fn json(rows: &[Row]) -> String {
    let lines: Vec<String> = rows.iter().map(|row| row.json().to_string()).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}

/// A figure for people.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2}M", value / 1e6),
        v if v >= 1e4 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The cells of a row.
fn cells(row: &Row) -> [String; 9] {
    let figure = |value: &Result<f64, Missing>| value.as_ref().map_or_else(|_| "-".to_owned(), |v| short(*v));
    let (ratio, spread) = row.ratio.map_or_else(
        || ("-".to_owned(), String::new()),
        |(r, low, high)| (format!("{r:.3}"), format!("{low:.3} .. {high:.3}")),
    );
    let met = match (row.met(), row.goal.most) {
        (Some(true), _) => "yes".to_owned(),
        (Some(false), _) => "NO".to_owned(),
        (None, None) if row.ratio.is_some() => "shown".to_owned(),
        _ => {
            let ours = row.ours.as_ref().err().map(|why| format!("ours: {why}"));
            ours.or_else(|| row.theirs.as_ref().err().map(|why| format!("peer: {why}"))).unwrap_or_default()
        }
    };
    let unsteady = if row.unsteady > 0 { format!(" ({} unsteady)", row.unsteady) } else { String::new() };
    [
        row.goal.id.to_owned(),
        row.goal.peer().to_owned(),
        figure(&row.ours),
        figure(&row.theirs),
        row.goal.unit.to_owned(),
        ratio,
        spread,
        row.goal.most.map_or_else(String::new, |goal| format!("{goal}")),
        met + &unsteady,
    ]
}

const HEAD: [&str; 9] = ["id", "peer", "ours", "theirs", "unit", "ratio", "spread", "goal", "met"];

/// A table for the terminal.
pub fn table(rows: &[Row]) -> String {
    let mut all = vec![HEAD.map(str::to_owned)];
    all.extend(rows.iter().map(cells));
    let width = |column: usize| all.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &all {
        for (i, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Numbers to the right.
            let _ = match i {
                2 | 3 | 5 | 7 => write!(text, "{cell:>width$}  "),
                _ => write!(text, "{cell:<width$}  "),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// The same in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let line = |cells: &[String; 9]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&HEAD.map(str::to_owned));
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        text.push_str(&line(&cells(row)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(against: Against, most: Option<f64>) -> Goal {
        Goal { id: "a/b", against, unit: "ns", most }
    }

    fn round(ours: f64, theirs: f64) -> Round<'static> {
        let mut round = Round::default();
        round.put("a/b", ours);
        round.put("a/b@peer", theirs);
        round
    }

    #[test]
    fn the_ratio_is_the_median_of_the_rounds_ratios() {
        // Ratios 0.5, 1, 4: their median is 1, the ratio of the medians would be 2 / 4.
        let rounds = [round(1.0, 2.0), round(4.0, 4.0), round(40.0, 10.0)];
        let row = Row::of(&goal(Against::Peer("peer"), Some(1.0)), &rounds);
        assert_eq!((row.ratio, row.rounds, row.met()), (Some((1.0, 0.5, 4.0)), 3, Some(true)));
        assert_eq!((row.ours, row.theirs), (Ok(4.0), Ok(4.0)));
    }

    #[test]
    fn a_missing_peer_is_a_row_with_its_reason() {
        let mut round = Round::default();
        round.put("a/b", 1.0);
        round.miss("a/b@peer", &Missing::new("no package"));
        let row = Row::of(&goal(Against::Peer("peer"), Some(1.0)), &[round]).json();
        assert_eq!(row["missing"], "peer: no package");
        assert!(row["peer_value"].is_null() && row["ratio"].is_null() && row["met"].is_null());
        assert_eq!(row["ours"], 1.0);
    }

    #[test]
    fn without_a_goal_nothing_is_met() {
        let row = Row::of(&goal(Against::Peer("peer"), None), &[round(1.0, 2.0)]).json();
        assert!(row["met"].is_null() && row["goal"].is_null());
        assert_eq!(row["ratio"], 0.5);
    }

    #[test]
    fn a_bound_stands_for_the_peer() {
        let rounds = [round(3.0, 0.0)];
        let row = Row::of(&goal(Against::Bound(2.0), Some(1.0)), &rounds).json();
        assert_eq!(
            (&row["peer"], &row["peer_value"], &row["ratio"], &row["met"]),
            (&json!("bound"), &json!(2.0), &json!(1.5), &json!(false))
        );
    }
}
