//! Draws a terminal screen as pixels: text from a font, lines and blocks as shapes that join.

use ab_glyph::{Font, FontVec, PxScale, ScaleFont};
use std::collections::BTreeSet;
use vt100::{Cell, Color, Screen};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
pub type Rgb = [u8; 3];

const FOREGROUND: Rgb = [0xc9, 0xd1, 0xe6];
const BACKGROUND: Rgb = [0x15, 0x18, 0x22];
/// The same 16 colours as in `tests/support/svg.rs`.
const ANSI: [Rgb; 16] = [
    [0x1d, 0x21, 0x2d],
    [0xe0, 0x6c, 0x75],
    [0x8c, 0xc2, 0x65],
    [0xd9, 0xa6, 0x4e],
    [0x61, 0xa4, 0xef],
    [0xb4, 0x88, 0xe0],
    [0x4c, 0xb8, 0xc4],
    [0xaa, 0xb2, 0xc5],
    [0x5a, 0x62, 0x76],
    [0xf0, 0x80, 0x88],
    [0xa5, 0xd6, 0x80],
    [0xec, 0xbe, 0x6a],
    [0x7f, 0xb8, 0xf7],
    [0xc7, 0xa0, 0xee],
    [0x6c, 0xd0, 0xdb],
    [0xe6, 0xea, 0xf4],
];

/// Pixels, row by row.
#[derive(Clone, PartialEq)]
pub struct Image {
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<Rgb>,
    /// The colours of text and backgrounds, without blends.
    pub inks: BTreeSet<Rgb>,
}

/// The background of a cell that sets none.
pub const GROUND: Rgb = BACKGROUND;

/// Draws screens with a font and a cell size in pixels.
pub struct Painter {
    regular: FontVec,
    bold: FontVec,
    width: u32,
    height: u32,
}

impl Painter {
    /// Creates a painter with cells of `width` pixels, and twice as high.
    ///
    /// # Errors
    /// Fails if DejaVu Sans Mono is not installed.
    pub fn new(width: u32) -> Result<Painter> {
        let mut fonts = fontdb::Database::new();
        fonts.load_system_fonts();
        let load = |weight| {
            let family = [fontdb::Family::Name("DejaVu Sans Mono")];
            let query = fontdb::Query { families: &family, weight, ..fontdb::Query::default() };
            let id = fonts.query(&query).ok_or("DejaVu Sans Mono is not installed")?;
            let data = fonts.with_face_data(id, |data, index| (data.to_vec(), index));
            let (data, index) = data.ok_or("the font cannot be read")?;
            Result::Ok(FontVec::try_from_vec_and_index(data, index)?)
        };
        let (regular, bold) = (load(fontdb::Weight::NORMAL)?, load(fontdb::Weight::BOLD)?);
        Ok(Painter { regular, bold, width, height: width * 2 })
    }

    /// Draws the screen with a margin of one cell's width.
    pub fn image(&self, screen: &Screen) -> Image {
        let (rows, columns) = screen.size();
        let (rows, columns) = (rows.get(), columns.get());
        let margin = self.width;
        let width = u32::from(columns) * self.width + 2 * margin;
        let height = u32::from(rows) * self.height + 2 * margin;
        let pixels = vec![BACKGROUND; (width * height) as usize];
        let mut image = Image { width, height, pixels, inks: BTreeSet::from([BACKGROUND]) };
        for row in 0..rows {
            for column in 0..columns {
                let Some(cell) = screen.cell(row, column) else { continue };
                let x = margin + u32::from(column) * self.width;
                let y = margin + u32::from(row) * self.height;
                self.cell(&mut image, x, y, cell);
            }
        }
        if !screen.hide_cursor() {
            let (row, column) = screen.cursor_position();
            let x = margin + u32::from(column) * self.width;
            let y = margin + u32::from(row) * self.height;
            image.fill([x, y, (self.width / 6).max(1), self.height], FOREGROUND, 1.0);
        }
        image
    }

    fn cell(&self, image: &mut Image, x: u32, y: u32, cell: &Cell) {
        let (mut fg, mut bg) = (rgb(cell.fgcolor(), FOREGROUND), rgb(cell.bgcolor(), BACKGROUND));
        if cell.inverse() {
            (fg, bg) = (bg, fg);
        }
        if cell.dim() {
            fg = mixed(bg, fg, 0.6);
        }
        image.inks.extend([fg, bg]);
        let (w, h) = (self.width, self.height);
        if !cell.is_wide_continuation() {
            let span = if cell.is_wide() { 2 } else { 1 };
            image.fill([x, y, w * span, h], bg, 1.0);
        }
        for c in cell.contents().chars() {
            if !self.shape(image, x, y, c, fg) {
                self.glyph(image, x, y, c, fg, cell.bold());
            }
        }
        if cell.underline() {
            image.fill([x, y + h - (h / 10).max(1), w, (h / 18).max(1)], fg, 1.0);
        }
    }

    fn glyph(&self, image: &mut Image, x: u32, y: u32, c: char, color: Rgb, bold: bool) {
        let font = if bold { &self.bold } else { &self.regular };
        // Scale the font so that a glyph is as wide as the cell.
        let unit = font.as_scaled(PxScale::from(1000.0));
        let scale = 1000.0 * self.width as f32 / unit.h_advance(unit.glyph_id('0')).max(1.0);
        let scaled = font.as_scaled(PxScale::from(scale));
        let above = (self.height as f32 - scaled.height()) / 2.0 + scaled.ascent();
        let place = ab_glyph::point(x as f32, (y as f32 + above).round());
        let glyph = scaled.glyph_id(c).with_scale_and_position(scale, place);
        let Some(outline) = font.outline_glyph(glyph) else { return };
        let bounds = outline.px_bounds();
        outline.draw(|dx, dy, share| {
            let at = (bounds.min.x as i64 + i64::from(dx), bounds.min.y as i64 + i64::from(dy));
            if let (Ok(x), Ok(y)) = (u32::try_from(at.0), u32::try_from(at.1)) {
                image.fill([x, y, 1, 1], color, share);
            }
        });
    }

    /// Draws lines, blocks and other shapes that join their neighbours. Returns false for ordinary
    /// characters.
    fn shape(&self, image: &mut Image, x: u32, y: u32, c: char, color: Rgb) -> bool {
        let (w, h) = (self.width, self.height);
        let thin = (w / 8).max(1);
        let thick = thin * 3;
        let mut fill = |rectangle: [u32; 4]| image.fill(rectangle, color, 1.0);
        // The position of a centred line of this thickness.
        let across = |line: u32| x + (w - line) / 2;
        let down = |line: u32| y + (h - line) / 2;
        // From the middle to the edge, including the thickness of the line.
        let right = |line| [across(line), down(line), x + w - across(line), line];
        let left = |line| [x, down(line), across(line) + line - x, line];
        let below = |line| [across(line), down(line), line, y + h - down(line)];
        let above = |line| [across(line), y, line, down(line) + line - y];
        match c {
            '─' => fill([x, down(thin), w, thin]),
            '━' => fill([x, down(thick), w, thick]),
            '│' => fill([across(thin), y, thin, h]),
            '┃' => fill([across(thick), y, thick, h]),
            '╭' | '┌' => [right(thin), below(thin)].into_iter().for_each(fill),
            '╮' | '┐' => [left(thin), below(thin)].into_iter().for_each(fill),
            '╰' | '└' => [right(thin), above(thin)].into_iter().for_each(fill),
            '╯' | '┘' => [left(thin), above(thin)].into_iter().for_each(fill),
            '┬' => [right(thin), left(thin), below(thin)].into_iter().for_each(fill),
            '┴' => [right(thin), left(thin), above(thin)].into_iter().for_each(fill),
            '┼' => [right(thin), left(thin), above(thin), below(thin)].into_iter().for_each(fill),
            '├' => [right(thin), above(thin), below(thin)].into_iter().for_each(fill),
            '┤' => [left(thin), above(thin), below(thin)].into_iter().for_each(fill),
            '▁'..='█' => {
                let tall = h * (u32::from(c) - 0x2580) / 8;
                fill([x, y + h - tall, w, tall]);
            }
            '▉'..='▏' => fill([x, y, w * (0x2590 - u32::from(c)) / 8, h]),
            '\u{2801}'..='\u{28ff}' => {
                const DOTS: [(u32, u32); 8] =
                    [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)];
                let size = (w / 4).max(2);
                for (bit, (column, row)) in DOTS.into_iter().enumerate() {
                    if u32::from(c) & (1 << bit) != 0 {
                        let left = x + w * (1 + 2 * column) / 4 - size / 2;
                        fill([left, y + h * (1 + 2 * row) / 8 - size / 2, size, size]);
                    }
                }
            }
            _ => return false,
        }
        true
    }
}

impl Image {
    /// Blends a rectangle (x, y, width, height) over the image.
    fn fill(&mut self, [x, y, width, height]: [u32; 4], color: Rgb, share: f32) {
        for y in y..(y + height).min(self.height) {
            for x in x..(x + width).min(self.width) {
                let pixel = &mut self.pixels[(y * self.width + x) as usize];
                *pixel = mixed(*pixel, color, share);
            }
        }
    }
}

pub fn mixed(below: Rgb, above: Rgb, share: f32) -> Rgb {
    let mix = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * share).round() as u8;
    [mix(below[0], above[0]), mix(below[1], above[1]), mix(below[2], above[2])]
}

fn rgb(color: Color, default: Rgb) -> Rgb {
    match color {
        Color::Default => default,
        Color::Rgb(r, g, b) => [r, g, b],
        Color::Idx(index) => match ANSI.get(usize::from(index)) {
            Some(&color) => color,
            None if index >= 232 => [(index - 232) * 10 + 8; 3],
            None => {
                let level = |part: u8| if part == 0 { 0 } else { part * 40 + 55 };
                let index = index - 16;
                [level(index / 36), level(index / 6 % 6), level(index % 6)]
            }
        },
    }
}
