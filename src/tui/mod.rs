//! The terminal: entered, left on every way out, and the loop that owns it and the state.
//!
//! Events come in from keys, signals and jobs; `app::update` turns them into effects; the
//! effects are carried out here and nowhere else.

mod input;
mod pick;
mod question;

pub use pick::pick;

use crate::app::comparison::comparison;
use crate::app::names;
use crate::app::outputs::{self, Outputs};
use crate::app::settings::{Settings, ThemeChoice};
use crate::app::tensor_metrics::SCHEMES;
use crate::app::{self, App, Effect, Event, LaidOut, Meter, NotWritten, Session};
use crate::checkpoint::Checkpoint;
use crate::demo;
use crate::export::{KnownScales, OutputPlan, Request, SaveError, write_text};
use crate::failpoints::{Failpoint, reach};
use crate::job::cache::Cache;
use crate::job::diff::{self, Compared};
use crate::job::element_window;
use crate::job::{Job, News, Progress, channels, clip, duplicates, output, save, scan};
use crate::plan::default_calibration;
use crate::plan::recipe;
use crate::quantization::{
    Analysis, AnalysisSpec, Calibration, QuantizationScheme, Quantizer, Rounding,
};
use crate::report::{Format, Report};
use crate::tensor::TensorId;
use crate::ui::{self, Colours, Theme};
use color_eyre::eyre::{Context, bail};
use crossterm::clipboard::CopyToClipboard;
use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture, KeyCode,
    KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEventKind,
};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use input::Input;
use question::{Kind, Question, question};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Position, Rect};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Stdout, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// How the inspector is to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Worker threads, all cores if `None`.
    pub threads: Option<usize>,
    /// Where findings are kept, if they are.
    pub cache: Option<Cache>,
    pub settings: Settings,
    /// Captures to open at the start.
    pub activations: Vec<PathBuf>,
    /// Where marks and place are kept; nowhere if `None`.
    pub session: Option<PathBuf>,
    /// Where to write what happens, for a report of a defect.
    pub log: Option<PathBuf>,
}

/// Between two frames while a job runs.
const FRAME: Duration = Duration::from_millis(33);
/// The same without animation.
const STILL: Duration = Duration::from_secs(1);
/// The least wait for a key while a job runs.
const POLL: Duration = Duration::from_millis(5);
/// How soon a signal is noticed while nothing happens.
const IDLE: Duration = Duration::from_millis(150);
/// Findings taken in before the next frame: enough to keep up, few enough to stay quick.
const BATCH: usize = 4096;
/// How long a save that was cancelled by leaving may take to clean up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rows that one notch of the wheel scrolls.
const NOTCH: isize = 3;

/// Opens the inspector on a checkpoint and returns when the person leaves it. Receipts of
/// what was saved are printed then.
pub fn run(checkpoint: Arc<Checkpoint>, options: Options) -> color_eyre::Result<()> {
    is_drawable()?;
    let colours = colours(&options.settings);
    let mut app = App::with(checkpoint, options.settings.clone());
    app.activations = options.activations.clone();
    if let Some(path) = &options.session {
        restore(&mut app, path);
    }
    let log = Log::open(options.log.as_deref())?;
    let signals = Signals::register().wrap_err("could not watch for signals")?;
    restore_on_panic();
    MOUSE.store(options.settings.mouse, Relaxed);
    let mut screen = Screen::enter().wrap_err("could not prepare the terminal")?;
    let mut runner = Runner {
        app,
        log,
        theme: Theme::new(colours),
        options,
        calibration: None,
        save: None,
        questions: Vec::new(),
        measuring: Vec::new(),
        outputs: None,
        started: Instant::now(),
        quit: false,
    };
    let ended = runner.run(&mut screen, &signals);
    drop(screen);
    runner.stop_saving();
    if let Some(calibrating) = runner.calibration.take() {
        // What it has found is kept for the next time.
        calibrating.job.finish();
    }
    if let Some(path) = &runner.options.session
        && let Err(error) = keep(&runner.app, path)
    {
        let _ =
            writeln!(std::io::stderr(), "the session was not kept: {}: {error}", path.display());
    }
    for receipt in runner.app.receipts() {
        // The terminal may be gone by now.
        let _ = writeln!(stdout(), "{receipt}");
    }
    if let Some(signal) = signals.end() {
        // Whoever sent it is to see that it was obeyed.
        signal_hook::low_level::emulate_default_handler(signal)?;
    }
    ended
}

/// Fails with what to use instead where no screen can be drawn.
fn is_drawable() -> color_eyre::Result<()> {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    if !stdout().is_terminal() || !std::io::stdin().is_terminal() || dumb {
        bail!(
            "the inspector needs a terminal it can draw on; `quantscope analyze MODEL` prints the same figures as plain text"
        );
    }
    Ok(())
}

fn colours(settings: &Settings) -> Colours {
    let variable = |name| std::env::var(name).ok();
    match settings.theme {
        ThemeChoice::Auto => {
            let [none, true_colour, ground] = ["NO_COLOR", "COLORTERM", "COLORFGBG"].map(variable);
            Colours::of(none.as_deref(), true_colour.as_deref(), ground.as_deref())
        }
        ThemeChoice::Light => Colours::on(true, variable("COLORTERM").as_deref()),
        ThemeChoice::Dark => Colours::on(false, variable("COLORTERM").as_deref()),
        ThemeChoice::Truecolor => Colours::True,
        ThemeChoice::Ansi => Colours::Ansi,
        ThemeChoice::Mono => Colours::None,
    }
}

/// The terminal in raw mode on its alternate screen; dropping it gives it back.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    fn enter() -> std::io::Result<Screen> {
        enter()?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout())).inspect_err(|_| leave())?;
        Ok(Screen { terminal })
    }

    /// Gives the terminal back, stops the process, and takes the terminal again when it is
    /// continued.
    fn suspend(&mut self) -> std::io::Result<()> {
        leave();
        signal_hook::low_level::emulate_default_handler(SIGTSTP)?;
        enter()?;
        self.redraw()
    }

    /// Makes the next frame draw every cell. Not `Terminal::clear`, which asks the terminal
    /// where its cursor is and fails if it does not answer.
    fn redraw(&mut self) -> std::io::Result<()> {
        let size = self.terminal.size()?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> std::io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste, cursor::Hide)
        .and_then(|()| mouse(MOUSE.load(Relaxed)))
        .inspect_err(|_| leave())
}

/// Whether the program has the mouse: asked again whenever the terminal is entered.
static MOUSE: AtomicBool = AtomicBool::new(true);

fn mouse(take: bool) -> std::io::Result<()> {
    MOUSE.store(take, Relaxed);
    match take {
        true => execute!(stdout(), EnableMouseCapture),
        false => execute!(stdout(), DisableMouseCapture),
    }
}

/// As far as it can be: on the way out there is nobody to tell.
fn leave() {
    let _ = execute!(
        stdout(),
        DisableBracketedPaste,
        DisableMouseCapture,
        LeaveAlternateScreen,
        cursor::Show
    );
    let _ = disable_raw_mode();
}

/// A panic of this thread gives the terminal back before its report is printed. A worker's
/// is not printed at all: it is told to whoever joins it, and shown on the screen.
fn restore_on_panic() {
    let screen: ThreadId = std::thread::current().id();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == screen {
            leave();
            report(info);
        }
    }));
}

/// Signals that have come since they were last asked for.
struct Signals {
    /// The number of the signal that asked to end, or 0.
    end: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Signals {
    fn register() -> std::io::Result<Signals> {
        let signals = Signals { end: Arc::default(), stop: Arc::default() };
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
            // A second one ends the process even if the loop is stuck.
            signal_hook::flag::register_conditional_default(signal, asked.clone())?;
            signal_hook::flag::register(signal, asked.clone())?;
            signal_hook::flag::register_usize(signal, signals.end.clone(), signal as usize)?;
        }
        signal_hook::flag::register(SIGTSTP, signals.stop.clone())?;
        Ok(signals)
    }

    /// The terminal is gone, whether or not a signal said so.
    fn hang_up(&self) {
        let _ = self.end.compare_exchange(0, SIGHUP as usize, Relaxed, Relaxed);
    }

    fn end(&self) -> Option<i32> {
        match self.end.load(Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}

struct Runner {
    app: App,
    log: Log,
    theme: Theme,
    options: Options,
    calibration: Option<Calibrating>,
    save: Option<Job<save::News>>,
    questions: Vec<(Kind, Box<dyn Question>)>,
    measuring: Vec<Job<scan::Finding>>,
    outputs: Option<Job<outputs::News>>,
    started: Instant,
    quit: bool,
}

/// What happens, one line each, if anybody wants to know.
struct Log {
    file: Option<std::fs::File>,
    started: Instant,
}

impl Log {
    /// Of a line: what a finding holds would drown the rest.
    const LENGTH: usize = 200;

    fn open(path: Option<&Path>) -> color_eyre::Result<Log> {
        let create = |path: &Path| {
            std::fs::File::create(path).wrap_err_with(|| format!("{}: no log", path.display()))
        };
        Ok(Log { file: path.map(create).transpose()?, started: Instant::now() })
    }

    fn note(&mut self, kind: &str, what: &impl std::fmt::Debug) {
        let Some(file) = &mut self.file else { return };
        let text: String = format!("{what:?}").chars().take(Self::LENGTH).collect();
        let seconds = self.started.elapsed().as_secs_f64();
        // A full disk must not end the session.
        let _ = writeln!(file, "{seconds:10.3} {kind} {}", text.replace('\n', " "));
    }
}

/// Takes up where one left, if there is something to take up.
fn restore(app: &mut App, path: &Path) {
    if let Some(session) =
        std::fs::read_to_string(path).ok().and_then(|text| Session::parse(&text).ok())
    {
        app.restore(&session);
    }
}

/// Keeps marks and place for the next time.
fn keep(app: &App, path: &Path) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(app.session().to_toml().as_bytes())?;
    file.persist(path)?;
    Ok(())
}

struct Calibrating {
    generation: u64,
    order: Arc<scan::Order>,
    job: Job<scan::Finding>,
}

impl Runner {
    fn run(&mut self, screen: &mut Screen, signals: &Signals) -> color_eyre::Result<()> {
        self.resized(screen)?;
        let effects = self.update(Event::Opened);
        // Before the work begins that would hold the first frame up.
        self.draw(screen)?;
        self.carry_out_all(effects, screen)?;
        let mut changed = true;
        let mut drawn = Instant::now();
        while !self.quit {
            let busy = self.is_busy();
            let frame = if self.app.settings.animation { FRAME } else { STILL };
            if changed || (busy && drawn.elapsed() >= frame) {
                self.resized(screen)?;
                self.draw(screen)?;
                drawn = Instant::now();
            }
            changed = false;
            let wait = if busy { FRAME.saturating_sub(drawn.elapsed()).max(POLL) } else { IDLE };
            if input::wait(wait)? == Input::Gone {
                signals.hang_up();
                return Ok(());
            }
            // What is typed quickly is drawn once.
            while crossterm::event::poll(Duration::ZERO)? && !self.quit {
                if let Some(event) = self.translate(crossterm::event::read()?, screen)? {
                    self.handle(event, screen)?;
                }
                changed = true;
            }
            if signals.stop.swap(false, Relaxed) {
                screen.suspend()?;
                changed = true;
            }
            if signals.end().is_some() {
                return Ok(());
            }
            changed |= self.collect(screen)?;
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.calibration.is_some()
            || self.save.is_some()
            || !self.questions.is_empty()
            || !self.measuring.is_empty()
            || self.outputs.is_some()
    }

    /// Cancels a save under way and gives it the time to take its temporary files away.
    fn stop_saving(&mut self) {
        let Some(job) = &mut self.save else { return };
        job.cancel();
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE && !matches!(job.poll(), News::Ended | News::Panicked(_)) {
            std::thread::sleep(FRAME);
        }
    }

    /// Tells the state how much can be seen.
    fn resized(&mut self, screen: &mut Screen) -> std::io::Result<()> {
        let viewport = ui::layout::viewport(screen.terminal.size()?, &self.app);
        if viewport != self.app.viewport {
            // More may be seen than has been read.
            self.handle(Event::Resized(viewport), screen)?;
        }
        Ok(())
    }

    /// What the terminal says, in the state's words.
    fn translate(
        &self,
        event: crossterm::event::Event,
        screen: &Screen,
    ) -> std::io::Result<Option<Event>> {
        use crossterm::event::Event as Terminal;
        Ok(match event {
            Terminal::Key(key) if key.kind != KeyEventKind::Release => key_of(key).map(Event::Key),
            Terminal::Paste(text) => Some(Event::Paste(text)),
            Terminal::Mouse(mouse) => match mouse.kind {
                MouseEventKind::ScrollUp => Some(Event::Wheel(-NOTCH)),
                MouseEventKind::ScrollDown => Some(Event::Wheel(NOTCH)),
                MouseEventKind::Down(MouseButton::Left) => {
                    let at = Position::new(mouse.column, mouse.row);
                    let size = screen.terminal.size()?;
                    ui::layout::hit(size, &self.app, at).map(Event::Click)
                }
                MouseEventKind::Drag(MouseButton::Left) => {
                    let at = Position::new(mouse.column, mouse.row);
                    let size = screen.terminal.size()?;
                    ui::layout::drag(size, &self.app, at).map(Event::Drag)
                }
                _ => None,
            },
            _ => None,
        })
    }

    fn handle(&mut self, event: Event, screen: &mut Screen) -> std::io::Result<()> {
        let effects = self.update(event);
        self.carry_out_all(effects, screen)
    }

    /// What is to be done after an event.
    fn update(&mut self, event: Event) -> Vec<Effect> {
        self.log.note("event", &event);
        app::update(&mut self.app, event)
    }

    fn carry_out_all(&mut self, effects: Vec<Effect>, screen: &mut Screen) -> std::io::Result<()> {
        for effect in effects {
            self.log.note("effect", &effect);
            self.carry_out(effect, screen)?;
        }
        Ok(())
    }

    fn draw(&self, screen: &mut Screen) -> std::io::Result<()> {
        let (app, theme) = (&self.app, &self.theme);
        reach(Failpoint::Screen)?;
        screen.terminal.draw(|frame| ui::draw(frame, app, theme))?;
        Ok(())
    }

    /// Takes in what the jobs have found. True when there was anything.
    fn collect(&mut self, screen: &mut Screen) -> std::io::Result<bool> {
        let busy = self.is_busy();
        let mut news = Vec::new();
        if let Some(Calibrating { generation, job, .. }) = &mut self.calibration {
            let generation = *generation;
            let mut over = false;
            for _ in 0..BATCH {
                news.push(match job.poll() {
                    News::Finding((tensor, found)) => Event::Found { generation, tensor, found },
                    News::Nothing => break,
                    News::Ended => {
                        over = true;
                        Event::CalibrationEnded { generation, meter: meter(job.progress()) }
                    }
                    News::Panicked(why) => {
                        over = true;
                        Event::CalibrationFailed { generation, why }
                    }
                });
                if over {
                    break;
                }
            }
            if over {
                self.calibration = None;
            }
        }
        while let Some(job) = &mut self.save {
            match job.poll() {
                News::Finding(finding) => news.push(Event::Save(finding)),
                News::Nothing => break,
                News::Ended => self.save = None,
                News::Panicked(why) => {
                    self.save = None;
                    news.push(Event::SaveFailed(why));
                }
            }
        }
        let mut urgent = false;
        self.questions.retain_mut(|(_, question)| match question.poll() {
            Some(answer) => {
                news.extend(answer);
                urgent = true;
                false
            }
            None => true,
        });
        self.measuring.retain_mut(|job| {
            loop {
                match job.poll() {
                    News::Finding((tensor, found)) => {
                        news.push(Event::Measured { tensor, found });
                        urgent = true;
                    }
                    News::Nothing => return true,
                    News::Ended | News::Panicked(_) => return false,
                }
            }
        });
        while let Some(job) = &mut self.outputs {
            let ended = match job.poll() {
                News::Finding(finding) => {
                    news.push(Event::Outputs(finding));
                    continue;
                }
                News::Nothing => break,
                News::Ended => None,
                News::Panicked(why) => Some(Event::Outputs(outputs::News::Ended(Err(why)))),
            };
            self.outputs = None;
            news.extend(ended);
            urgent = true;
        }
        let any = !news.is_empty();
        for event in news {
            self.handle(event, screen)?;
        }
        if busy {
            let tick = Event::Tick {
                now: self.started.elapsed(),
                calibration: self.calibration.as_ref().map(|c| meter(c.job.progress())),
                save: self.save.as_ref().map(|job| meter(job.progress())),
                diff: self.asked(Kind::Diff).map(|question| meter(question.progress())),
                outputs: self.outputs.as_ref().map(|job| meter(job.progress())),
            };
            self.handle(tick, screen)?;
        }
        // Findings are drawn at the throttle; the end of a job at once.
        Ok(urgent || (any && self.calibration.is_none()))
    }

    fn carry_out(&mut self, effect: Effect, screen: &mut Screen) -> std::io::Result<()> {
        match effect {
            Effect::Calibrate { generation, schemes } => {
                self.calibrate(generation, schemes, screen)?
            }
            Effect::StopCalibration => self.calibration = None,
            Effect::Hurry(tensors) => {
                if let Some(calibration) = &self.calibration {
                    calibration.order.hurry(tensors);
                }
            }
            Effect::LayOut(request) => {
                let laid_out = lay_out(&self.app.model.checkpoint, &request);
                self.handle(Event::LaidOut(laid_out), screen)?;
            }
            Effect::Save(mut request) => {
                request.out = expand_home(&request.out);
                let checkpoint = self.app.model.checkpoint.clone();
                match save::start(checkpoint, request, KnownScales::new(), self.options.threads) {
                    Ok(job) => self.save = Some(job),
                    Err(error) => {
                        self.handle(Event::SaveFailed(error.to_string()), screen)?;
                    }
                }
            }
            Effect::CancelSave => {
                if let Some(job) = &self.save {
                    job.cancel();
                }
            }
            Effect::ReadConfig => {
                let config = self.app.model.checkpoint.config();
                let config = config.map(|text| text.map_err(|error| error.to_string()));
                self.handle(Event::Config(config), screen)?;
            }
            Effect::ReadValues(request) => {
                let job = element_window::start(self.app.model.checkpoint.clone(), request.clone());
                let given_up = "reading it was given up";
                self.ask(Kind::Values, job, given_up, screen, move |found| {
                    let found = found.and_then(|found| found.map_err(|error| error.to_string()));
                    Some(Event::Values(request.clone(), found))
                })?;
            }
            Effect::Count(tensor) => {
                let job = self.scan(vec![tensor], count());
                let given_up = "it could not be counted";
                self.ask(Kind::Counts, job, given_up, screen, move |found| {
                    let counted = measured(found).and_then(|analysis| {
                        analysis.distribution.ok_or_else(|| given_up.to_owned())
                    });
                    Some(Event::Counted(tensor, counted))
                })?;
            }
            Effect::MeasureClip(request) => {
                let checkpoint = self.app.model.checkpoint.clone();
                let job = clip::start(checkpoint, request, self.options.threads);
                self.ask(Kind::Clip, job, "measuring it was given up", screen, move |found| {
                    let found = found.and_then(|found| found.map_err(|error| error.to_string()));
                    Some(Event::Clipped(request, found))
                })?;
            }
            Effect::CompareSchemes(tensor) => {
                let rounding = self.app.model.plan().rounding;
                let calibration = default_calibration(&self.app.model.checkpoint);
                let job = self.scan(vec![tensor], comparison(calibration, rounding));
                let given_up = "it could not be measured";
                self.ask(Kind::Schemes, job, given_up, screen, move |found| {
                    let outcomes = measured(found).map(|analysis| analysis.outcomes);
                    Some(Event::SchemesCompared(tensor, outcomes))
                })?;
            }
            Effect::ReadChannels(request) => {
                let checkpoint = self.app.model.checkpoint.clone();
                let job = channels::start(checkpoint, request.clone(), self.options.threads);
                let given_up = "reading them was given up";
                self.ask(Kind::Channels, job, given_up, screen, move |found| {
                    let found = found.and_then(|found| found.map_err(|error| error.to_string()));
                    Some(Event::Channels(request.clone(), found))
                })?;
            }
            Effect::FindDuplicates(candidates) => {
                let job = duplicates::start(self.app.model.checkpoint.clone(), candidates);
                // A tensor that cannot be read is told of where its values are asked for.
                self.ask(Kind::Duplicates, job, "", screen, |found| {
                    found.ok().and_then(Result::ok).map(Event::Duplicates)
                })?;
            }
            Effect::Measure(marks) => {
                for (quantizer, tensors) in by_quantizer(marks) {
                    let job = self.scan(tensors, cost(quantizer, self.app.model.plan().rounding));
                    self.measuring.extend(job.ok());
                }
            }
            Effect::WriteRecipe { path, text, replace } => {
                let checkpoint = self.app.model.checkpoint.clone();
                let written = write_recipe(&checkpoint, &expand_home(&path), &text, replace);
                self.handle(Event::RecipeWritten(written), screen)?;
            }
            Effect::WriteReport { path, format, replace } => {
                let report = self.app.report();
                let path = expand_home(&path);
                let job = Job::start("report", Arc::default(), move |_, sender| {
                    let _ = sender.send(write_report(&report, &path, format, replace));
                });
                let given_up = "writing it was given up";
                self.ask(Kind::Report, job, given_up, screen, |written| {
                    let failed = |why| Err(NotWritten::Failed(why));
                    Some(Event::ReportWritten(written.unwrap_or_else(failed)))
                })?;
            }
            Effect::ReadRecipe(path) => {
                let read = recipe::read(&expand_home(&path), &self.app.model.checkpoint);
                let read = read.map_err(|error| error.to_string());
                self.handle(Event::RecipeRead(read), screen)?;
            }
            Effect::Diff(path) => {
                let (here, threads) = (self.app.model.checkpoint.clone(), self.options.threads);
                let path = expand_home(&path);
                let job = Job::start("diff", Arc::default(), move |progress, sender| {
                    let _ = sender.send(compare(&here, &path, threads, progress));
                });
                let given_up = "the comparison was given up";
                self.ask(Kind::Diff, job, given_up, screen, |compared| {
                    Some(Event::Compared(compared.and_then(|compared| compared)))
                })?;
            }
            Effect::MeasureOutputs(files) => {
                let (model, threads) = (self.app.model.checkpoint.clone(), self.options.threads);
                let files: Vec<PathBuf> = files.iter().map(|path| expand_home(path)).collect();
                let job = Job::start("outputs", Arc::default(), move |progress, sender| {
                    let tell = |news| _ = sender.send(news);
                    measure_outputs(&model, files, threads, progress, &tell);
                });
                match job {
                    Ok(job) => self.outputs = Some(job),
                    Err(error) => {
                        let ended = outputs::News::Ended(Err(error.to_string()));
                        self.handle(Event::Outputs(ended), screen)?;
                    }
                }
            }
            Effect::StopOutputs => self.outputs = None,
            Effect::CancelDiff => self.questions.retain(|(kind, _)| *kind != Kind::Diff),
            Effect::Copy(text) => copy(&text)?,
            Effect::Mouse(take) => mouse(take)?,
            Effect::Suspend => screen.suspend()?,
            Effect::Redraw => screen.redraw()?,
            Effect::Quit => self.quit = true,
        }
        Ok(())
    }

    /// Asks what `job` answers, instead of what was asked last of this kind.
    fn ask<T: Send + 'static>(
        &mut self,
        kind: Kind,
        job: std::io::Result<Job<T>>,
        given_up: &'static str,
        screen: &mut Screen,
        tell: impl Fn(Result<T, String>) -> Option<Event> + 'static,
    ) -> std::io::Result<()> {
        self.questions.retain(|(asked, _)| *asked != kind);
        match job {
            Ok(job) => self.questions.push((kind, question(job, given_up, tell))),
            Err(error) => {
                if let Some(event) = tell(Err(error.to_string())) {
                    self.handle(event, screen)?;
                }
            }
        }
        Ok(())
    }

    fn asked(&self, kind: Kind) -> Option<&dyn Question> {
        let (_, question) = self.questions.iter().find(|(asked, _)| *asked == kind)?;
        Some(question.as_ref())
    }

    fn scan(
        &self,
        tensors: Vec<TensorId>,
        questions: AnalysisSpec,
    ) -> std::io::Result<Job<scan::Finding>> {
        let checkpoint = self.app.model.checkpoint.clone();
        let order = Arc::new(scan::Order::new(tensors));
        scan::start(checkpoint, questions, order, self.options.threads, None)
    }

    fn calibrate(
        &mut self,
        generation: u64,
        schemes: &[QuantizationScheme],
        screen: &mut Screen,
    ) -> std::io::Result<()> {
        let checkpoint = self.app.model.checkpoint.clone();
        let order = Arc::new(scan::Order::new(checkpoint.ids().collect()));
        let Options { threads, cache, .. } = self.options.clone();
        let questions = questions(schemes, default_calibration(&checkpoint));
        let job = scan::start(checkpoint, questions, order.clone(), threads, cache);
        match job {
            Ok(job) => self.calibration = Some(Calibrating { generation, order, job }),
            Err(error) => {
                let why = error.to_string();
                self.handle(Event::CalibrationFailed { generation, why }, screen)?;
            }
        }
        Ok(())
    }
}

/// What a scan of one tensor found.
fn measured(found: Result<scan::Finding, String>) -> Result<Analysis, String> {
    found.and_then(|(_, found)| found.map_err(|error| error.to_string()))
}

/// What a save would write, or why it would not.
pub fn lay_out(checkpoint: &Checkpoint, request: &Request) -> Result<LaidOut, String> {
    let output_plan = OutputPlan::new(checkpoint, request).map_err(|error| error.to_string())?;
    Ok(LaidOut {
        files: output_plan.files.len() + output_plan.texts.len() + output_plan.sidecar_files.len(),
        bytes: output_plan.bytes(),
        warnings: output_plan.warnings,
    })
}

/// Writes a recipe's text, whole or not at all.
pub fn write_recipe(
    checkpoint: &Checkpoint,
    path: &Path,
    text: &str,
    replace: bool,
) -> Result<(), NotWritten> {
    let written = write_text(checkpoint, path, replace, |out| out.write_all(text.as_bytes()));
    written.map_err(not_written)
}

/// Writes a report, whole or not at all.
pub fn write_report(
    report: &Report,
    path: &Path,
    format: Format,
    replace: bool,
) -> Result<(), NotWritten> {
    let write = |out: &mut dyn Write| report.write(format, out);
    write_text(&report.checkpoint, path, replace, write).map_err(not_written)
}

fn not_written(error: SaveError) -> NotWritten {
    match error {
        SaveError::Exists(_) => NotWritten::Exists,
        error => NotWritten::Failed(error.to_string()),
    }
}

/// Opens the checkpoint at `path` and compares `here` with it.
pub fn compare(
    here: &Checkpoint,
    path: &Path,
    threads: Option<usize>,
    progress: &Progress,
) -> Result<Vec<Compared>, String> {
    let there = demo::open_model(path).map_err(|error| error.to_string())?;
    diff::run(here, &there, threads, progress).map_err(|error| error.to_string())
}

/// Opens captures, and measures what the outputs of the recorded layers lose by every scheme;
/// tells each layer when it is done.
pub fn measure_outputs(
    checkpoint: &Checkpoint,
    files: Vec<PathBuf>,
    threads: Option<usize>,
    progress: &Progress,
    tell: &(dyn Fn(outputs::News) + Sync),
) {
    let captures = match demo::open_activations(&files, checkpoint) {
        Ok(captures) => captures,
        Err(error) => return tell(outputs::News::Ended(Err(error.to_string()))),
    };
    let first = captures.unmatched().first().map(|(_, name)| names::visible(name).into_owned());
    tell(outputs::News::Opened(Outputs {
        files,
        recorded: captures.tensors().collect(),
        found: BTreeMap::new(),
        unmatched: (captures.unmatched().len(), first.unwrap_or_default()),
    }));
    let request = output::Request {
        tensors: captures.tensors().collect(),
        quantizers: quantizers(&SCHEMES, default_calibration(&checkpoint)),
        rounding: Rounding::default(),
        calibration: Calibration::MinMax,
    };
    let found = |(id, result): output::Finding| {
        tell(outputs::News::Found(id, result.map_err(|error| error.to_string())));
    };
    let ended = output::run(checkpoint, &captures, &request, threads, progress, &found);
    tell(outputs::News::Ended(ended.map_err(|stopped| stopped.to_string())));
}

/// What a calibration asks of every tensor: each scheme by min-max, and by what is usual for
/// the model.
pub fn questions(schemes: &[QuantizationScheme], usual: Calibration) -> AnalysisSpec {
    AnalysisSpec {
        // Counted once, when the tensors are first looked at.
        distributions: schemes.contains(&QuantizationScheme::PER_TENSOR),
        ..AnalysisSpec::errors(quantizers(schemes, usual), Rounding::default())
    }
}

fn quantizers(schemes: &[QuantizationScheme], usual: Calibration) -> Vec<Quantizer> {
    let others = (usual != Calibration::MinMax).then_some(usual);
    let calibrations = std::iter::once(Calibration::MinMax).chain(others);
    let all = calibrations.flat_map(|calibration| {
        schemes.iter().map(move |&scheme| Quantizer { calibration, scheme })
    });
    all.collect()
}

/// What counting a tensor's values asks.
pub fn count() -> AnalysisSpec {
    let nothing = AnalysisSpec::scales(Vec::new(), Rounding::default());
    AnalysisSpec { distributions: true, ..nothing }
}

/// What the cost of a mark asks.
pub fn cost(quantizer: Quantizer, rounding: Rounding) -> AnalysisSpec {
    AnalysisSpec::errors(vec![quantizer], rounding)
}

/// Marks that ask the same, together.
pub fn by_quantizer(marks: Vec<(TensorId, Quantizer)>) -> Vec<(Quantizer, Vec<TensorId>)> {
    let mut groups: Vec<(Quantizer, Vec<TensorId>)> = Vec::new();
    for (id, quantizer) in marks {
        match groups.iter_mut().find(|(other, _)| *other == quantizer) {
            Some((_, tensors)) => tensors.push(id),
            None => groups.push((quantizer, vec![id])),
        }
    }
    groups
}

fn meter(progress: &Progress) -> Meter {
    Meter {
        done: progress.done(),
        total: progress.total(),
        elapsed: progress.elapsed(),
        rate: None,
    }
}

fn key_of(event: KeyEvent) -> Option<app::keys::Key> {
    use app::keys::Key;
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    Some(match event.code {
        KeyCode::Char(c) if control => Key::Ctrl(c.to_ascii_lowercase()),
        KeyCode::Char(_) if event.modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete => Key::Delete,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        _ => return None,
    })
}

/// `~/x` as a shell would read it.
fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// To the clipboard of whoever sits at the terminal, also over ssh (OSC 52).
fn copy(text: &str) -> std::io::Result<()> {
    execute!(stdout(), CopyToClipboard::to_clipboard_from(text))
}
