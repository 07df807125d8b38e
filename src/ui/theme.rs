//! The styles, named by their meaning.

use crate::quantization::{Rating, Thresholds};
use ratatui::style::{Color, Modifier, Style};

/// The colours that the terminal supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Only modifiers.
    None,
    /// The 16 colours of the terminal, on a dark background.
    Ansi,
    /// 24-bit colours on a dark background.
    True,
    /// Like the two above on a light background, where yellow and cyan are illegible.
    AnsiOnLight,
    /// 24-bit colours on a light background.
    TrueOnLight,
}

impl Colours {
    /// Chooses from the values of `NO_COLOR`, `COLORTERM` and `COLORFGBG`.
    pub fn of(no_color: Option<&str>, colorterm: Option<&str>, ground: Option<&str>) -> Colours {
        // `15;0` are the palette numbers of foreground and background.
        let ground = ground.and_then(|numbers| numbers.rsplit(';').next());
        match no_color {
            Some(set) if !set.is_empty() => Colours::None,
            _ => Colours::on(matches!(ground, Some("7" | "15")), colorterm),
        }
    }

    /// Chooses for a light or a dark background, from the value of `COLORTERM`.
    pub fn on(light: bool, colorterm: Option<&str>) -> Colours {
        match (colorterm, light) {
            (Some("truecolor" | "24bit"), false) => Colours::True,
            (Some("truecolor" | "24bit"), true) => Colours::TrueOnLight,
            (_, false) => Colours::Ansi,
            (_, true) => Colours::AnsiOnLight,
        }
    }
}

/// The styles of the screen. The background is set only under the cursor, together with the
/// foreground.
#[derive(Clone, Debug)]
pub struct Theme {
    /// Ordinary text.
    pub text: Style,
    /// Headings and important names.
    pub strong: Style,
    /// Secondary text.
    pub dim: Style,
    /// Rules, borders and empty gauges.
    pub faint: Style,
    /// Keys, the program's name, the selection.
    pub accent: Style,
    /// Marked tensors.
    pub mark: Style,
    /// Characters that matched a filter.
    pub found: Style,
    /// Good results.
    pub good: Style,
    /// Warnings and fair results.
    pub warning: Style,
    /// Errors and poor results.
    pub bad: Style,
    /// The row under the cursor.
    pub cursor: Style,
    /// The bar at the left end of that row.
    pub cursor_bar: Style,
    ratings: [Style; 4],
    thresholds: Thresholds,
}

impl Theme {
    /// The theme with these colours.
    pub fn new(colours: Colours) -> Theme {
        match colours {
            Colours::None => Theme::mono(),
            Colours::TrueOnLight => Theme::on_light(),
            Colours::AnsiOnLight => Theme::coloured(
                [Color::Red, Color::Magenta, Color::Green, Color::Blue],
                Color::Blue,
                Style::new().add_modifier(Modifier::DIM),
                Style::new().fg(Color::DarkGray),
                Style::new().add_modifier(Modifier::REVERSED),
            ),
            Colours::Ansi => Theme::coloured(
                [Color::Red, Color::Yellow, Color::Green, Color::Cyan],
                Color::Cyan,
                Style::new().add_modifier(Modifier::DIM),
                Style::new().fg(Color::DarkGray),
                Style::new().add_modifier(Modifier::REVERSED),
            ),
            Colours::True => Theme::coloured(
                [
                    Color::Rgb(0xe3, 0x5d, 0x6a),
                    Color::Rgb(0xd0, 0x97, 0x2b),
                    Color::Rgb(0x5a, 0xa9, 0x5e),
                    Color::Rgb(0x2b, 0xa8, 0xa0),
                ],
                Color::Rgb(0x5f, 0x93, 0xf0),
                Style::new().fg(Color::Rgb(0x86, 0x8d, 0xa3)),
                Style::new().fg(Color::Rgb(0x5d, 0x64, 0x7a)),
                Style::new().fg(Color::Rgb(0xee, 0xf2, 0xfb)).bg(Color::Rgb(0x2d, 0x3f, 0x66)),
            ),
        }
    }

    /// Darker colours, and a light background under the cursor.
    fn on_light() -> Theme {
        Theme::coloured(
            [
                Color::Rgb(0xb4, 0x23, 0x18),
                Color::Rgb(0x8f, 0x5a, 0x00),
                Color::Rgb(0x1e, 0x7a, 0x34),
                Color::Rgb(0x0b, 0x73, 0x77),
            ],
            Color::Rgb(0x1f, 0x5f, 0xc4),
            Style::new().fg(Color::Rgb(0x5b, 0x62, 0x74)),
            Style::new().fg(Color::Rgb(0x93, 0x9a, 0xaa)),
            Style::new().fg(Color::Rgb(0x10, 0x18, 0x28)).bg(Color::Rgb(0xcf, 0xdd, 0xf7)),
        )
    }

    fn mono() -> Theme {
        let plain = Style::new();
        let with = |modifier| Style::new().add_modifier(modifier);
        Theme {
            text: plain,
            strong: with(Modifier::BOLD),
            dim: with(Modifier::DIM),
            faint: with(Modifier::DIM),
            accent: with(Modifier::BOLD),
            mark: with(Modifier::BOLD),
            found: with(Modifier::UNDERLINED),
            good: plain,
            warning: with(Modifier::BOLD),
            bad: with(Modifier::BOLD),
            cursor: with(Modifier::REVERSED),
            cursor_bar: plain,
            ratings: [with(Modifier::BOLD), plain, plain, plain],
            thresholds: Thresholds::default(),
        }
    }

    fn coloured(
        ratings: [Color; 4],
        accent: Color,
        dim: Style,
        faint: Style,
        cursor: Style,
    ) -> Theme {
        let [poor, fair, good, _] = ratings;
        let accent = Style::new().fg(accent);
        Theme {
            text: Style::new(),
            strong: Style::new().add_modifier(Modifier::BOLD),
            dim,
            faint,
            accent,
            mark: accent.add_modifier(Modifier::BOLD),
            found: accent.add_modifier(Modifier::BOLD),
            good: Style::new().fg(good),
            warning: Style::new().fg(fair),
            bad: Style::new().fg(poor),
            cursor,
            cursor_bar: accent,
            ratings: ratings.map(|colour| Style::new().fg(colour)),
            thresholds: Thresholds::default(),
        }
    }

    /// The same theme with other limits between ratings.
    pub fn with(&self, thresholds: Thresholds) -> Theme {
        Theme { thresholds, ..self.clone() }
    }

    /// Returns the rating of an SQNR, and its style.
    pub fn rate(&self, sqnr_db: f64) -> (&'static str, Style) {
        let rating = self.thresholds.rate(sqnr_db);
        (rating.name(), self.rating(rating))
    }

    /// The style of a rating.
    pub fn rating(&self, rating: Rating) -> Style {
        match rating {
            Rating::Poor => self.ratings[0],
            Rating::Fair => self.ratings[1],
            Rating::Good => self.ratings[2],
            Rating::Excellent => self.ratings[3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_selects_the_colours() {
        let of = Colours::of;
        assert_eq!(of(Some("1"), Some("truecolor"), None), Colours::None);
        assert_eq!(of(Some(""), Some("truecolor"), Some("15;0")), Colours::True);
        assert_eq!(of(None, None, None), Colours::Ansi);
        assert_eq!(of(None, None, Some("0;default;15")), Colours::AnsiOnLight);
        assert_eq!(of(None, Some("24bit"), Some("0;7")), Colours::TrueOnLight);
    }

    /// WCAG requires a contrast of at least 4.5 to 1.
    #[test]
    fn texts_have_enough_contrast_on_a_light_background() {
        let luminance = |colour: Color| {
            let Color::Rgb(r, g, b) = colour else { panic!("{colour:?}") };
            let linear = |part: u8| match f64::from(part) / 255.0 {
                part if part <= 0.04045 => part / 12.92,
                part => ((part + 0.055) / 1.055).powf(2.4),
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        let contrast = |text: Color, ground: Color| {
            let (a, b) = (luminance(text) + 0.05, luminance(ground) + 0.05);
            a.max(b) / a.min(b)
        };
        let white = Color::Rgb(255, 255, 255);
        let t = Theme::new(Colours::TrueOnLight);
        for style in
            [t.dim, t.accent, t.mark, t.good, t.warning, t.bad].into_iter().chain(t.ratings)
        {
            let text = style.fg.expect("a colour");
            assert!(contrast(text, white) >= 4.5, "{text:?}: {}", contrast(text, white));
        }
        let (text, ground) = (t.cursor.fg.expect("set"), t.cursor.bg.expect("set"));
        assert!(contrast(text, ground) >= 4.5);
    }

    #[test]
    fn the_theme_without_colours_sets_none() {
        let t = Theme::new(Colours::None);
        let all = [t.text, t.strong, t.dim, t.faint, t.accent, t.mark, t.found, t.good, t.warning];
        for style in all.into_iter().chain([t.bad, t.cursor, t.cursor_bar]).chain(t.ratings) {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
