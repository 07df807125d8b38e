//! The inspector without a terminal: the runner of `quantscope::tui` with a screen in memory.
//!
//! Jobs run inline when they are started, and the clock advances only by tests and saves, so the
//! same keys always give the same screen.

use crossterm::event::{
    Event as TerminalEvent, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent,
    MouseEventKind,
};
use quantscope::app::settings::Settings;
use quantscope::app::{Event, Meter};
use quantscope::checkpoint::Checkpoint;
use quantscope::job::{Executor, Progress, scan};
use quantscope::quantization::AnalysisSpec;
use quantscope::tensor::TensorId;
use quantscope::tui::{Collected, Options, Runner, Screen};
use quantscope::ui::{self, Colours, Theme};
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Size;
use ratatui::{Frame, Terminal};
use std::cell::Cell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) const TINY_LLAMA: &str = "tests/data/tiny-llama/single/model.safetensors";
pub(crate) const SHARDED: &str = "tests/data/tiny-llama/sharded";
pub(crate) const DEMO: &str = "assets/demo.safetensors";

/// The absolute path of a file in the repository, to type on a screen in another directory.
pub(crate) fn in_repository(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A screen in memory.
pub(crate) struct MemoryScreen {
    terminal: Terminal<TestBackend>,
    pub clipboard: Vec<String>,
}

impl MemoryScreen {
    fn new(width: u16, height: u16) -> MemoryScreen {
        let terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
        MemoryScreen { terminal, clipboard: Vec::new() }
    }
}

impl Screen for MemoryScreen {
    fn size(&self) -> io::Result<Size> {
        Ok(self.terminal.size().expect("in memory"))
    }

    fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.terminal.draw(render).expect("in memory");
        Ok(())
    }

    fn invalidate(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn suspend(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn copy(&mut self, text: &str) -> io::Result<()> {
        self.clipboard.push(text.to_owned());
        Ok(())
    }

    fn capture_mouse(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}

/// Runs each job inline, except those that are held back.
#[derive(Default)]
pub(crate) struct InlineExecutor {
    /// Whether long jobs are held back.
    hold: bool,
    held: Vec<(String, Box<dyn FnOnce() + Send>)>,
    /// The message with which the next job panics.
    panic: Option<String>,
    clock: Rc<Cell<Duration>>,
}

/// Jobs that can be held back.
const LONG_JOBS: [&str; 4] = ["scan", "clip", "diff", "outputs"];

/// The simulated duration of every save.
const SAVE_TIME: Duration = Duration::from_millis(120);

impl Executor for InlineExecutor {
    fn execute(
        &mut self,
        name: &str,
        work: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Option<JoinHandle<()>>> {
        if let Some(why) = self.panic.take() {
            drop(work);
            let thread = std::thread::spawn(move || std::panic::panic_any(why));
            while !thread.is_finished() {
                std::thread::yield_now();
            }
            return Ok(Some(thread));
        }
        if self.hold && LONG_JOBS.contains(&name) {
            self.held.push((name.to_owned(), work));
        } else {
            work();
        }
        if name == "save" {
            self.clock.set(self.clock.get() + SAVE_TIME);
        }
        Ok(None)
    }
}

/// The inspector, with methods for input and assertions.
pub(crate) struct Driver {
    runner: Runner<MemoryScreen, InlineExecutor>,
    /// The directory for relative paths that are typed on the screen.
    pub directory: tempfile::TempDir,
    /// Where the program keeps what it needs in the next run.
    state: tempfile::TempDir,
    clock: Rc<Cell<Duration>>,
}

/// Gives tests access to the application.
impl Deref for Driver {
    type Target = Runner<MemoryScreen, InlineExecutor>;

    fn deref(&self) -> &Self::Target {
        &self.runner
    }
}

impl DerefMut for Driver {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.runner
    }
}

impl Driver {
    pub(crate) fn open(path: impl AsRef<Path>) -> Driver {
        let checkpoint = Checkpoint::open(path.as_ref()).expect("opens");
        Driver::of(checkpoint, false)
    }

    /// Opens a model with the calibration held back.
    pub(crate) fn open_waiting(path: impl AsRef<Path>) -> Driver {
        let checkpoint = Checkpoint::open(path.as_ref()).expect("opens");
        Driver::of(checkpoint, true)
    }

    pub(crate) fn of(checkpoint: Checkpoint, hold: bool) -> Driver {
        Driver::with(checkpoint, hold, Settings::default())
    }

    /// Opens a model with the text of a settings file.
    pub(crate) fn open_with(path: impl AsRef<Path>, settings: &str) -> Driver {
        let checkpoint = Checkpoint::open(path.as_ref()).expect("opens");
        Driver::with(checkpoint, false, Settings::parse(settings).expect("settings"))
    }

    fn with(checkpoint: Checkpoint, hold: bool, settings: Settings) -> Driver {
        Driver::made(checkpoint, hold, settings, "")
    }

    /// With the models that were opened in earlier runs, one a line.
    pub(crate) fn with_recent(checkpoint: Checkpoint, recent: &str) -> Driver {
        Driver::made(checkpoint, false, Settings::default(), recent)
    }

    fn made(checkpoint: Checkpoint, hold: bool, settings: Settings, recent: &str) -> Driver {
        let directory = tempfile::tempdir().expect("a directory");
        let state = tempfile::tempdir().expect("a directory");
        std::fs::write(state.path().join("recent-models"), recent).expect("written");
        let options = Options {
            threads: Some(1),
            settings,
            directory: directory.path().to_owned(),
            recent: Some(state.path().join("recent-models")),
            hub: Some(state.path().join("hub")),
            ..Options::default()
        };
        let theme = Theme::new(Colours::True);
        let screen = MemoryScreen::new(120, 36);
        let clock = Rc::new(Cell::new(Duration::ZERO));
        let executor = InlineExecutor { hold, clock: clock.clone(), ..InlineExecutor::default() };
        let now = Box::new({
            let clock = clock.clone();
            move || clock.get()
        });
        let runner = Runner::new(Arc::new(checkpoint), options, theme, screen, executor, now);
        let mut driver = Driver { runner, directory, state, clock };
        driver.runner.start().expect("in memory");
        driver.process_findings();
        driver
    }

    pub(crate) fn resize(&mut self, width: u16, height: u16) {
        self.runner.screen.terminal.backend_mut().resize(width, height);
        self.process_findings();
    }

    /// Presses keys, separated by spaces: `j`, `Space`, `Enter`, `Ctrl-c`.
    pub(crate) fn press(&mut self, keys: &str) {
        for key in keys.split_whitespace() {
            let (code, modifiers) = key_named(key);
            self.input(TerminalEvent::Key(KeyEvent::new(code, modifiers)));
        }
    }

    pub(crate) fn type_text(&mut self, text: &str) {
        for c in text.chars() {
            self.input(TerminalEvent::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)));
        }
    }

    /// Moves down in the open list to the entry of a name.
    pub(crate) fn choose(&mut self, name: &str) {
        for _ in 0..32 {
            if self.shows(&format!("▸ {name} ")) {
                return;
            }
            self.press("Down");
        }
        panic!("{name} is not in the list:\n{}", self.screen());
    }

    pub(crate) fn click(&mut self, x: u16, y: u16) {
        self.mouse(MouseEventKind::Down(MouseButton::Left), x, y);
    }

    /// Moves the mouse to a cell with its button held.
    pub(crate) fn drag(&mut self, x: u16, y: u16) {
        self.mouse(MouseEventKind::Drag(MouseButton::Left), x, y);
    }

    fn mouse(&mut self, kind: MouseEventKind, column: u16, row: u16) {
        let modifiers = KeyModifiers::NONE;
        self.input(TerminalEvent::Mouse(MouseEvent { kind, column, row, modifiers }));
    }

    /// Handles one event of the terminal.
    fn input(&mut self, event: TerminalEvent) {
        self.runner.handle_input(event).expect("in memory");
        self.process_findings();
    }

    pub(crate) fn send(&mut self, event: Event) {
        self.runner.handle(event).expect("in memory");
        self.process_findings();
    }

    /// Processes the findings of jobs until there are none left, and draws.
    fn process_findings(&mut self) {
        loop {
            self.runner.draw_frame().expect("in memory");
            if self.runner.collect().expect("in memory") == Collected::Nothing {
                return;
            }
        }
    }

    /// Holds back long jobs from now on.
    pub(crate) fn hold(&mut self) {
        self.runner.executor.hold = true;
    }

    /// Runs the jobs that were held back.
    pub(crate) fn release(&mut self) {
        self.runner.executor.hold = false;
        std::mem::take(&mut self.runner.executor.held).into_iter().for_each(|(_, work)| work());
        self.process_findings();
    }

    /// The names of the jobs that are held back, including cancelled ones.
    pub(crate) fn held(&self) -> Vec<&str> {
        self.runner.executor.held.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Makes the next job panic.
    pub(crate) fn panic_next_job(&mut self, why: &str) {
        self.runner.executor.panic = Some(why.to_owned());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The file of the models opened lately.
    pub(crate) fn recent_models(&self) -> PathBuf {
        self.state.path().join("recent-models")
    }

    /// The cache of the Hugging Face hub.
    pub(crate) fn hub(&self) -> PathBuf {
        self.state.path().join("hub")
    }

    /// Advances the clock by a second. `share` is the progress of the calibration.
    pub(crate) fn tick(&mut self, share: Option<f64>) {
        let now = self.clock.get() + Duration::from_secs(1);
        self.clock.set(now);
        let total = self.app.model.checkpoint.total_bytes();
        let calibration = share.map(|share| Meter {
            done: (total as f64 * share) as u64,
            total,
            elapsed: Duration::from_millis(250),
            rate: None,
        });
        let (save, diff, outputs) = (None, None, None);
        self.send(Event::Tick { now, calibration, save, diff, outputs });
    }

    pub(crate) fn buffer(&self) -> Buffer {
        let size = self.runner.screen.size().expect("in memory");
        let mut screen = MemoryScreen::new(size.width, size.height);
        let draw = |frame: &mut Frame| ui::draw(frame, &self.runner.app, &self.runner.theme);
        screen.draw(draw).expect("in memory");
        screen.terminal.backend().buffer().clone()
    }

    /// The rows of the screen, without trailing spaces.
    pub(crate) fn rows(&self) -> Vec<String> {
        let buffer = self.buffer();
        (0..buffer.area.height)
            .map(|y| {
                let row: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
                row.replace('\u{a0}', " ").trim_end().to_owned()
            })
            .collect()
    }

    pub(crate) fn screen(&self) -> String {
        self.rows().join("\n")
    }

    pub(crate) fn shows(&self, text: &str) -> bool {
        self.screen().contains(text)
    }

    /// Asserts that the screen shows a text, and prints the screen otherwise.
    pub(crate) fn expect(&self, text: &str) {
        assert!(self.shows(text), "expected {text:?} on the screen:\n{}", self.screen());
    }

    /// Asserts that the screen or a window shows a text, ignoring line breaks.
    pub(crate) fn expect_words(&self, text: &str) {
        let joined = |rows: Vec<String>| {
            let text = rows.join(" ");
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let rows = self.rows();
        let window = rows.iter().filter_map(|row| row.split('│').nth(1).map(str::to_owned));
        let shown = joined(window.collect()).contains(text) || joined(rows).contains(text);
        assert!(shown, "expected {text:?} on the screen:\n{}", self.screen());
    }

    pub(crate) fn expect_not(&self, text: &str) {
        assert!(!self.shows(text), "did not expect {text:?} on the screen:\n{}", self.screen());
    }

    /// The row under the cursor.
    pub(crate) fn cursor_row(&self) -> String {
        let rows = self.rows();
        rows.iter().find(|row| row.starts_with('▌')).cloned().unwrap_or_default()
    }

    /// The rows of the table as text.
    pub(crate) fn table(&self) -> Vec<String> {
        let rows = self.rows();
        let first = 4;
        rows[first..first + self.app.table.visible().len()].to_vec()
    }
}

/// The analyses of these tensors.
pub(crate) fn scan_of(
    checkpoint: &Checkpoint,
    tensors: Vec<TensorId>,
    spec: &AnalysisSpec,
) -> Vec<scan::Finding> {
    let order = scan::Order::new(tensors);
    let found = Mutex::new(Vec::new());
    let report = |finding| found.lock().expect("no panic").push(finding);
    scan::run(checkpoint, spec, &order, Some(1), &Progress::default(), &report)
        .expect("runs to its end");
    found.into_inner().expect("no panic")
}

/// The key with this name. A single character is its own name.
fn key_named(name: &str) -> (KeyCode, KeyModifiers) {
    let code = match name {
        "Space" => KeyCode::Char(' '),
        "Enter" => KeyCode::Enter,
        "Esc" => KeyCode::Esc,
        "Tab" => KeyCode::Tab,
        "BackTab" => KeyCode::BackTab,
        "Backspace" => KeyCode::Backspace,
        "Up" => KeyCode::Up,
        "Down" => KeyCode::Down,
        "Left" => KeyCode::Left,
        "Right" => KeyCode::Right,
        "Home" => KeyCode::Home,
        "End" => KeyCode::End,
        "PageUp" => KeyCode::PageUp,
        "PageDown" => KeyCode::PageDown,
        "F1" => KeyCode::F(1),
        _ => match (name.strip_prefix("Ctrl-"), &name.chars().collect::<Vec<_>>()[..]) {
            (Some(letter), _) => {
                let letter = letter.chars().next().expect("a letter");
                return (KeyCode::Char(letter), KeyModifiers::CONTROL);
            }
            (None, [c]) => KeyCode::Char(*c),
            _ => panic!("no key is called {name}"),
        },
    };
    (code, KeyModifiers::NONE)
}
