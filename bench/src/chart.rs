//! One picture of all ratios: a bar a row, on a logarithmic scale, with the goal as a mark on it.

use crate::report::Row;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const ROW: i32 = 18;
const LEFT: i32 = 330;
const RIGHT: i32 = 70;
const WIDTH: i32 = 1100;
const TOP: i32 = 64;
const BOTTOM: i32 = 34;
/// Ends of the scale; what lies beyond is drawn to the end, with its number.
const FROM: f64 = 0.001;
const TO: f64 = 10.0;

const MET: RGBColor = RGBColor(46, 125, 50);
const NOT_MET: RGBColor = RGBColor(198, 40, 40);
const SHOWN: RGBColor = RGBColor(120, 130, 140);
const GRID: RGBColor = RGBColor(222, 226, 230);
const SPREAD: RGBColor = RGBColor(33, 37, 41);

/// Where a ratio lies.
fn x(ratio: f64) -> i32 {
    let share = (ratio.clamp(FROM, TO) / FROM).log10() / (TO / FROM).log10();
    LEFT + (share * f64::from(WIDTH - LEFT - RIGHT)) as i32
}

fn text(size: i32, at: HPos, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(at, VPos::Center))
}

/// Draws `rows` as an SVG.
///
/// # Errors
/// What the drawing library says.
pub fn svg(rows: &[Row], title: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    let bottom = TOP + ROW * rows.len() as i32;
    {
        let area =
            SVGBackend::with_string(&mut svg, (WIDTH as u32, (bottom + BOTTOM) as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        area.draw(&Text::new(title.to_owned(), (12, 18), text(18, HPos::Left, BLACK)))?;
        let legend = [(MET, "goal met"), (NOT_MET, "not met"), (SHOWN, "no goal")];
        for (i, (colour, name)) in legend.into_iter().enumerate() {
            let at = 14 + 100 * i as i32;
            area.draw(&Rectangle::new([(at, 34), (at + 12, 46)], colour.filled()))?;
            area.draw(&Text::new(name, (at + 18, 40), text(13, HPos::Left, BLACK)))?;
        }
        let marks = "ours / theirs, less is better; thick mark: goal; thin line: smallest to largest round";
        area.draw(&Text::new(marks, (LEFT, 40), text(13, HPos::Left, BLACK)))?;
        for grid in [0.001, 0.01, 0.1, 1.0, 10.0] {
            let colour = if grid == 1.0 { SHOWN } else { GRID };
            area.draw(&PathElement::new(
                vec![(x(grid), TOP - 6), (x(grid), bottom)],
                colour.stroke_width(1),
            ))?;
            area.draw(&Text::new(format!("{grid}"), (x(grid), bottom + 14), text(13, HPos::Center, BLACK)))?;
        }
        for (i, row) in rows.iter().enumerate() {
            let middle = TOP + ROW * i as i32 + ROW / 2;
            let name = format!("{} : {}", row.goal.id, row.goal.peer());
            area.draw(&Text::new(name, (LEFT - 8, middle), text(13, HPos::Right, BLACK)))?;
            let Some((ratio, low, high)) = row.ratio else {
                area.draw(&Text::new("missing", (LEFT + 6, middle), text(13, HPos::Left, SHOWN)))?;
                continue;
            };
            let colour = match row.met() {
                Some(true) => MET,
                Some(false) => NOT_MET,
                None => SHOWN,
            };
            let bar = [(x(FROM), middle - 5), (x(ratio), middle + 5)];
            area.draw(&Rectangle::new(bar, colour.mix(0.75).filled()))?;
            area.draw(&PathElement::new(vec![(x(low), middle), (x(high), middle)], SPREAD.stroke_width(1)))?;
            if let Some(goal) = row.goal.most.filter(|goal| *goal > 0.0) {
                let mark = vec![(x(goal), middle - 7), (x(goal), middle + 7)];
                area.draw(&PathElement::new(mark, BLACK.stroke_width(3)))?;
            }
            let end = x(ratio.max(high).max(row.goal.most.unwrap_or(0.0))) + 6;
            area.draw(&Text::new(format!("{ratio:.3}"), (end, middle), text(12, HPos::Left, BLACK)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals::GOALS;
    use crate::round::Round;

    #[test]
    fn every_row_is_in_the_picture_also_a_missing_one() {
        let mut round = Round::default();
        round.put("pin", 0.3);
        round.put("pin@crossbeam-epoch", 6.0);
        let rows: Vec<Row> = GOALS.iter().map(|goal| Row::of(goal, std::slice::from_ref(&round))).collect();
        let svg = svg(&rows, "test").unwrap();
        for goal in GOALS {
            assert!(svg.contains(goal.id), "{}", goal.id);
        }
        assert_eq!(
            svg.matches("missing").count(),
            rows.len() - rows.iter().filter(|r| r.ratio.is_some()).count()
        );
        assert!(svg.contains("0.050"), "its ratio stands beside the bar");
    }

    #[test]
    fn the_scale_ends_where_the_paper_does() {
        assert_eq!((x(0.0), x(FROM), x(TO), x(1e9)), (LEFT, LEFT, WIDTH - RIGHT, WIDTH - RIGHT));
    }
}
