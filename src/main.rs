//! Parses the command line, runs a subcommand or the inspector, and returns the exit code.

use color_eyre::config::HookBuilder;
use color_eyre::eyre::{Context, eyre};
use quantscope::app::picker::Picker;
use quantscope::app::settings::{self, Glyphs, Settings};
use quantscope::checkpoint::{Checkpoint, find_models, has_model};
use quantscope::cli::{self, AboutScreen, Cli, ScreenArgs};
use quantscope::directories::{self, DirectoryKind};
use quantscope::export::Survey;
use quantscope::job::cache::Cache;
use quantscope::{app, demo, tui};
use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    // The hooks report panics. Errors are printed by `cli` as sentences.
    if let Err(error) = HookBuilder::default().display_env_section(false).install() {
        return cli::fail(&error);
    }
    let Cli { model, threads, cache, config, screen, command } = cli::parse();
    let settings = || settings(config.as_deref());
    match command {
        Some(command) => {
            let words = || settings().map(|s| s.thresholds).map_err(|e| format!("{e:#}"));
            cli::run(command, about_screen, words)
        }
        None => {
            let threads = threads.map(usize::from);
            let opened = settings().and_then(|settings| {
                inspector(model.as_deref(), threads, cache.cache(), settings, screen)
            });
            match opened {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => cli::fail(&format!("{error:#}")),
            }
        }
    }
}

/// Opens the inspector on a checkpoint, or on the demo if none is named.
fn inspector(
    model: Option<&Path>,
    threads: Option<usize>,
    cache: Option<Cache>,
    mut settings: Settings,
    screen: ScreenArgs,
) -> color_eyre::Result<()> {
    settings.mouse &= !screen.no_mouse;
    settings.animation &= !screen.no_animation;
    settings.session &= !screen.no_session;
    if screen.ascii {
        settings.glyphs = Glyphs::Ascii;
    }
    let Some((model, checkpoint)) = open(model, &settings)? else { return Ok(()) };
    let session = settings.session.then(|| tui::session_path(&model)).flatten();
    let activations = if screen.activations.is_empty() && model.as_os_str() == demo::WORD {
        vec![demo::WORD.into()]
    } else {
        screen.activations
    };
    let (log, directory) = (screen.log, PathBuf::new());
    let state = directories::of(DirectoryKind::State).filter(|_| settings.session);
    let recent = state.map(|state| state.join("recent-models"));
    let hub = directories::hugging_face();
    let options = tui::Options {
        activations,
        threads,
        cache,
        settings,
        session,
        recent,
        hub,
        log,
        directory,
    };
    tui::run(Arc::new(checkpoint), options)
}

/// Opens the named model. If the path is a directory with several models, or no model is named
/// and the current directory has one, the user picks; `None` if nothing is picked. Opens the
/// demo if no model is named and there is none in the current directory.
fn open(
    named: Option<&Path>,
    settings: &Settings,
) -> color_eyre::Result<Option<(PathBuf, Checkpoint)>> {
    let here = Path::new(".");
    let joined = match named.and_then(shares) {
        None => None,
        Some((directory, survey)) => match tui::watch_shares(directory, survey, settings)? {
            Some(out) => Some(out),
            None => return Ok(None),
        },
    };
    let root = match joined.as_deref().or(named) {
        None if has_model(here) => here,
        None => return Ok(Some((demo::WORD.into(), demo::open()?))),
        Some(path) => match demo::open_model(path) {
            Ok(checkpoint) => return Ok(Some((path.to_owned(), checkpoint))),
            // In a script this is an error, not a question.
            Err(error) if !error.needs_a_choice() || !std::io::stdout().is_terminal() => {
                return Err(error.into());
            }
            Err(_) => path,
        },
    };
    let hub = directories::hugging_face().filter(|cache| cache.is_dir());
    let models = hub.as_deref().map(|cache| (cache, find_models(cache)));
    let mut picker = Picker::new(root, find_models(root), models);
    loop {
        let Some(picked) = tui::pick(&mut picker, settings)? else { return Ok(None) };
        match demo::open_model(&picked) {
            Ok(checkpoint) => return Ok(Some((picked, checkpoint))),
            Err(error) => picker.problem = Some(error.to_string()),
        }
    }
}

/// The shares in a directory that several workers fill, if a person can look at them.
fn shares(path: &Path) -> Option<(&Path, Survey)> {
    let survey = Survey::read(path, None).ok().flatten()?;
    std::io::stdout().is_terminal().then_some((path, survey))
}

/// The settings in the named file, or in the default file if it exists.
fn settings(named: Option<&Path>) -> color_eyre::Result<Settings> {
    let default = directories::of(DirectoryKind::Config).map(|home| home.join("config.toml"));
    let Some(path) = named.map(Path::to_owned).or(default) else { return Ok(Settings::default()) };
    match std::fs::read_to_string(&path) {
        Ok(text) => Settings::parse(&text).map_err(|why| eyre!("{}: {why}", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
            Ok(Settings::default())
        }
        Err(error) => Err(error).wrap_err_with(|| path.display().to_string()),
    }
}

/// What the command line prints about the screen.
fn about_screen() -> AboutScreen {
    let keys = app::keys::Group::ALL.map(|group| {
        let of_group = app::keys::BINDINGS.iter().filter(|binding| binding.group == group);
        let lines = of_group.map(|binding| {
            let keys: Vec<String> = binding.keys.iter().map(|key| key.name()).collect();
            (keys.join(", "), binding.help.to_owned())
        });
        (group.title().to_owned(), lines.collect())
    });
    AboutScreen { settings: settings::documented(), keys: keys.into() }
}
