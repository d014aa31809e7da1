//! What a field of a message is in JSON: one conversion a type, used both ways.

use super::hex::{self, Hex};
use serde_json::{Value, json};
use tidegate::tdisp::wire::ide_km::{Direction, Key, KeySlot, KpStatus, SubStream};
use tidegate::tdisp::wire::{
    ErrorCode, FunctionId, LockFlags, MessageSet, NonceRef, RangeFlags, Registry, RequestCode, TdiState,
    Version, doe, spdm,
};

/// A type of a field. `stored` is the field's text as bytes, where it is hexadecimal: messages borrow their bytes.
pub(super) trait Field<'a>: Sized {
    fn print(&self) -> Value;
    fn read(json: &Value, stored: Option<&'a [u8]>) -> Option<Self>;
}

/// A number, as JSON has it or as text in hexadecimal.
fn number(json: &Value) -> Option<i128> {
    match json {
        Value::Number(number) => number.as_i64().map(i128::from).or(number.as_u64().map(i128::from)),
        Value::String(text) => {
            let (sign, text) = text.strip_prefix('-').map_or((1, text.as_str()), |text| (-1, text));
            let digits = text.strip_prefix("0x").filter(|text| text.len() <= 16)?;
            u64::from_str_radix(digits, 16).ok().map(|value| sign * i128::from(value))
        }
        _ => None,
    }
}

macro_rules! numbers {
    ($($type:ty, $text:literal);+) => {$(
        impl Field<'_> for $type {
            fn print(&self) -> Value {
                if $text { json!(format!("{self:#x}")) } else { json!(self) }
            }
            fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
                <$type>::try_from(number(json)?).ok()
            }
        }
    )+};
}
// What needs more than 16 bits is an address, a mask or a code: hexadecimal.
numbers!(u8, false; u16, false; u32, true; u64, true);

impl Field<'_> for i64 {
    fn print(&self) -> Value {
        let sign = if *self < 0 { "-" } else { "" };
        json!(format!("{sign}{:#x}", self.unsigned_abs()))
    }
    fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
        number(json)?.try_into().ok()
    }
}

impl Field<'_> for String {
    fn print(&self) -> Value {
        json!(self)
    }
    fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
        json.as_str().map(str::to_owned)
    }
}

macro_rules! open_enums {
    ($($type:ty: $raw:ty),+) => {$(
        impl Field<'_> for $type {
            fn print(&self) -> Value {
                json!(self.name().map_or_else(|| format!("{:#x}", <$raw>::from(*self)), str::to_owned))
            }
            fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
                let named = Self::NAMED.iter().copied().find(|named| named.name() == json.as_str());
                named.or_else(|| Some(<$raw>::try_from(number(json)?).ok()?.into()))
            }
        }
    )+};
}
open_enums!(ErrorCode: u32, TdiState: u8, Registry: u8, KpStatus: u8, SubStream: u8, doe::ObjectKind: u8);
open_enums!(spdm::Code: u8, spdm::Protocol: u8, RequestCode: u8);

macro_rules! flags {
    ($($type:ty: $raw:ty),+) => {$(
        impl Field<'_> for $type {
            fn print(&self) -> Value {
                let known = self.iter_names().map(|(name, _)| name.to_owned());
                let unknown = self.difference(Self::all()).bits();
                let unknown = (unknown != 0).then(|| format!("{unknown:#x}"));
                known.chain(unknown).collect()
            }
            fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
                let mut all = Self::empty();
                for flag in json.as_array()? {
                    let named = flag.as_str().and_then(Self::from_name);
                    let bits = || Some(Self::from_bits_retain(<$raw>::try_from(number(flag)?).ok()?));
                    all |= named.or_else(bits)?;
                }
                Some(all)
            }
        }
    )+};
}
flags!(LockFlags: u16, RangeFlags: u16);
#[cfg(feature = "set-config")]
flags!(tidegate::tdisp::wire::Config: u32);

impl Field<'_> for MessageSet {
    fn print(&self) -> Value {
        (0x80..=0xFF).filter(|&code| self.has(code)).map(|code| RequestCode::from(code).print()).collect()
    }
    fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
        let code = |json| RequestCode::read(json, None).map(u8::from).filter(|&code| code >= 0x80);
        json.as_array()?.iter().try_fold(MessageSet::default(), |all, json| Some(all.with(code(json)?)))
    }
}

/// `major.minor`, as the versions of both protocols have it in a byte.
fn version(json: &Value) -> Option<u8> {
    let (major, minor) = json.as_str()?.split_once('.')?;
    let part = |text: &str| text.parse::<u8>().ok().filter(|&part| part < 16);
    Some(part(major)? << 4 | part(minor)?)
}

fn print_version(byte: u8) -> Value {
    json!(Version(byte).to_string())
}

impl Field<'_> for Version {
    fn print(&self) -> Value {
        print_version(self.0)
    }
    fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
        version(json).map(Version)
    }
}

impl Field<'_> for spdm::Version {
    fn print(&self) -> Value {
        print_version(self.0)
    }
    fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
        version(json).map(spdm::Version)
    }
}

/// A list of versions, a byte each.
pub(super) struct Versions<'a>(pub(super) &'a [u8]);

impl<'a> Field<'a> for Versions<'a> {
    fn print(&self) -> Value {
        self.0.iter().map(|&byte| print_version(byte)).collect()
    }
    fn read(_: &Value, stored: Option<&'a [u8]>) -> Option<Self> {
        stored.map(Versions)
    }
}

impl Field<'_> for FunctionId {
    fn print(&self) -> Value {
        json!(format!("{:#010x}", self.to_bits()))
    }
    fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
        let bits = u32::read(json, None)?;
        Some(FunctionId::from_bits(bits)).filter(|id| id.to_bits() == bits)
    }
}

impl<'a> Field<'a> for &'a [u8] {
    fn print(&self) -> Value {
        json!(Hex(self.to_vec()).to_string())
    }
    fn read(json: &Value, stored: Option<&'a [u8]>) -> Option<Self> {
        stored.filter(|_| json.is_string())
    }
}

impl<'a, const N: usize> Field<'a> for &'a [u8; N] {
    fn print(&self) -> Value {
        self.as_slice().print()
    }
    fn read(json: &Value, stored: Option<&'a [u8]>) -> Option<Self> {
        <&[u8]>::read(json, stored)?.try_into().ok()
    }
}

impl<'a> Field<'a> for NonceRef<'a> {
    fn print(&self) -> Value {
        self.bytes().print()
    }
    fn read(json: &Value, stored: Option<&'a [u8]>) -> Option<Self> {
        Field::read(json, stored).map(NonceRef::new)
    }
}

/// In the order in which AES takes the bytes.
impl<'a> Field<'a> for Key {
    fn print(&self) -> Value {
        self.bytes().print()
    }
    fn read(json: &Value, stored: Option<&'a [u8]>) -> Option<Self> {
        <&[u8; 32]>::read(json, stored).map(|bytes| Key::new(*bytes))
    }
}

impl Field<'_> for KeySlot {
    fn print(&self) -> Value {
        let direction = if self.direction() == Direction::Tx { "TX" } else { "RX" };
        let mut slot = json!({
            "sub_stream": self.sub_stream().print(),
            "direction": direction,
            "key_set": u8::from(self.second_set()),
        });
        if self.0 & 0x0C != 0 {
            slot["bits_3_2"] = json!(self.0 >> 2 & 3);
        }
        slot
    }
    fn read(json: &Value, _: Option<&[u8]>) -> Option<Self> {
        let bits =
            json.get("bits_3_2").map_or(Some(0), |bits| u8::read(bits, None)).filter(|&bits| bits < 4)?;
        let second = u8::read(json.get("key_set")?, None).filter(|&set| set < 2)? == 1;
        let direction = match json.get("direction")?.as_str()? {
            "RX" => Direction::Rx,
            "TX" => Direction::Tx,
            _ => return None,
        };
        let sub = SubStream::read(json.get("sub_stream")?, None).filter(|&sub| u8::from(sub) < 16)?;
        Some(KeySlot(KeySlot::new(sub, direction, second).0 | bits << 2))
    }
}

/// The bytes of a field's text, where it is hexadecimal or a list of versions.
pub(super) fn stored(json: &Value) -> Option<Vec<u8>> {
    match json {
        Value::String(text) => hex::parse(text).ok().map(|hex| hex.0),
        Value::Array(items) => items.iter().map(version).collect(),
        _ => None,
    }
}
