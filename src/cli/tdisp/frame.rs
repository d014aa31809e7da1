//! A whole document: a message with the frames around it, outermost first.

use super::field::Field;
use super::layer::{Form, Problem, Stored, text, written};
use super::{ide_km, message};
use serde_json::{Map, Value, json};
use tidegate::tdisp::wire::doe::{self, Discovered, Discovery, Object, ObjectKind};
use tidegate::tdisp::wire::spdm::{Code, Protocol, Record, TAG_SIZE, VendorDefined, Version, split_pci};

/// What the bytes begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The PCI protocol id.
    Protocol,
    Spdm,
    Doe,
}

type Document = Map<String, Value>;

/// The JSON of bytes.
pub(super) fn decode(bytes: &[u8], framing: Framing) -> Result<Value, Problem> {
    let mut document = Document::new();
    match framing {
        Framing::Protocol => decode_pci(bytes, &mut document)?,
        Framing::Spdm => {
            let rest = decode_spdm(bytes, &mut document)?;
            if !rest.is_empty() {
                return Err(Problem(format!("{} bytes follow the SPDM message", rest.len())));
            }
        }
        Framing::Doe => decode_doe(bytes, &mut document)?,
    }
    Ok(Value::Object(document))
}

/// The bytes of a document.
pub(super) fn encode(document: &Value) -> Result<Vec<u8>, Problem> {
    let document = document.as_object().ok_or_else(|| Problem("the document is no object".into()))?;
    if let Some(key) = document.keys().find(|key| !LAYERS.contains(&key.as_str())) {
        return Err(Problem(format!("no layer of a message is called {key:?}")));
    }
    if document.contains_key("doe") {
        encode_doe(document)
    } else if document.contains_key("spdm") {
        encode_spdm(document)
    } else {
        encode_pci(document)
    }
}

/// Everything that a document can hold.
const LAYERS: [&str; 7] =
    ["doe", "discovery_request", "discovery_response", "record", "spdm", "protocol", "message"];

fn decode_pci(payload: &[u8], document: &mut Document) -> Result<(), Problem> {
    let (protocol, bytes) = split_pci(payload)?;
    let message = match protocol {
        Protocol::Tdisp => message::decode(bytes)?,
        Protocol::IdeKm => ide_km::decode(bytes)?,
        _ => json!({ "payload": text(bytes) }),
    };
    document.insert("protocol".to_owned(), protocol.print());
    document.insert("message".to_owned(), message);
    Ok(())
}

fn encode_pci(document: &Document) -> Result<Vec<u8>, Problem> {
    let protocol = document.get("protocol").and_then(|json| Protocol::read(json, None));
    let protocol = protocol.ok_or_else(|| Problem("the document names no \"protocol\"".into()))?;
    let from = Stored::of(document, "message")?;
    let message = match protocol {
        Protocol::Tdisp => message::encode(&from)?,
        Protocol::IdeKm => ide_km::encode(&from)?,
        _ => from.field::<&[u8]>("payload")?.to_vec(),
    };
    Ok([&[protocol.into()], &message[..]].concat())
}

fn spdm_fields<'a>(frame: &mut VendorDefined<'a>, form: &mut Form<'a>) -> Result<(), Problem> {
    form.field("version", &mut frame.version)?;
    form.field("code", &mut frame.code)?;
    form.field("standard_id", &mut frame.standard)?;
    form.field("vendor_id", &mut frame.vendor)
}

/// Gives what follows the message. Of another message than VENDOR_DEFINED the end cannot be told: all of it is the body.
fn decode_spdm<'a>(bytes: &'a [u8], document: &mut Document) -> Result<&'a [u8], Problem> {
    let mut form = Form::print();
    if let [version, code, body @ ..] = bytes {
        if let code @ Code::Unknown(_) = Code::from(*code) {
            form.field("version", &mut Version(*version))?;
            form.field("code", &mut { code })?;
            form.field("body", &mut { body })?;
            document.insert("spdm".to_owned(), form.printed(&[], &[]));
            return Ok(&[]);
        }
    }
    let (mut frame, rest) = VendorDefined::split(bytes)?;
    spdm_fields(&mut frame, &mut form)?;
    match frame.pci() {
        Ok(_) => decode_pci(frame.payload, document)?,
        // Another vendor's, or nothing at all.
        Err(_) => form.field("payload", &mut frame.payload)?,
    }
    let canonical = written(frame.size(), |out| frame.emit(out))?;
    document.insert("spdm".to_owned(), form.printed(&canonical, bytes));
    Ok(rest)
}

fn encode_spdm(document: &Document) -> Result<Vec<u8>, Problem> {
    let from = Stored::of(document, "spdm")?;
    let mut form = Form::read(&from);
    let mut frame = VendorDefined::pci_sig(Version::V1_2, Code::Request, &[]);
    if from.has("body") {
        form.field("version", &mut frame.version)?;
        form.field("code", &mut frame.code)?;
        form.field("body", &mut frame.payload)?;
        form.finish()?;
        return Ok([&[frame.version.0, frame.code.into()], frame.payload].concat());
    }
    spdm_fields(&mut frame, &mut form)?;
    let payload;
    if from.has("payload") {
        form.field("payload", &mut frame.payload)?;
    } else {
        payload = encode_pci(document)?;
        frame.payload = &payload;
    }
    form.finish()?;
    let mut bytes = written(frame.size(), |out| frame.emit(out))?;
    from.restore(&mut bytes)?;
    Ok(bytes)
}

fn record_fields<'a>(record: &mut Record<'a>, form: &mut Form<'a>) -> Result<(), Problem> {
    form.field("session_id", &mut record.session)?;
    form.field("ciphertext", &mut record.ciphertext)?;
    form.field("tag", &mut record.tag)
}

fn decode_record<'a>(bytes: &'a [u8], document: &mut Document) -> Result<&'a [u8], Problem> {
    let (mut record, rest) = Record::split(bytes)?;
    let mut form = Form::print();
    record_fields(&mut record, &mut form)?;
    document.insert("record".to_owned(), form.printed(&[], &[]));
    Ok(rest)
}

fn encode_record(document: &Document) -> Result<Vec<u8>, Problem> {
    let from = Stored::of(document, "record")?;
    let mut form = Form::read(&from);
    let mut record = Record { session: 0, ciphertext: &[], tag: &[0; TAG_SIZE] };
    record_fields(&mut record, &mut form)?;
    form.finish()?;
    written(record.size(), |out| record.emit(out))
}

/// The question ends with two zeros; an answer that does speaks of discovery itself as the only and last type.
fn decode_discovery(payload: &[u8], document: &mut Document) -> Result<(), Problem> {
    let mut form = Form::print();
    let (name, canonical) = if payload.ends_with(&[0, 0]) {
        let mut question = Discovery::parse(payload)?;
        question_fields(&mut question, &mut form)?;
        ("discovery_request", written(4, |out| question.emit(out))?)
    } else {
        let mut answer = Discovered::parse(payload)?;
        answer_fields(&mut answer, &mut form)?;
        ("discovery_response", written(4, |out| answer.emit(out))?)
    };
    document.insert(name.to_owned(), form.printed(&canonical, payload));
    Ok(())
}

fn question_fields(question: &mut Discovery, form: &mut Form<'_>) -> Result<(), Problem> {
    form.field("index", &mut question.index)?;
    form.field("version", &mut question.version)
}

fn answer_fields(answer: &mut Discovered, form: &mut Form<'_>) -> Result<(), Problem> {
    form.field("vendor_id", &mut answer.vendor)?;
    form.field("data_object_type", &mut answer.kind)?;
    form.field("next_index", &mut answer.next)
}

fn encode_discovery(document: &Document) -> Result<Vec<u8>, Problem> {
    if document.contains_key("discovery_request") {
        let from = Stored::of(document, "discovery_request")?;
        let (mut question, mut form) = (Discovery::default(), Form::read(&from));
        question_fields(&mut question, &mut form)?;
        form.finish()?;
        return written(4, |out| question.emit(out));
    }
    let from = Stored::of(document, "discovery_response")?;
    let mut answer = Discovered { vendor: doe::PCI_SIG, kind: ObjectKind::Discovery, next: 0 };
    let mut form = Form::read(&from);
    answer_fields(&mut answer, &mut form)?;
    form.finish()?;
    written(4, |out| answer.emit(out))
}

fn object_fields(object: &mut Object<'_>, form: &mut Form<'_>) -> Result<(), Problem> {
    form.field("vendor_id", &mut object.vendor)?;
    form.field("data_object_type", &mut object.kind)
}

fn decode_doe(bytes: &[u8], document: &mut Document) -> Result<(), Problem> {
    let mut object = Object::parse(bytes)?;
    let mut form = Form::print();
    object_fields(&mut object, &mut form)?;
    let mut padding: &[u8] = &[];
    match (object.vendor, object.kind) {
        (doe::PCI_SIG, ObjectKind::Discovery) => decode_discovery(object.payload, document)?,
        (doe::PCI_SIG, ObjectKind::Spdm) => padding = decode_spdm(object.payload, document)?,
        (doe::PCI_SIG, ObjectKind::SecuredSpdm) => padding = decode_record(object.payload, document)?,
        _ => form.field("payload", &mut object.payload)?,
    }
    if padding.len() > 3 || padding.iter().any(|&byte| byte != 0) {
        form.field("padding", &mut padding)?;
    }
    let canonical = written(object.size(), |out| object.emit(out))?;
    document.insert("doe".to_owned(), form.printed(&canonical, bytes));
    Ok(())
}

fn encode_doe(document: &Document) -> Result<Vec<u8>, Problem> {
    let from = Stored::of(document, "doe")?;
    let mut form = Form::read(&from);
    let mut object = Object::pci_sig(ObjectKind::Spdm, &[]);
    object_fields(&mut object, &mut form)?;
    let mut padding: &[u8] = &[];
    if from.has("padding") {
        form.field("padding", &mut padding)?;
    }
    let payload;
    if from.has("payload") {
        form.field("payload", &mut object.payload)?;
    } else {
        let content = if document.contains_key("record") {
            encode_record(document)?
        } else if document.contains_key("spdm") {
            encode_spdm(document)?
        } else {
            encode_discovery(document)?
        };
        payload = [&content, padding].concat();
        object.payload = &payload;
    }
    form.finish()?;
    let mut bytes = written(object.size(), |out| object.emit(out))?;
    from.restore(&mut bytes)?;
    Ok(bytes)
}
