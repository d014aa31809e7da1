//! Loom models of the ring: the production code; its cells are watched by loom.

use super::ring;
use loom::thread;

/// A ring of two cells goes round: each value arrives once, in order, and no cell is reached by both.
#[test]
fn model_spsc_goes_round() {
    loom::model(|| {
        let (mut into, mut from) = ring::<u32>(2);
        let producer = thread::spawn(move || {
            let mut sent = into.push_slice(&[0, 1]) as u32;
            for _ in 0..2 {
                sent += u32::from(into.push(sent).is_ok());
            }
            sent
        });
        let mut next = 0;
        for _ in 0..2 {
            let mut out = [0; 2];
            let n = from.pop_slice(&mut out);
            for value in &out[..n] {
                assert_eq!(*value, next);
                next += 1;
            }
        }
        let sent = producer.join().unwrap();
        assert!(next <= sent);
    });
}
