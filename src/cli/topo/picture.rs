//! The tree and the matrix as an SVG.

use super::{Matrix, VERDICTS, letter, rows, words};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use tidegate::p2p::route::{Topology, Verdict};

type Failed = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const ROW: i32 = 20;
const INDENT: i32 = 22;
const MARGIN: i32 = 16;
const CELL: i32 = 22;
/// Room for an address before the matrix, and above it.
const NAME: i32 = 120;
/// Of a letter of the lines' font, about.
const LETTER: i32 = 7;

const LINE: RGBColor = RGBColor(120, 130, 140);
const PORT: RGBColor = RGBColor(84, 96, 110);
const DEVICE: RGBColor = RGBColor(21, 101, 192);

fn colour(verdict: Verdict) -> RGBColor {
    match verdict {
        Verdict::SwitchDirect => RGBColor(165, 214, 167),
        Verdict::ViaRootComplex => RGBColor(187, 222, 251),
        Verdict::Unknown => RGBColor(255, 224, 130),
        Verdict::Impossible => RGBColor(224, 224, 224),
    }
}

fn text(size: i32, at: HPos, colour: RGBColor) -> TextStyle<'static> {
    ("monospace", size).into_font().color(&colour).pos(Pos::new(at, VPos::Center))
}

/// Draws both, the tree above the matrix.
///
/// # Errors
/// What the drawing library says.
pub(super) fn svg(tree: &Topology, matrix: &Matrix) -> Result<String, Failed> {
    let lines = lines(tree);
    let longest =
        lines.iter().map(|line| line.x() + LETTER * line.text.chars().count() as i32).max().unwrap_or(0);
    let devices = matrix.devices.len() as i32;
    let top = MARGIN + ROW * lines.len() as i32 + ROW;
    let width = longest.max(NAME + CELL * (devices + 2)).max(640) + 2 * MARGIN;
    let height = top + ROW + CELL * (devices + 1) + 2 * ROW;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        draw_tree(&area, &lines)?;
        draw_matrix(&area, matrix, top)?;
        area.present()?;
    }
    Ok(svg)
}

/// A line of the tree.
struct Line {
    depth: i32,
    text: String,
    colour: RGBColor,
}

impl Line {
    fn x(&self) -> i32 {
        MARGIN + INDENT * self.depth
    }
}

fn lines(tree: &Topology) -> Vec<Line> {
    let all = rows(tree);
    let mut lines = Vec::new();
    for host in tree.hosts() {
        lines.push(Line { depth: 0, text: host.id.to_string(), colour: BLACK });
        for (depth, function) in all.iter().filter(|(_, function)| function.host == host.id) {
            let colour = if function.kind.is_port() { PORT } else { DEVICE };
            lines.push(Line { depth: *depth as i32 + 1, text: words(function), colour });
        }
    }
    lines
}

/// Each line with a corner from the one that it hangs on.
fn draw_tree(area: &Area<'_>, lines: &[Line]) -> Result<(), Failed> {
    let y = |number: usize| MARGIN + ROW * number as i32 + ROW / 2;
    for (number, line) in lines.iter().enumerate() {
        let above = lines.iter().take(number).rposition(|above| above.depth < line.depth);
        if let Some(above) = above {
            let x = line.x() - INDENT / 2 - 4;
            let corner = vec![(x, y(above) + ROW / 2 - 2), (x, y(number)), (line.x() - 4, y(number))];
            area.draw(&PathElement::new(corner, LINE.stroke_width(1)))?;
        }
        area.draw(&Text::new(line.text.clone(), (line.x(), y(number)), text(12, HPos::Left, line.colour)))?;
    }
    Ok(())
}

fn draw_matrix(area: &Area<'_>, matrix: &Matrix, top: i32) -> Result<(), Failed> {
    let title = "whose requests (row) reach whose BARs (column), and which way";
    area.draw(&Text::new(title, (MARGIN, top), text(13, HPos::Left, BLACK)))?;
    let (left, top) = (MARGIN + NAME + CELL, top + ROW);
    let middle = |number: i32| CELL * number + CELL / 2;
    for (number, (at, verdicts)) in (0i32..).zip(matrix.rows()) {
        let name = format!("{}", number + 1);
        area.draw(&Text::new(name.clone(), (left + middle(number), top), text(11, HPos::Center, BLACK)))?;
        let y = top + CELL / 2 + CELL * number;
        let row = format!("{at} {name:>3}");
        area.draw(&Text::new(row, (left - 8, y + CELL / 2), text(12, HPos::Right, BLACK)))?;
        for (column, verdict) in (0i32..).zip(verdicts) {
            let x = left + CELL * column;
            let cell = [(x, y), (x + CELL - 2, y + CELL - 2)];
            area.draw(&Rectangle::new(cell, colour(verdict).filled()))?;
            let sign = letter(verdict).to_string();
            area.draw(&Text::new(
                sign,
                (left + middle(column) - 1, y + CELL / 2),
                text(12, HPos::Center, BLACK),
            ))?;
        }
    }
    let y = top + CELL * (matrix.devices.len() as i32 + 1) + ROW / 2;
    let mut x = MARGIN;
    for verdict in VERDICTS {
        area.draw(&Rectangle::new([(x, y - 6), (x + 12, y + 6)], colour(verdict).filled()))?;
        let name = format!("{} {verdict}", letter(verdict));
        area.draw(&Text::new(name.clone(), (x + 18, y), text(12, HPos::Left, BLACK)))?;
        x += 34 + LETTER * name.chars().count() as i32;
    }
    Ok(())
}
