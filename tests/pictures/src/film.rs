//! Writes images as PNG and GIF files with a small palette.

use crate::paint::{GROUND, Image, Rgb, mixed};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Colours per file: those of the terminal, and some between them for the edges of letters.
const COLOURS: usize = 64;
/// The transparent colour index, which leaves a pixel of the previous frame unchanged.
const SAME: u8 = COLOURS as u8;

/// A palette of text colours, their blends with the background, and the most frequent other
/// colours, with the nearest entry of each pixel colour.
struct Palette {
    colours: Vec<Rgb>,
    nearest: HashMap<Rgb, u8>,
}

impl Palette {
    fn of<'a>(images: impl IntoIterator<Item = &'a Image>) -> Palette {
        let mut seen: HashMap<Rgb, u32> = HashMap::new();
        let mut inks = BTreeSet::new();
        for image in images {
            inks.extend(&image.inks);
            image.pixels.iter().for_each(|pixel| *seen.entry(*pixel).or_default() += 1);
        }
        let thinned = |share| inks.iter().map(move |&ink| mixed(GROUND, ink, share));
        let mut colours: Vec<Rgb> = Vec::new();
        let mut frequent: Vec<Rgb> = seen.keys().copied().collect();
        frequent.sort_unstable_by_key(|colour| (std::cmp::Reverse(seen[colour]), *colour));
        for colour in thinned(1.0).chain(thinned(0.5)).chain(frequent) {
            if !colours.contains(&colour) {
                colours.push(colour);
            }
        }
        colours.truncate(COLOURS);
        Palette { colours, nearest: HashMap::new() }
    }

    fn index(&mut self, pixel: Rgb) -> u8 {
        let distance = |colour: &Rgb| -> u32 {
            let parts = pixel.iter().zip(colour);
            parts.map(|(&a, &b)| u32::from(a.abs_diff(b)).pow(2)).sum()
        };
        let find = || {
            let places = self.colours.iter().enumerate();
            places.min_by_key(|(_, colour)| distance(colour)).map_or(0, |(place, _)| place as u8)
        };
        *self.nearest.entry(pixel).or_insert_with(find)
    }

    /// Red, green and blue of each colour.
    fn bytes(&self) -> Vec<u8> {
        self.colours.concat()
    }
}

pub fn write_png(image: &Image, path: &Path) -> Result<()> {
    let mut palette = Palette::of([image]);
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(file, image.width, image.height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette.bytes());
    encoder.set_compression(png::Compression::High);
    // Neighbouring indices are unrelated, so PNG filters do not help.
    encoder.set_filter(png::Filter::NoFilter);
    let data: Vec<u8> = image.pixels.iter().map(|&pixel| palette.index(pixel)).collect();
    encoder.write_header()?.write_image_data(&data)?;
    Ok(())
}

/// Writes images as frames, each with its duration in hundredths of a second.
pub fn write_gif(frames: &[(Image, u16)], path: &Path) -> Result<()> {
    let Some((first, _)) = frames.first() else { return Err("a film without a frame".into()) };
    let mut palette = Palette::of(frames.iter().map(|(image, _)| image));
    let (width, height) = (u16::try_from(first.width)?, u16::try_from(first.height)?);
    let colours = palette.bytes();
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = gif::Encoder::new(file, width, height, &colours)?;
    encoder.set_repeat(gif::Repeat::Infinite)?;
    let mut before: Option<&Image> = None;
    for (image, delay) in frames {
        // Only the changed rectangle is written.
        let [left, top, right, bottom] = match before {
            Some(before) => changed(before, image),
            None => [0, 0, image.width, image.height],
        };
        let places = (top..bottom).flat_map(|y| (left..right).map(move |x| y * image.width + x));
        let buffer = places.map(|at| match (image.pixels[at as usize], before) {
            (pixel, Some(before)) if before.pixels[at as usize] == pixel => SAME,
            (pixel, _) => palette.index(pixel),
        });
        let frame = gif::Frame {
            delay: *delay,
            transparent: Some(SAME),
            left: left as u16,
            top: top as u16,
            width: (right - left) as u16,
            height: (bottom - top) as u16,
            buffer: buffer.collect::<Vec<u8>>().into(),
            ..gif::Frame::default()
        };
        encoder.write_frame(&frame)?;
        before = Some(image);
    }
    Ok(())
}

/// The smallest rectangle that contains all differences, at least one pixel: left, top, right,
/// bottom.
fn changed(before: &Image, now: &Image) -> [u32; 4] {
    let differs = |x: u32, y: u32| {
        let at = (y * now.width + x) as usize;
        before.pixels[at] != now.pixels[at]
    };
    let row = |&y: &u32| (0..now.width).any(|x| differs(x, y));
    let Some(top) = (0..now.height).find(row) else { return [0, 0, 1, 1] };
    let bottom = (0..now.height).rfind(row).map_or(now.height, |y| y + 1);
    let column = |&x: &u32| (top..bottom).any(|y| differs(x, y));
    let left = (0..now.width).find(column).unwrap_or(0);
    let right = (0..now.width).rfind(column).map_or(now.width, |x| x + 1);
    [left, top, right, bottom]
}
