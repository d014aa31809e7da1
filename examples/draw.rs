//! `draw-picture [FILE]`: draws the picture of the demos and writes it as a PNG (examples/picture.png). A tide gate between
//! two piers at dusk.
//!
//! Additions, multiplications, divisions and square roots only, whose results IEEE 754 fixes: every machine draws the same.

#![allow(missing_docs, unreachable_pub, reason = "a program")]

mod picture;

use picture::{HEIGHT, Rgb, WIDTH};
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;

/// The water begins there.
const SHORE: f32 = 252.0;
const SUN: (f32, f32) = (236.0, 214.0);
const SUN_RADIUS: f32 = 40.0;

type Colour = [f32; 3];

const ZENITH: Colour = [28.0, 30.0, 74.0];
const DUSK: Colour = [150.0, 70.0, 110.0];
const GLOW: Colour = [255.0, 176.0, 96.0];
const LIGHT: Colour = [255.0, 238.0, 190.0];
const DEEP: Colour = [14.0, 26.0, 54.0];
const IRON: Colour = [16.0, 14.0, 30.0];

#[expect(clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    let tree = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/picture.png"));
    let path = std::env::args_os().nth(1).map_or(tree, PathBuf::from);
    let written = File::create(&path).map_err(|error| error.to_string()).and_then(|file| {
        let mut encoder = png::Encoder::new(BufWriter::new(file), WIDTH, HEIGHT);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        let bytes: Vec<u8> = draw().into_iter().flatten().collect();
        let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
        writer.write_image_data(&bytes).map_err(|error| error.to_string())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("draw-picture: {}: {why}", path.display());
            ExitCode::from(2)
        }
    }
}

/// Row by row, from the top.
fn draw() -> Vec<Rgb> {
    (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| smooth(x, y))).collect()
}

/// The mean of four points of a pixel.
fn smooth(x: u32, y: u32) -> Rgb {
    let mut sum = [0.0; 3];
    for (dx, dy) in [(0.125, 0.375), (0.375, 0.875), (0.625, 0.125), (0.875, 0.625)] {
        let colour = point(x as f32 + dx, y as f32 + dy);
        sum.iter_mut().zip(colour).for_each(|(sum, part)| *sum += part / 4.0);
    }
    sum.map(|part| part.clamp(0.0, 255.0) as u8)
}

fn point(x: f32, y: f32) -> Colour {
    if gate(x, y) {
        return IRON;
    }
    if y < SHORE { above(x, y) } else { water(x, y) }
}

/// Sky, sun, hills.
fn above(x: f32, y: f32) -> Colour {
    let up = (SHORE - y) / SHORE;
    let mut colour = mix(GLOW, DUSK, step(0.0, 0.38, up));
    colour = mix(colour, ZENITH, step(0.25, 0.95, up));
    let far = distance(x - SUN.0, y - SUN.1);
    let halo = 1.0 - step(SUN_RADIUS, 7.0 * SUN_RADIUS, far);
    colour = mix(colour, GLOW, 0.55 * halo * halo);
    colour = mix(colour, LIGHT, 1.0 - step(SUN_RADIUS - 0.7, SUN_RADIUS + 0.7, far));
    // Thin clouds, lit from below.
    let cloud = noise(x / 90.0, y / 9.0) * 0.7 + noise(x / 31.0 + 7.0, y / 5.0) * 0.3;
    colour = mix(colour, mix(DUSK, GLOW, 1.0 - up), 0.65 * step(0.56, 0.8, cloud) * step(0.05, 0.3, up));
    if up > 0.45 && noise(x / 1.7, y / 1.7 + 99.0) > 0.985 - 0.03 * step(0.45, 1.0, up) {
        colour = mix(colour, LIGHT, 0.6 * step(0.45, 0.9, up));
    }
    // Ridges, the nearer the darker.
    for (n, (height, width)) in [(74.0, 120.0), (50.0, 84.0), (26.0, 52.0)].into_iter().enumerate() {
        let at = x / width + 17.0 * n as f32;
        let ridge = noise(at, 3.5) * 0.7 + noise(at * 2.7, 8.5) * 0.22 + noise(at * 7.0, 1.5) * 0.08;
        if y > SHORE - height * ridge - 4.0 {
            let near = (n + 1) as f32 / 3.0;
            let haze = mix(DUSK, GLOW, 0.25);
            return mix(haze, IRON, 0.35 + 0.45 * near);
        }
    }
    colour
}

/// What is above, mirrored in waves that grow towards the front; the sun's road on it.
fn water(x: f32, y: f32) -> Colour {
    let down = (y - SHORE) / (HEIGHT as f32 - SHORE);
    let wave = noise(x / (18.0 + 60.0 * down), y / (1.5 + 7.0 * down)) - 0.5;
    let ripple = noise(x / 9.0 + 50.0, y / (1.0 + 3.0 * down)) - 0.5;
    let from = (SHORE - 1.7 * (y - SHORE) + 34.0 * down * wave).clamp(0.0, SHORE - 1.0);
    let side = x + 16.0 * down * ripple;
    let mirrored = if gate(side, from) { IRON } else { above(side, from) };
    let colour = mix(mirrored, DEEP, 0.3 + 0.45 * down);
    let off = (x - SUN.0) / (24.0 + 110.0 * down);
    let road = (1.0 - off * off).max(0.0) * step(-0.12, 0.3, wave + 0.6 * ripple);
    mix(colour, LIGHT, 0.75 * road * (1.0 - 0.5 * down))
}

/// The gate's silhouette: two piers, a beam, the half-raised gate with its bars, gulls.
fn gate(x: f32, y: f32) -> bool {
    let pier = |left: f32, right: f32| (left..right).contains(&x) && (96.0..SHORE + 26.0).contains(&y);
    let cap = |left: f32, right: f32| (left..right).contains(&x) && (86.0..98.0).contains(&y);
    let beam = (388.0..580.0).contains(&x) && (108.0..122.0).contains(&y);
    let within = (420.0..548.0).contains(&x) && (150.0..226.0).contains(&y);
    let (column, row) = ((x - 420.0) % 16.0, (y - 150.0) % 25.0);
    let bars = within && (column < 3.0 || row < 4.0 || y > 220.0 || x > 545.0);
    let chains = (122.0..150.0).contains(&y) && (distance_to(x, 440.0) < 1.2 || distance_to(x, 528.0) < 1.2);
    let wheel = distance(x - 484.0, y - 100.0);
    let spokes = wheel < 15.0 && (distance_to(x, 484.0) < 1.2 || distance_to(y, 100.0) < 1.2);
    let gulls =
        [(120.0, 92.0, 9.0), (150.0, 78.0, 6.5), (98.0, 70.0, 5.0)].into_iter().any(|(gx, gy, span)| {
            let along = distance_to(x, gx) / span;
            let wing = gy - span * 0.8 * along * (1.0 - along) * 2.0 + span * 0.15;
            along < 1.0 && distance_to(y, wing) < 1.1
        });
    pier(392.0, 418.0)
        || pier(550.0, 576.0)
        || cap(386.0, 424.0)
        || cap(544.0, 582.0)
        || beam
        || bars
        || chains
        || (13.0..16.5).contains(&wheel)
        || spokes
        || gulls
}

fn distance(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

fn distance_to(one: f32, other: f32) -> f32 {
    (one - other).abs()
}

fn mix(from: Colour, to: Colour, part: f32) -> Colour {
    let mut made = [0.0; 3];
    made.iter_mut().zip(from.iter().zip(to)).for_each(|(made, (from, to))| *made = from + (to - from) * part);
    made
}

/// 0 below `from`, 1 above `to`, smooth between.
fn step(from: f32, to: f32, at: f32) -> f32 {
    let part = ((at - from) / (to - from)).clamp(0.0, 1.0);
    part * part * (3.0 - 2.0 * part)
}

/// Value noise, 0 to 1: random at whole numbers, smooth between.
fn noise(x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let at = |dx: i32, dy: i32| random(left as i32 + dx, top as i32 + dy);
    let (right, below) = (step(0.0, 1.0, x - left), step(0.0, 1.0, y - top));
    let upper = at(0, 0) + (at(1, 0) - at(0, 0)) * right;
    let lower = at(0, 1) + (at(1, 1) - at(0, 1)) * right;
    upper + (lower - upper) * below
}

fn random(x: i32, y: i32) -> f32 {
    let mut n = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77);
    n = (n ^ n >> 15).wrapping_mul(0x2c1b_3c6d);
    n = (n ^ n >> 12).wrapping_mul(0x297a_2d39);
    ((n ^ n >> 15) >> 8) as f32 / (1 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_in_the_tree_is_the_one_that_is_drawn() {
        assert!(picture::rgb() == draw(), "renew it: cargo run -p tidegate-examples --bin draw-picture");
    }
}
