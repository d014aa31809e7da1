//! Every order of everything: two TDIs (a physical function and a virtual one), two SPDM sessions and two IDE streams,
//! with every request, every answer to what it needs, and every event, until no new state comes up. The tables are
//! the ones that the responder runs on, moved by the same code.
//!
//! What must hold is in `properties`, from a second reading of the specification; that each of them is kept by a line
//! of the tables, and noticed without it, is in `mutations`.

mod mutations;
mod properties;
mod world;

use properties::Property;
use std::collections::HashMap;
use tidegate_tdisp::state::{TABLE, Table};
use world::{Input, World};

/// States that there are, and steps from the reset to the last of them: no longer way leads to a new one.
const STATES: usize = 29_188;
const DEPTH: usize = 20;

/// What the search found.
#[derive(Debug)]
struct Found {
    states: usize,
    /// Steps from the reset to the state that is farthest from it.
    depth: usize,
}

/// A way to a state that must not be.
#[derive(Debug)]
struct Violation {
    property: Property,
    way: Vec<Input>,
}

/// Breadth first, so that the way to a violation is a shortest one.
fn explore(table: &Table<'_>) -> Result<Found, Violation> {
    let inputs = world::inputs();
    let mut worlds = vec![World::reset()];
    let mut known = HashMap::from([(worlds[0], 0)]);
    // Where each world came from, by which input, and how far it is.
    let mut from = vec![(0, None, 0)];
    let mut at = 0;
    while at < worlds.len() {
        let before = worlds[at];
        for &input in &inputs {
            let Some(taken) = before.step(table, input) else { continue };
            if let Some(property) = properties::violated(table, &before, &taken) {
                let mut way = vec![input];
                let mut back = at;
                while let (parent, Some(input), _) = from[back] {
                    way.push(input);
                    back = parent;
                }
                way.reverse();
                return Err(Violation { property, way });
            }
            if taken.after != before && !known.contains_key(&taken.after) {
                known.insert(taken.after, worlds.len());
                worlds.push(taken.after);
                from.push((at, Some(input), from[at].2 + 1));
            }
        }
        at += 1;
    }
    Ok(Found { states: worlds.len(), depth: from.last().map_or(0, |last| last.2) })
}

#[test]
fn no_order_of_requests_and_events_breaks_a_promise() {
    let found =
        explore(&TABLE).unwrap_or_else(|Violation { property, way }| panic!("{property:?}: {way:#?}"));
    assert_eq!((found.states, found.depth), (STATES, DEPTH), "another table, or another world: {found:?}");
}
