//! IDE_KM messages: the fields of each, named once for both directions.

use super::layer::{Form, Problem, Stored, written};
use serde_json::{Value, json};
use tidegate::tdisp::wire::WireError;
use tidegate::tdisp::wire::ide_km::{
    KGoStopAck, KSetGo, KSetStop, Key, KeyProg, KeySlot, KpAck, KpStatus, Message, Query, QueryResp,
};

/// An empty one of each type.
fn empty() -> [Message<'static>; 7] {
    let slot = KeySlot::default();
    [
        Message::Query(Query::default()),
        Message::QueryResp(QueryResp::default()),
        Message::KeyProg(KeyProg { stream: 0, slot, port: 0, key: Key::new([0; 32]), iv: 0 }),
        Message::KpAck(KpAck { stream: 0, status: KpStatus::Success, slot, port: 0 }),
        Message::KSetGo(KSetGo::default()),
        Message::KSetStop(KSetStop::default()),
        Message::KGoStopAck(KGoStopAck::default()),
    ]
}

fn fields<'a>(message: &mut Message<'a>, form: &mut Form<'a>) -> Result<(), Problem> {
    let (stream, slot, port) = match message {
        Message::Query(body) => return form.field("port_index", &mut body.port),
        Message::QueryResp(body) => {
            form.field("port_index", &mut body.port)?;
            form.field("dev_func", &mut body.devfn)?;
            form.field("bus", &mut body.bus)?;
            form.field("segment", &mut body.segment)?;
            form.field("max_port_index", &mut body.max_port)?;
            return form.field("ide_registers", &mut body.registers);
        }
        Message::KeyProg(body) => {
            form.field("key", &mut body.key)?;
            form.field("iv", &mut body.iv)?;
            (&mut body.stream, &mut body.slot, &mut body.port)
        }
        Message::KpAck(body) => {
            form.field("status", &mut body.status)?;
            (&mut body.stream, &mut body.slot, &mut body.port)
        }
        Message::KSetGo(body) => (&mut body.stream, &mut body.slot, &mut body.port),
        Message::KSetStop(body) => (&mut body.stream, &mut body.slot, &mut body.port),
        Message::KGoStopAck(body) => (&mut body.stream, &mut body.slot, &mut body.port),
        other => {
            return Err(Problem(format!("the fields of {:?} are not known to this command", other.id())));
        }
    };
    form.field("stream_id", stream)?;
    form.field("key_slot", slot)?;
    form.field("port_index", port)
}

/// The JSON of a message without its protocol id.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, Problem> {
    let mut form = Form::print();
    let mut message = match Message::parse(bytes) {
        Err(WireError::UnknownCode { code }) => {
            form.field("payload", &mut &bytes[1..])?;
            let mut printed = form.printed(bytes, bytes);
            printed["type"] = json!(format!("{code:#04x}"));
            return Ok(printed);
        }
        message => message?,
    };
    fields(&mut message, &mut form)?;
    let mut printed = form.printed(&written(message.size(), |out| message.emit(out))?, bytes);
    printed["type"] = json!(message.id().name());
    Ok(printed)
}

/// The bytes of a message without its protocol id.
pub(super) fn encode(from: &Stored<'_>) -> Result<Vec<u8>, Problem> {
    let name: String = from.field("type")?;
    let mut form = Form::read(from);
    let mut bytes = match empty().into_iter().find(|message| message.id().name() == Some(&name)) {
        Some(mut message) => {
            fields(&mut message, &mut form)?;
            written(message.size(), |out| message.emit(out))?
        }
        None => {
            let mut payload: &[u8] = &[];
            form.field("payload", &mut payload)?;
            [&[from.field("type")?], payload].concat()
        }
    };
    form.finish()?;
    from.restore(&mut bytes)?;
    Ok(bytes)
}
