//! The wire's other end: it has the picture, sends the rows that it is asked for, and keeps the rows that come back.

use super::frame::{HEADER, Header, Kind, ROW, ROWS, Side};
use crate::picture;

/// What a pass shows: the picture, or in passes with odd numbers its negative, so that each pass changes every byte that is
/// shown.
pub fn shown(pass: u8) -> Vec<u8> {
    if pass % 2 == 0 { picture::vram() } else { picture::negative() }
}

/// The peer.
pub struct Far {
    passes: [Vec<u8>; 2],
    back: Back,
    spoil: u64,
    seed: u64,
    /// A late row of each way: to the near end, from it.
    late: [Option<Vec<u8>>; 2],
}

/// Rows that came, of the latest pass.
#[derive(Debug, Default)]
pub struct Back {
    pass: u8,
    rows: Vec<Option<Vec<u8>>>,
    /// Of rows that were there already.
    twice: u64,
    /// One that came twice, with other bytes.
    changed: Option<u16>,
}

impl Back {
    /// Takes a frame, if it is a row of the pass from the near end.
    pub fn take(&mut self, frame: &[u8]) {
        let Some(Header { from: Side::Near, pass, kind: Kind::Row(row) }) = Header::decode(frame) else {
            return;
        };
        // Late, of a pass that is over.
        if pass < self.pass {
            return;
        }
        if pass != self.pass || self.rows.is_empty() {
            *self = Back { pass, rows: vec![None; usize::from(ROWS)], ..Back::default() };
        }
        let payload = &frame[HEADER..];
        if let (Some(place), ROW) = (self.rows.get_mut(usize::from(row)), payload.len()) {
            let before = place.replace(payload.to_vec());
            self.twice += u64::from(before.is_some());
            if before.is_some_and(|before| before != payload) {
                self.changed = Some(row);
            }
        }
    }

    fn has(&self, pass: u8, row: u16) -> bool {
        self.pass == pass && self.rows.get(usize::from(row)).is_some_and(Option::is_some)
    }

    /// Is it all of the pass, byte for byte, a row that came twice both times? How many came so. Else what is wrong.
    pub fn check(&self, pass: u8) -> Result<u64, String> {
        let expected = shown(pass);
        for (row, expected) in (0..ROWS).zip(expected.chunks_exact(ROW)) {
            if !self.has(pass, row) {
                return Err(format!("row {row} of pass {pass} is not there"));
            }
            if self.rows[usize::from(row)].as_deref() != Some(expected) {
                return Err(format!("row {row} has other bytes"));
            }
        }
        match self.changed {
            Some(row) => Err(format!("row {row} came twice, with other bytes")),
            None => Ok(self.twice),
        }
    }
}

impl Far {
    /// `spoil`: of so many rows, each way, one is late, one is lost and one comes twice, on average; 0: a good wire.
    pub fn new(spoil: u64) -> Far {
        Far { passes: [shown(0), shown(1)], back: Back::default(), spoil, seed: 1, late: [None, None] }
    }

    /// What came back so far.
    pub fn back(&self) -> &Back {
        &self.back
    }

    /// Takes a frame; the frames that answer it, in order.
    pub fn hear(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        match Header::decode(frame) {
            Some(Header { from: Side::Near, pass, kind: Kind::Send(count) }) => {
                let rows = frame[HEADER..].chunks_exact(2).take(usize::from(count));
                let rows = rows.map(|row| u16::from_le_bytes([row[0], row[1]])).filter(|row| *row < ROWS);
                rows.flat_map(|row| self.row(pass, row)).collect()
            }
            Some(Header { from: Side::Near, pass, kind: Kind::Which }) => {
                let mut bits = vec![0; usize::from(ROWS).div_ceil(8)];
                for row in (0..ROWS).filter(|row| self.back.has(pass, *row)) {
                    bits[usize::from(row / 8)] |= 1 << (row % 8);
                }
                vec![Header { from: Side::Far, pass, kind: Kind::Have }.with(&bits)]
            }
            Some(Header { from: Side::Near, kind: Kind::Row(_), .. }) => {
                self.carried(1, frame.to_vec()).iter().for_each(|frame| self.back.take(frame));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A row's frame.
    fn row(&mut self, pass: u8, row: u16) -> Vec<Vec<u8>> {
        let at = usize::from(row) * ROW;
        let payload = &self.passes[usize::from(pass % 2)][at..at + ROW];
        let frame = Header { from: Side::Far, pass, kind: Kind::Row(row) }.with(payload);
        self.carried(0, frame)
    }

    /// What the wire brings of a row's frame that way; where it is spoilt perhaps another one's, or none.
    fn carried(&mut self, way: usize, frame: Vec<u8>) -> Vec<Vec<u8>> {
        let draw = self.draw();
        let late = &mut self.late[way];
        match draw {
            // Late: after the next one.
            Some(0) if late.is_none() => {
                *late = Some(frame);
                Vec::new()
            }
            Some(1) => Vec::new(),
            Some(2) => vec![frame.clone(), frame],
            _ => std::iter::once(frame).chain(late.take()).collect(),
        }
    }

    /// A number below `spoil`, the same ones each time; `None`: the wire is good.
    fn draw(&mut self) -> Option<u64> {
        // Knuth's constants for 64 bits; the upper bits are the better ones.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33).checked_rem(self.spoil)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::send;
    use super::*;

    fn numbers(frames: &[Vec<u8>]) -> Vec<Kind> {
        frames.iter().filter_map(|frame| Header::decode(frame)).map(|header| header.kind).collect()
    }

    #[test]
    fn the_far_end_sends_what_it_is_asked_for_in_that_order() {
        let frames = Far::new(0).hear(&send(2, &[7, 3, ROWS]));
        assert_eq!(numbers(&frames), [Kind::Row(7), Kind::Row(3)]);
        assert_eq!(frames[1][HEADER..], picture::vram()[3 * ROW..4 * ROW]);
        assert_eq!(Far::new(0).hear(&send(1, &[0]))[0][HEADER..], picture::negative()[..ROW]);
    }

    #[test]
    fn a_spoilt_wire_swaps_loses_and_repeats_rows() {
        let asked: Vec<u16> = (0..50).collect();
        let rows = numbers(&Far::new(4).hear(&send(0, &asked)));
        let number = |kind: &Kind| if let Kind::Row(row) = kind { *row } else { 0 };
        let is_there = |row: &u16| rows.contains(&Kind::Row(*row));
        assert!(!asked.iter().all(is_there), "lost: {rows:?}");
        assert!(
            rows.iter().any(|row| rows.iter().filter(|other| *other == row).count() == 2),
            "twice: {rows:?}"
        );
        assert!(!rows.is_sorted_by_key(number), "swapped: {rows:?}");
    }

    #[test]
    fn rows_that_came_back_are_told_and_compared() {
        let mut far = Far::new(0);
        let pixels = picture::vram();
        let row = |row: u16, payload: &[u8]| {
            Header { from: Side::Near, pass: 4, kind: Kind::Row(row) }.with(payload)
        };
        let which = Header { from: Side::Near, pass: 4, kind: Kind::Which }.encode();
        for (n, payload) in (0..ROWS).zip(pixels.chunks_exact(ROW)) {
            assert!(far.hear(&row(n, payload)).is_empty());
            if n == ROWS - 2 {
                assert_eq!(far.back().check(4), Err("row 399 of pass 4 is not there".to_owned()));
            }
        }
        assert_eq!(far.back().check(4), Ok(0));
        assert!(far.hear(&which)[0][HEADER..].iter().all(|bits| *bits == 0xff));
        far.hear(&row(9, &[0; ROW]));
        assert_eq!(far.back().check(4), Err("row 9 has other bytes".to_owned()));
        assert!(far.back().check(5).is_err());
    }

    #[test]
    fn a_row_that_came_twice_was_right_both_times() {
        let mut back = Back::default();
        let row = |pass, row: u16, payload: &[u8]| {
            Header { from: Side::Near, pass, kind: Kind::Row(row) }.with(payload)
        };
        let pixels = picture::vram();
        (0..ROWS).zip(pixels.chunks_exact(ROW)).for_each(|(n, payload)| back.take(&row(4, n, payload)));
        back.take(&row(4, 3, &pixels[3 * ROW..4 * ROW]));
        assert_eq!(back.check(4), Ok(1));
        back.take(&row(4, 5, &[0; ROW]));
        back.take(&row(4, 5, &pixels[5 * ROW..6 * ROW]));
        assert_eq!(back.check(4), Err("row 5 came twice, with other bytes".to_owned()));
        // A late one of an earlier pass changes nothing; a later pass begins anew.
        back.take(&row(3, 5, &[0; ROW]));
        assert_eq!(back.check(4), Err("row 5 came twice, with other bytes".to_owned()));
        back.take(&row(5, 0, &[0; ROW]));
        assert_eq!(back.check(5), Err("row 0 has other bytes".to_owned()));
    }
}
