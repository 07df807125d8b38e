//! Renders a screen as SVG text, including colours, so that it can be pinned and compared.

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use std::fmt::Write;

/// A cell's size and the margin, in pixels.
const CELL: (f32, f32) = (8.4, 18.0);
const MARGIN: f32 = 14.0;
const FOREGROUND: Rgb = Rgb(0xc9, 0xd1, 0xe6);
const BACKGROUND: Rgb = Rgb(0x15, 0x18, 0x22);
const ANSI: [Rgb; 16] = [
    Rgb(0x1d, 0x21, 0x2d),
    Rgb(0xe0, 0x6c, 0x75),
    Rgb(0x8c, 0xc2, 0x65),
    Rgb(0xd9, 0xa6, 0x4e),
    Rgb(0x61, 0xa4, 0xef),
    Rgb(0xb4, 0x88, 0xe0),
    Rgb(0x4c, 0xb8, 0xc4),
    Rgb(0xaa, 0xb2, 0xc5),
    Rgb(0x5a, 0x62, 0x76),
    Rgb(0xf0, 0x80, 0x88),
    Rgb(0xa5, 0xd6, 0x80),
    Rgb(0xec, 0xbe, 0x6a),
    Rgb(0x7f, 0xb8, 0xf7),
    Rgb(0xc7, 0xa0, 0xee),
    Rgb(0x6c, 0xd0, 0xdb),
    Rgb(0xe6, 0xea, 0xf4),
];

#[derive(Clone, Copy, PartialEq)]
struct Rgb(u8, u8, u8);

impl Rgb {
    fn of(color: Color, default: Rgb) -> Rgb {
        let indexed = |i: u8| ANSI.get(usize::from(i)).copied().unwrap_or(default);
        match color {
            Color::Reset => default,
            Color::Rgb(r, g, b) => Rgb(r, g, b),
            Color::Black => ANSI[0],
            Color::Red => ANSI[1],
            Color::Green => ANSI[2],
            Color::Yellow => ANSI[3],
            Color::Blue => ANSI[4],
            Color::Magenta => ANSI[5],
            Color::Cyan => ANSI[6],
            Color::Gray => ANSI[7],
            Color::DarkGray => ANSI[8],
            Color::LightRed => ANSI[9],
            Color::LightGreen => ANSI[10],
            Color::LightYellow => ANSI[11],
            Color::LightBlue => ANSI[12],
            Color::LightMagenta => ANSI[13],
            Color::LightCyan => ANSI[14],
            Color::White => ANSI[15],
            Color::Indexed(i) => indexed(i),
        }
    }

    /// The colour halfway to `other`, as terminals show dim text.
    fn towards(self, other: Rgb) -> Rgb {
        let mix = |a: u8, b: u8| ((u16::from(a) * 3 + u16::from(b) * 2) / 5) as u8;
        Rgb(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
    }
}

impl std::fmt::Display for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

#[derive(Clone, Copy, PartialEq)]
struct Look {
    fg: Rgb,
    bg: Rgb,
    bold: bool,
    underlined: bool,
}

impl Look {
    fn of(cell: &Cell) -> Look {
        let mut fg = Rgb::of(cell.fg, FOREGROUND);
        let mut bg = Rgb::of(cell.bg, BACKGROUND);
        if cell.modifier.contains(Modifier::REVERSED) {
            std::mem::swap(&mut fg, &mut bg);
        }
        if cell.modifier.contains(Modifier::DIM) {
            fg = fg.towards(bg);
        }
        let bold = cell.modifier.contains(Modifier::BOLD);
        let underlined = cell.modifier.contains(Modifier::UNDERLINED);
        Look { fg, bg, bold, underlined }
    }
}

/// The screen in a terminal with a light background.
pub(crate) fn picture_on_light(buffer: &Buffer) -> String {
    let (ground, text) = (BACKGROUND.to_string(), FOREGROUND.to_string());
    picture(buffer).replace(&ground, "#ffffff").replace(&text, "#1d212d")
}

pub(crate) fn picture(buffer: &Buffer) -> String {
    let (columns, rows) = (buffer.area.width, buffer.area.height);
    let width = f32::from(columns) * CELL.0 + 2.0 * MARGIN;
    let height = f32::from(rows) * CELL.1 + 2.0 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.1} {height:.1}\" \
         font-family=\"DejaVu Sans Mono, JetBrains Mono, Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    for y in 0..rows {
        row(&mut out, buffer, y);
    }
    out.push_str("</svg>\n");
    out
}

/// Writes a row. Each run of cells with the same style becomes one text element, so that lines of
/// the file change only where the screen changes.
fn row(out: &mut String, buffer: &Buffer, y: u16) {
    let columns = buffer.area.width;
    let top = MARGIN + f32::from(y) * CELL.1;
    let place = |x: u16| MARGIN + f32::from(x) * CELL.0;
    let mut x = 0;
    while x < columns {
        let look = Look::of(&buffer[(x, y)]);
        let start = x;
        let mut text = String::new();
        while x < columns && Look::of(&buffer[(x, y)]) == look {
            text.push_str(buffer[(x, y)].symbol());
            x += 1;
        }
        let width = f32::from(x - start) * CELL.0;
        let left = place(start);
        if look.bg != BACKGROUND {
            let _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                CELL.1, look.bg
            );
        }
        let mut words = String::new();
        for (i, symbol) in (start..x).zip((start..x).map(|x| buffer[(x, y)].symbol())) {
            match line_of(symbol) {
                Some(path) => {
                    let _ = writeln!(
                        out,
                        "<path transform=\"translate({:.1} {top:.1})\" {path} stroke=\"{}\"/>",
                        place(i),
                        look.fg
                    );
                    words.push(' ');
                }
                None => words.push_str(symbol),
            }
        }
        if words.trim().is_empty() {
            continue;
        }
        let leading = words.chars().take_while(|&c| c == ' ').count() as u16;
        let text = words.trim();
        let columns = unicode_width::UnicodeWidthStr::width(text) as f32;
        let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
        let line = if look.underlined { " text-decoration=\"underline\"" } else { "" };
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            out,
            "<text xml:space=\"preserve\" x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\"{weight}{line} textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\">{escaped}</text>",
            place(start + leading),
            top + 13.5,
            look.fg,
            columns * CELL.0
        );
    }
}

/// The dots of a braille character, as strokes of zero length.
fn braille(symbol: char) -> Option<String> {
    const PLACES: [(u8, u8); 8] = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)];
    let bits = u32::from(symbol).checked_sub(0x2800).filter(|bits| (1..256).contains(bits))?;
    let dots = PLACES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
    let (w, h) = CELL;
    Some(
        dots.map(|(_, &(column, row))| {
            let x = w * (0.25 + 0.5 * f32::from(column));
            let y = h * (0.125 + 0.25 * f32::from(row));
            format!("M{x:.1} {y:.1}h0")
        })
        .collect(),
    )
}

/// The path of a line character. Lines are drawn so that they join with any font.
fn line_of(symbol: &str) -> Option<String> {
    let (w, h) = CELL;
    let (x, y) = (w / 2.0, h / 2.0);
    if let Some(dots) = symbol.chars().next().and_then(braille) {
        return Some(format!(
            "d=\"{dots}\" fill=\"none\" stroke-width=\"1.8\" stroke-linecap=\"round\""
        ));
    }
    let (d, width) = match symbol {
        "─" => (format!("M0 {y}H{w}"), 1.0),
        "━" => (format!("M0 {y}H{w}"), 3.0),
        "│" => (format!("M{x} 0V{h}"), 1.0),
        "┃" => (format!("M{x} 0V{h}"), 3.0),
        "▌" => (format!("M{} 0V{h}", w / 4.0), w / 2.0),
        "╭" => (format!("M{x} {h}V{}Q{x} {y} {} {y}H{w}", y + 4.0, x + 4.0), 1.0),
        "╮" => (format!("M{x} {h}V{}Q{x} {y} {} {y}H0", y + 4.0, x - 4.0), 1.0),
        "╰" => (format!("M{x} 0V{}Q{x} {y} {} {y}H{w}", y - 4.0, x + 4.0), 1.0),
        "╯" => (format!("M{x} 0V{}Q{x} {y} {} {y}H0", y - 4.0, x - 4.0), 1.0),
        _ => return None,
    };
    Some(format!("d=\"{d}\" fill=\"none\" stroke-width=\"{width}\""))
}
