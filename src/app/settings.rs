//! The user's settings: a TOML file, and the text that documents it.

use crate::app::keymap::{KeyMap, name_of};
use crate::app::keys::{BINDINGS, Context};
use crate::app::table::{Column, Sort};
use crate::quantization::{QuantizationScheme, Thresholds};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The settings of the inspector.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The colours.
    pub theme: ThemeChoice,
    /// The characters that are drawn.
    pub glyphs: Glyphs,
    /// Whether the mouse is used.
    pub mouse: bool,
    /// Whether progress is animated.
    pub animation: bool,
    /// Whether the session is kept for the next start.
    pub session: bool,
    /// `None` chooses the best scheme for the model's format.
    pub scheme: Option<QuantizationScheme>,
    /// The order of the table at the start.
    pub sort: Sort,
    /// Whether the table starts as a tree.
    pub tree: bool,
    /// Columns to show if there is room.
    pub columns: Vec<Column>,
    /// The limits between ratings.
    pub thresholds: Thresholds,
    /// The key table.
    pub keys: KeyMap,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            theme: ThemeChoice::Auto,
            glyphs: Glyphs::Unicode,
            mouse: true,
            animation: true,
            session: true,
            scheme: None,
            sort: Sort::by(Column::Sqnr),
            tree: false,
            columns: DEFAULT_COLUMNS.to_vec(),
            thresholds: Thresholds::default(),
            keys: KeyMap::default(),
        }
    }
}

/// Which colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThemeChoice {
    /// Follows `NO_COLOR`, `COLORTERM` and `COLORFGBG`.
    #[default]
    Auto,
    /// For a light background, in the colours that `COLORTERM` allows.
    Light,
    /// For a dark background, in the colours that `COLORTERM` allows.
    Dark,
    /// 24-bit colours.
    Truecolor,
    /// The 16 colours of the terminal.
    Ansi,
    /// No colours.
    Mono,
}

/// Which characters are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Glyphs {
    /// Box drawing and blocks.
    #[default]
    Unicode,
    /// ASCII only.
    Ascii,
}

/// Columns that are shown by default.
pub const DEFAULT_COLUMNS: [Column; 5] =
    [Column::Shape, Column::DType, Column::Bytes, Column::Values, Column::Scheme];

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SettingsFile {
    screen: ScreenSection,
    table: TableSection,
    words: RatingSection,
    keys: BTreeMap<String, BTreeMap<String, KeyNames>>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ScreenSection {
    theme: ThemeChoice,
    glyphs: Glyphs,
    mouse: bool,
    animation: bool,
    session: bool,
}

impl Default for ScreenSection {
    fn default() -> Self {
        let (theme, glyphs) = (ThemeChoice::Auto, Glyphs::Unicode);
        ScreenSection { theme, glyphs, mouse: true, animation: true, session: true }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TableSection {
    scheme: Option<String>,
    sort: Option<String>,
    tree: bool,
    columns: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RatingSection {
    fair: Option<f64>,
    good: Option<f64>,
    excellent: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum KeyNames {
    One(String),
    Several(Vec<String>),
}

impl Settings {
    /// Parses the settings.
    ///
    /// # Errors
    /// Fails if the text is not valid TOML, or if a setting is unknown or invalid.
    pub fn parse(text: &str) -> Result<Settings, String> {
        let file: SettingsFile =
            toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let mut settings = Settings {
            theme: file.screen.theme,
            glyphs: file.screen.glyphs,
            mouse: file.screen.mouse,
            animation: file.screen.animation,
            session: file.screen.session,
            tree: file.table.tree,
            ..Settings::default()
        };
        if let Some(scheme) = file.table.scheme {
            let scheme = scheme.parse().map_err(|error| format!("table.scheme: {error}"))?;
            if !crate::app::tensor_metrics::SCHEMES.contains(&scheme) {
                return Err(format!("table.scheme: {scheme} is not among the table's schemes"));
            }
            settings.scheme = Some(scheme);
        }
        if let Some(sort) = file.table.sort {
            settings.sort = Sort::by(column(&sort, &Column::ALL, "table.sort")?);
        }
        if let Some(columns) = file.table.columns {
            let wanted = columns.iter().map(|name| column(name, &DEFAULT_COLUMNS, "table.columns"));
            settings.columns = wanted.collect::<Result<_, String>>()?;
        }
        let RatingSection { fair, good, excellent } = file.words;
        let usual = Thresholds::default();
        settings.thresholds = Thresholds::new(
            fair.unwrap_or(usual.fair),
            good.unwrap_or(usual.good),
            excellent.unwrap_or(usual.excellent),
        )
        .ok_or("words: fair, good and excellent must be finite, each above the one before")?;
        for (context, actions) in file.keys {
            for (action, keys) in actions {
                let keys = match keys {
                    KeyNames::One(key) => vec![key],
                    KeyNames::Several(keys) => keys,
                };
                settings.keys.rebind(&context, &action, &keys)?;
            }
        }
        settings.keys.check()?;
        Ok(settings)
    }
}

/// A column of `among`, or a column of schemes.
fn column(name: &str, among: &[Column], what: &str) -> Result<Column, String> {
    let fits = |column: &Column| among.contains(column) || column.is_of_schemes();
    Column::named(name).filter(fits).ok_or_else(|| {
        let known: Vec<String> = among.iter().map(|column| column.name()).collect();
        let known = known.join(", ");
        format!(
            "{what}: unknown column '{name}': expected {known}, a scheme, or one scheme over another"
        )
    })
}

/// A settings file with every setting at its default and a comment on each.
pub fn documented() -> String {
    let names = |columns: &[Column]| {
        columns.iter().map(|column| format!("{:?}", column.name())).collect::<Vec<_>>().join(", ")
    };
    let words = Thresholds::default();
    let mut text = format!(
        r#"# Settings of quantscope's screen. They are read from
# $XDG_CONFIG_HOME/quantscope/config.toml or ~/.config/quantscope/config.toml;
# `--config FILE` names another. Everything here is the default.

[screen]
# auto (follows NO_COLOR, COLORTERM and COLORFGBG), light or dark for such a background,
# truecolor, ansi or mono
theme = "auto"
# unicode, or ascii for terminals without box drawing
glyphs = "unicode"
# false leaves the mouse to the terminal, to select text; M switches while running
mouse = true
# false draws only once per second while a job runs
animation = true
# keep marks and cursor for the next run
session = true

[table]
# per-tensor, per-channel, per-block:128, :64 or :32; chosen by the model's format if not set
# scheme = "per-tensor"
# one of {all},
# or of schemes as in columns
sort = "sqnr"
# start with the module tree
tree = false
# columns beside name and SQNR, if there is room: any of these, the SQNR of a
# scheme ("per-channel", "per-block:32"), what one gains ("per-channel over per-tensor")
columns = [{optional}]

[words]
# the least SQNR in dB for each rating, on the screen, the command line and in reports;
# below fair, the rating is poor
fair = {fair:.1}
good = {good:.1}
excellent = {excellent:.1}

# Keys in each context. Keys given here replace the action's default keys. Help, hints and
# messages show the keys that are set.
"#,
        all = names(&Column::ALL),
        fair = words.fair,
        good = words.good,
        excellent = words.excellent,
        optional = names(&DEFAULT_COLUMNS),
    );
    let mut contexts: Vec<Context> = Vec::new();
    for binding in BINDINGS {
        if !contexts.contains(&binding.context) {
            contexts.push(binding.context);
        }
    }
    for context in contexts {
        text += &format!("\n[keys.{}]\n", name_of(context));
        for binding in BINDINGS.iter().filter(|binding| binding.context == context) {
            let keys: Vec<String> = binding.keys.iter().map(|key| quoted(&key.name())).collect();
            let action = name_of(binding.action);
            text += &format!("{action} = [{}]  # {}\n", keys.join(", "), binding.help);
        }
    }
    text
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::action::Action;
    use crate::app::keys::Key;

    #[test]
    fn the_documented_file_has_the_defaults() {
        let settings = Settings::parse(&documented()).expect("its own text");
        assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
        let empty = Settings::parse("").expect("nothing");
        assert_eq!(format!("{empty:?}"), format!("{:?}", Settings::default()));
    }

    #[test]
    fn settings_are_parsed() {
        let text = r#"
            [screen]
            theme = "mono"
            glyphs = "ascii"
            mouse = false
            [table]
            scheme = "per-channel"
            sort = "bytes"
            columns = ["bytes"]
            [words]
            good = 25
            [keys.main]
            mark = "V"
            budget = ["B", "Ctrl-g"]
        "#;
        let settings = Settings::parse(text).expect("valid");
        assert_eq!((settings.theme, settings.glyphs), (ThemeChoice::Mono, Glyphs::Ascii));
        assert_eq!(settings.scheme, Some(QuantizationScheme::PER_CHANNEL));
        assert_eq!(settings.sort.column, Column::Bytes);
        assert_eq!(settings.columns, [Column::Bytes]);
        assert_eq!(settings.thresholds, Thresholds { good: 25.0, ..Thresholds::default() });
        assert_eq!(settings.keys.action(Context::Table, Key::Ctrl('g')), Some(Action::Budget));
    }

    #[test]
    fn columns_can_show_schemes() {
        let gain = "per-channel over per-tensor";
        let text = format!("[table]\nsort = \"{gain}\"\ncolumns = [\"per-block:32\", \"{gain}\"]");
        let settings = Settings::parse(&text).expect("valid");
        let (of, over) = (QuantizationScheme::PER_CHANNEL, QuantizationScheme::PER_TENSOR);
        let gain = Column::Gain { of, over };
        assert_eq!(settings.columns, [Column::By(QuantizationScheme::per_block(32)), gain]);
        assert_eq!(settings.sort, Sort { column: gain, descending: true });
    }

    #[test]
    fn invalid_settings_give_a_reason() {
        for (text, part) in [
            ("[screen]\ntheme = \"pink\"", "pink"),
            ("[screen]\ncolour = true", "colour"),
            ("[table]\nsort = \"luck\"", "unknown column 'luck'"),
            ("[table]\nscheme = \"best\"", "table.scheme"),
            ("[table]\ncolumns = [\"name\"]", "unknown column 'name'"),
            ("[table]\ncolumns = [\"per-block:7\"]", "or one scheme over another"),
            ("[keys.main]\nfly = \"f\"", "unknown action 'fly'"),
            ("[keys.main]\nmark = \"j\"", "is both"),
            ("[words]\nfair = 35", "each above the one before"),
            ("[words]\ngood = nan", "must be finite"),
            ("[words]\nbad = 3.0", "bad"),
            ("[", ""),
        ] {
            let why = Settings::parse(text).expect_err(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
