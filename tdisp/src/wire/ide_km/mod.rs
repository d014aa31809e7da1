//! IDE_KM, by which the keys of an IDE stream are programmed (PCIe base specification 6.x, section 6.33.3, "IDE key
//! management").
//!
//! A message starts with its OBJECT_ID; the PCI protocol id in front of it belongs to the framing
//! ([`super::spdm`]). There is no error message: what cannot be done gets no answer, or an error of SPDM.
//!
//! ```
//! use tidegate_tdisp::wire::ide_km::{Direction, Key, KeyProg, KeySlot, Message, SubStream};
//!
//! let slot = KeySlot::new(SubStream::Posted, Direction::Rx, false);
//! let program = KeyProg { stream: 1, slot, port: 0, key: Key::new([7; 32]), iv: 1 };
//! let mut bytes = [0; 47];
//! program.emit(&mut bytes)?;
//! assert_eq!(Message::parse(&bytes)?, Message::KeyProg(program));
//! # Ok::<(), tidegate_tdisp::wire::WireError>(())
//! ```

mod k_gostop_ack;
mod k_set_go;
mod k_set_stop;
mod key;
mod key_prog;
mod kp_ack;
mod message;
mod query;
mod query_resp;
mod slot;

pub use k_gostop_ack::{KGoStopAck, KGoStopAckView};
pub use k_set_go::{KSetGo, KSetGoView};
pub use k_set_stop::{KSetStop, KSetStopView};
pub use key::{KEY_SIZE, Key};
pub use key_prog::{KeyProg, KeyProgView};
pub use kp_ack::{KpAck, KpAckView, KpStatus};
pub use message::{Message, ObjectId};
pub use query::{Query, QueryView};
pub use query_resp::{QueryResp, QueryRespView};
pub use slot::{Direction, KeySlot, SubStream};

use super::WireError;
use super::bytes::{sized, typed};

/// A whole message of the type `code` and of exactly `N` bytes.
fn exact<const N: usize>(message: &[u8], code: u8) -> Result<&[u8; N], WireError> {
    typed::<0>(message, code, 1)?;
    sized(message, code)
}
