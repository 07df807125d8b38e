//! The few styles there are, named by what they say.

use crate::quantization::{Thresholds, Verdict};
use ratatui::style::{Color, Modifier, Style};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Modifiers only.
    None,
    Ansi,
    True,
}

impl Colours {
    /// From the values of `NO_COLOR` and `COLORTERM`.
    pub fn of(no_color: Option<&str>, colorterm: Option<&str>) -> Colours {
        match (no_color, colorterm) {
            (Some(set), _) if !set.is_empty() => Colours::None,
            (_, Some("truecolor" | "24bit")) => Colours::True,
            _ => Colours::Ansi,
        }
    }
}

/// Colours are chosen to be read on light and dark grounds alike: the ground is never set
/// but under the cursor, where the text's colour is set with it.
#[derive(Clone, Debug)]
pub struct Theme {
    pub text: Style,
    /// Headings, names of what matters.
    pub strong: Style,
    /// What is read second.
    pub dim: Style,
    /// Rules, borders, empty gauges.
    pub faint: Style,
    /// Keys, the program's own name, the choice.
    pub accent: Style,
    pub mark: Style,
    /// Characters that a filter found.
    pub found: Style,
    pub good: Style,
    pub warning: Style,
    pub bad: Style,
    /// Laid over the row under the cursor.
    pub cursor: Style,
    /// The bar at its left end.
    pub cursor_bar: Style,
    verdicts: [Style; 4],
    thresholds: Thresholds,
}

impl Theme {
    pub fn new(colours: Colours) -> Theme {
        match colours {
            Colours::None => Theme::mono(),
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
            verdicts: [with(Modifier::BOLD), plain, plain, plain],
            thresholds: Thresholds::default(),
        }
    }

    fn coloured(
        verdicts: [Color; 4],
        accent: Color,
        dim: Style,
        faint: Style,
        cursor: Style,
    ) -> Theme {
        let [poor, fair, good, _] = verdicts;
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
            verdicts: verdicts.map(|colour| Style::new().fg(colour)),
            thresholds: Thresholds::default(),
        }
    }

    /// The same, with words of these thresholds.
    pub fn with(&self, thresholds: Thresholds) -> Theme {
        Theme { thresholds, ..self.clone() }
    }

    /// The word for an SQNR, and its style.
    pub fn judge(&self, sqnr_db: f64) -> (&'static str, Style) {
        let verdict = self.thresholds.verdict(sqnr_db);
        (verdict.word(), self.verdict(verdict))
    }

    pub fn verdict(&self, verdict: Verdict) -> Style {
        match verdict {
            Verdict::Poor => self.verdicts[0],
            Verdict::Fair => self.verdicts[1],
            Verdict::Good => self.verdicts[2],
            Verdict::Excellent => self.verdicts[3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_which_colours_there_are() {
        assert_eq!(Colours::of(Some("1"), Some("truecolor")), Colours::None);
        assert_eq!(Colours::of(Some(""), Some("truecolor")), Colours::True);
        assert_eq!(Colours::of(None, None), Colours::Ansi);
    }

    #[test]
    fn without_colour_no_style_has_one() {
        let t = Theme::new(Colours::None);
        let all = [t.text, t.strong, t.dim, t.faint, t.accent, t.mark, t.found, t.good, t.warning];
        for style in all.into_iter().chain([t.bad, t.cursor, t.cursor_bar]).chain(t.verdicts) {
            assert_eq!((style.fg, style.bg), (None, None));
        }
    }
}
