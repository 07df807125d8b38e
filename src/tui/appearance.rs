//! Whether the terminal can show the inspector, and in which colours.

use crate::app::settings::{Settings, ThemeChoice};
use crate::ui::{Colours, Theme};
use color_eyre::eyre::bail;
use std::io::{IsTerminal, stdin, stdout};

/// Fails if the terminal cannot show the inspector, and names the alternative.
pub(super) fn require_terminal() -> color_eyre::Result<()> {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    if !stdout().is_terminal() || !stdin().is_terminal() || dumb {
        bail!(
            "the inspector needs a terminal; `quantscope analyze MODEL` prints the same figures as plain text"
        );
    }
    Ok(())
}

/// The theme that the settings choose, or that the environment variables suggest.
pub(super) fn theme(settings: &Settings) -> Theme {
    let variable = |name| std::env::var(name).ok();
    Theme::new(match settings.theme {
        ThemeChoice::Auto => {
            let [no_color, true_colour, background] =
                ["NO_COLOR", "COLORTERM", "COLORFGBG"].map(variable);
            Colours::of(no_color.as_deref(), true_colour.as_deref(), background.as_deref())
        }
        ThemeChoice::Light => Colours::on(true, variable("COLORTERM").as_deref()),
        ThemeChoice::Dark => Colours::on(false, variable("COLORTERM").as_deref()),
        ThemeChoice::Truecolor => Colours::True,
        ThemeChoice::Ansi => Colours::Ansi,
        ThemeChoice::Mono => Colours::None,
    })
}
