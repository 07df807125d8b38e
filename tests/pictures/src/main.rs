//! Takes pictures and a film of the real program on a pseudo-terminal. Called by `./run`.
//!
//!     pictures PROGRAM MODEL SCRIPTS OUT

mod film;
mod paint;
mod script;
mod terminal;

use paint::Painter;
use script::Step;
use std::path::{Path, PathBuf};
use terminal::Terminal;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The width of a cell in pixels, on pictures and on the film.
const PICTURE: u32 = 10;
const FILM: u32 = 8;
/// How long the film shows each key, in hundredths of a second.
const KEY: u16 = 12;

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [program, model, scripts, out] = &arguments[..] else {
        return Err("expected PROGRAM MODEL SCRIPTS OUT".into());
    };
    let model = model.to_str().ok_or("the model's path is not text")?;
    std::fs::create_dir_all(out)?;
    screens(program, model, &scripts.join("screens"), out)?;
    // The demo has no config.json, so that no loader of directories can be its target.
    let script = if model == "demo:" { "job-demo" } else { "job" };
    job(program, model, &scripts.join(script), out)
}

/// Writes every `picture` of a script as PNG, with its text in a file beside it.
fn screens(program: &Path, model: &str, script: &Path, out: &Path) -> Result<()> {
    let painter = Painter::new(PICTURE)?;
    play(program, model, script, |step, terminal| {
        if let Step::Picture(name) = step {
            let screen = terminal.screen();
            film::write_png(&painter.image(&screen), &out.join(format!("{name}.png")))?;
            let text = script::lasting(&screen.contents());
            std::fs::write(out.join(format!("{name}.txt")), text)?;
            println!("{}", out.join(format!("{name}.png")).display());
        }
        Ok(())
    })
}

/// Writes a script as GIF, with a frame for each key.
fn job(program: &Path, model: &str, script: &Path, out: &Path) -> Result<()> {
    let painter = Painter::new(FILM)?;
    let mut frames: Vec<(paint::Image, u16)> = Vec::new();
    play(program, model, script, |step, terminal| {
        if let (Step::Hold(time), Some((_, delay))) = (step, frames.last_mut()) {
            *delay = *time;
            return Ok(());
        }
        let image = painter.image(&terminal.screen());
        match frames.last_mut() {
            Some((last, delay)) if *last == image => *delay = (*delay).max(KEY),
            _ => frames.push((image, KEY)),
        }
        Ok(())
    })?;
    let path = out.join("job.gif");
    film::write_gif(&frames, &path)?;
    println!("{}: {} frames", path.display(), frames.len());
    Ok(())
}

/// Plays a script, and captures the terminal after every step.
fn play(
    program: &Path,
    model: &str,
    script: &Path,
    mut look: impl FnMut(&Step, &Terminal) -> Result<()>,
) -> Result<()> {
    let home = tempfile::tempdir()?;
    let text = std::fs::read_to_string(script)?;
    let mut terminal = Terminal::start(program, model, home.path())?;
    for step in script::parse(&text)? {
        match &step {
            Step::Wait(text) => terminal.wait(text, true)?,
            Step::Gone(text) => terminal.wait(text, false)?,
            Step::Press(sent) => terminal.press(sent)?,
            Step::Picture(_) | Step::Hold(_) => {}
        }
        look(&step, &terminal)?;
    }
    Ok(())
}
