//! Who reaches the pages that the report calls private: four states, both T bits, every kind of stream.

mod common;

use common::device::*;
use tidegate_tdisp::state::event::SessionId;
use tidegate_tdisp::state::{Bond, State, Streams, TABLE, Tdi, Trigger};

const DEFAULT: u8 = 3;
const BOUND: u8 = 9;
const OTHER: u8 = 4;

/// A TDI in this state, whose stream for P2P was bound where that can be.
fn in_state(state: State) -> Tdi {
    let mut tdi = Tdi::new(GPU, None);
    let bond = Bond { session: SessionId(1), stream: DEFAULT, p2p: Streams::default(), msix: false };
    if state != State::ConfigUnlocked {
        tdi.lock(&TABLE, bond).unwrap();
    }
    if matches!(state, State::Run | State::Error) {
        tdi.apply(&TABLE, Trigger::Start).unwrap();
        tdi.set_p2p(&TABLE, BOUND, true).unwrap();
    }
    if state == State::Error {
        tdi.apply(&TABLE, Trigger::Fault).unwrap();
    }
    assert_eq!(tdi.state(), state);
    tdi
}

#[test]
fn private_pages_answer_as_the_truth_table_of_state_t_bit_and_stream_says() {
    // No stream (the device needs no IDE), the default one, one that is bound for P2P, another.
    let streams = [None, Some(DEFAULT), Some(BOUND), Some(OTHER)];
    let table = [
        (State::ConfigUnlocked, false, [true; 4]),
        (State::ConfigUnlocked, true, [false; 4]),
        (State::ConfigLocked, false, [false; 4]),
        (State::ConfigLocked, true, [false; 4]),
        (State::Run, false, [false; 4]),
        (State::Run, true, [true, true, true, false]),
        (State::Error, false, [false; 4]),
        (State::Error, true, [false; 4]),
    ];
    for (state, t, wanted) in table {
        let tdi = in_state(state);
        assert_eq!(streams.map(|stream| tdi.accepts(&TABLE, t, stream)), wanted, "{state}, T={t}");
    }
}

#[test]
fn while_a_stop_wipes_private_pages_answer_nobody() {
    for state in [State::ConfigLocked, State::Run, State::Error] {
        let mut tdi = in_state(state);
        tdi.begin_wipe();
        for (t, stream) in [(false, None), (true, None), (true, Some(DEFAULT)), (true, Some(BOUND))] {
            assert!(!tdi.accepts(&TABLE, t, stream), "{state}, T={t}");
        }
    }
}
