//! A JSON object of a document: one layer of a message, its fields by name.

use super::field::{self, Field};
use super::hex::Hex;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tidegate::tdisp::wire::WireError;

/// Why bytes or a document are refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem(pub(super) String);

impl From<WireError> for Problem {
    fn from(error: WireError) -> Self {
        Problem(error.to_string())
    }
}

/// A layer that is read: the object, and the bytes of its fields.
pub(super) struct Stored<'j> {
    name: &'static str,
    object: &'j Map<String, Value>,
    bytes: BTreeMap<&'j str, Vec<u8>>,
}

impl<'j> Stored<'j> {
    /// The object of this name in the document.
    pub(super) fn of(document: &'j Map<String, Value>, name: &'static str) -> Result<Self, Problem> {
        let object = document.get(name).and_then(Value::as_object);
        let object = object.ok_or_else(|| Problem(format!("the document has no object {name:?}")))?;
        let bytes = object.iter().filter_map(|(key, json)| Some((key.as_str(), field::stored(json)?)));
        Ok(Stored { name, object, bytes: bytes.collect() })
    }

    /// One field alone.
    pub(super) fn field<'a, F: Field<'a>>(&'a self, name: &'static str) -> Result<F, Problem> {
        let json = self.object.get(name);
        let json = json.ok_or_else(|| Problem(format!("{:?} has no field {name:?}", self.name)))?;
        let value = F::read(json, self.bytes.get(name).map(Vec::as_slice));
        value.ok_or_else(|| Problem(format!("the field {name:?} of {:?} cannot be {json}", self.name)))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// Puts the reserved bits that `decode` found into the bytes.
    pub(super) fn restore(&self, bytes: &mut [u8]) -> Result<(), Problem> {
        let Some(reserved) = self.object.get("reserved") else { return Ok(()) };
        let wrong =
            || Problem(format!("\"reserved\" of {:?} is not offsets and bytes: {reserved}", self.name));
        for (offset, json) in reserved.as_object().ok_or_else(wrong)? {
            let at =
                offset.parse::<usize>().ok().and_then(|offset| bytes.get_mut(offset)).ok_or_else(wrong)?;
            *at |= u8::read(json, None).ok_or_else(wrong)?;
        }
        Ok(())
    }
}

/// A layer on its way to JSON or from it: the fields of a message are named once for both.
pub(super) enum Form<'a> {
    Print(Map<String, Value>),
    Read { from: &'a Stored<'a>, used: BTreeSet<&'static str> },
}

impl<'a> Form<'a> {
    pub(super) fn print() -> Self {
        Form::Print(Map::new())
    }

    pub(super) fn read(from: &'a Stored<'a>) -> Self {
        Form::Read { from, used: BTreeSet::from(["type", "reserved"]) }
    }

    /// Prints the field, or overwrites it with what the document says.
    pub(super) fn field<F: Field<'a>>(&mut self, name: &'static str, value: &mut F) -> Result<(), Problem> {
        match self {
            Form::Print(object) => {
                object.insert(name.to_owned(), value.print());
            }
            Form::Read { from, used } => {
                used.insert(name);
                *value = from.field(name)?;
            }
        }
        Ok(())
    }

    /// The printed object; `canonical` is what the fields alone make, and where `bytes` differ from it is `reserved`.
    pub(super) fn printed(self, canonical: &[u8], bytes: &[u8]) -> Value {
        let Form::Print(mut object) = self else { return Value::Null };
        let pairs = bytes.iter().zip(canonical).enumerate();
        let differ = pairs.filter(|(_, (byte, canonical))| byte != canonical);
        // A reserved bit is zero in what is written, so the bytes that differ have bits more.
        let reserved =
            differ.map(|(at, (byte, canonical))| (at.to_string(), json!(format!("{:#x}", byte ^ canonical))));
        let reserved: Map<String, Value> = reserved.collect();
        if !reserved.is_empty() {
            object.insert("reserved".to_owned(), Value::Object(reserved));
        }
        Value::Object(object)
    }

    /// Refuses fields that nobody asked for.
    pub(super) fn finish(self) -> Result<(), Problem> {
        let Form::Read { from, used } = self else { return Ok(()) };
        match from.object.keys().find(|key| !used.contains(key.as_str())) {
            Some(key) => Err(Problem(format!("{:?} has no field {key:?} in such a message", from.name))),
            None => Ok(()),
        }
    }
}

/// The bytes that `emit` writes into a buffer of `size`.
pub(super) fn written(
    size: usize,
    emit: impl FnOnce(&mut [u8]) -> Result<usize, WireError>,
) -> Result<Vec<u8>, Problem> {
    let mut out = vec![0; size];
    let len = emit(&mut out)?;
    out.truncate(len);
    Ok(out)
}

/// Bytes as a field.
pub(super) fn text(bytes: &[u8]) -> Value {
    json!(Hex(bytes.to_vec()).to_string())
}
