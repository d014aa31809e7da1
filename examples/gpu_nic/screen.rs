//! QEMU's monitor, and what is on its screen.

use crate::picture::{HEIGHT, PIXEL, WIDTH};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Error, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection to QEMU's monitor (QMP).
pub struct Monitor {
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Monitor {
    pub fn new(stream: UnixStream) -> std::io::Result<Monitor> {
        let mut monitor = Monitor { from: BufReader::new(stream.try_clone()?), to: stream };
        monitor.execute(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(monitor)
    }

    /// Executes a command, and waits until QEMU has done it.
    fn execute(&mut self, command: &Value) -> std::io::Result<()> {
        self.to.write_all(format!("{command}\n").as_bytes())?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.from.read_line(&mut line)? == 0 {
                return Err(Error::other("QEMU closed its monitor"));
            }
            let answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                return Err(Error::other(format!("QEMU: {error}")));
            }
            // Else its greeting, or an event.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    /// The pixels on the screen: width, height, three bytes a pixel.
    pub fn dump(&mut self, to: &Path) -> std::io::Result<(u32, u32, Vec<u8>)> {
        self.execute(&json!({ "execute": "screendump", "arguments": { "filename": to } }))?;
        let picture = std::fs::read(to)?;
        pixmap(&picture).ok_or_else(|| Error::other("QEMU's screendump is no portable pixmap"))
    }
}

/// Reads a portable pixmap: "P6", width, height and 255 as text, a white space, and the pixels.
fn pixmap(bytes: &[u8]) -> Option<(u32, u32, Vec<u8>)> {
    let mut at = 0;
    let mut words = [""; 4];
    for word in &mut words {
        let rest = bytes.get(at..)?;
        let start = at + rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let len = bytes.get(start..)?.iter().position(u8::is_ascii_whitespace)?;
        *word = std::str::from_utf8(bytes.get(start..start + len)?).ok()?;
        at = start + len;
    }
    let ["P6", width, height, "255"] = words else { return None };
    let (width, height): (u32, u32) = (width.parse().ok()?, height.parse().ok()?);
    let pixels = bytes.get(at + 1..)?;
    let expected = u64::from(width) * u64::from(height) * 3;
    (pixels.len() as u64 == expected).then(|| (width, height, pixels.to_vec()))
}

/// Are these the pixels of that VRAM, as far as a screen shows them: without the fourth byte of each? Else what is wrong.
pub fn compare((width, height, pixels): &(u32, u32, Vec<u8>), vram: &[u8]) -> Result<(), String> {
    if (*width, *height) != (WIDTH, HEIGHT) {
        return Err(format!("the screen has {width} x {height} pixels, not {WIDTH} x {HEIGHT}"));
    }
    let expected = vram.chunks_exact(PIXEL as usize).map(|pixel| [pixel[2], pixel[1], pixel[0]]);
    let differ: Vec<usize> = pixels
        .chunks_exact(3)
        .zip(expected)
        .enumerate()
        .filter(|(_, (is, want))| is != want)
        .map(|(at, _)| at)
        .collect();
    match differ.first() {
        None => Ok(()),
        Some(first) => {
            let (x, y) = (first % WIDTH as usize, first / WIDTH as usize);
            Err(format!("{} pixels differ, the first at {x}, {y}", differ.len()))
        }
    }
}

/// Writes the pixels as a PNG, to look at.
pub fn keep((width, height, pixels): &(u32, u32, Vec<u8>), at: &Path) -> std::io::Result<()> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(at)?), *width, *height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixmap_is_read() {
        assert_eq!(pixmap(b"P6\n2 1\n255\n\x20abcde"), Some((2, 1, b" abcde".to_vec())));
        for bad in [&b"P6\n2 1\n255\nabcde"[..], b"P5\n2 1\n255\nabcdef", b"P6 2", b"", b"P6\n2 1\n255"] {
            assert_eq!(pixmap(bad), None);
        }
    }

    #[test]
    fn one_wrong_pixel_is_told() {
        let vram = crate::picture::vram();
        let mut pixels: Vec<u8> = crate::picture::rgb().concat();
        assert_eq!(compare(&(WIDTH, HEIGHT, pixels.clone()), &vram), Ok(()));
        pixels[3 * (WIDTH as usize + 5) + 1] ^= 1;
        let told = compare(&(WIDTH, HEIGHT, pixels.clone()), &vram);
        assert_eq!(told, Err("1 pixels differ, the first at 5, 1".to_owned()));
        assert!(compare(&(HEIGHT, WIDTH, pixels), &vram).is_err());
    }
}
