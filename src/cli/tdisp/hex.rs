//! Bytes as text.

use std::fmt;

/// Bytes that are shown as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hex(pub(super) Vec<u8>);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads bytes; white space is skipped.
pub(super) fn parse(text: &str) -> Result<Hex, String> {
    let digit = |c: char| c.to_digit(16).ok_or(format!("{c:?} is no hexadecimal digit"));
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(digit).collect::<Result<_, _>>()?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(format!("{} hexadecimal digits are not a whole number of bytes", digits.len()));
    }
    // Two digits of four bits each fit a byte.
    Ok(Hex(pairs.map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()))
}
