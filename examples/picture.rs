//! The picture that the demos stream: examples/picture.png, as a display takes it. `draw.rs` draws it.
#![allow(dead_code, reason = "each program uses a part")]

pub const WIDTH: u32 = 640;
pub const HEIGHT: u32 = 400;
/// Bytes of a pixel in VRAM: blue, green, red, and one that no screen shows.
pub const PIXEL: u32 = 4;

/// Red, green, blue.
pub type Rgb = [u8; 3];

const PNG: &[u8] = include_bytes!("picture.png");

/// Its pixels, row by row from the top.
pub fn rgb() -> Vec<Rgb> {
    let decoded = png::Decoder::new(std::io::Cursor::new(PNG)).read_info().and_then(|mut reader| {
        let mut bytes = vec![0; (WIDTH * HEIGHT * 3) as usize];
        let info = reader.next_frame(&mut bytes)?;
        let shape = (info.width, info.height, info.color_type, info.bit_depth);
        assert_eq!(shape, (WIDTH, HEIGHT, png::ColorType::Rgb, png::BitDepth::Eight), "examples/picture.png");
        Ok(bytes)
    });
    let bytes = decoded.expect("examples/picture.png is part of this program, and a PNG");
    bytes.chunks_exact(3).map(|rgb| [rgb[0], rgb[1], rgb[2]]).collect()
}

/// What stands in a display's VRAM when it shows the picture: 32 bits a pixel, no gap between rows.
pub fn vram() -> Vec<u8> {
    rgb().into_iter().flat_map(pixel).collect()
}

/// The same for its negative, which has no byte in common with it.
pub fn negative() -> Vec<u8> {
    rgb().into_iter().map(|rgb| rgb.map(|part| !part)).flat_map(pixel).collect()
}

fn pixel([red, green, blue]: Rgb) -> [u8; PIXEL as usize] {
    // The last one is as different from pixel to pixel, and in the negative, as the others: one that is missing is missed.
    [blue, green, red, red ^ green ^ blue]
}
