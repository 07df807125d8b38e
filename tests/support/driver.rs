//! The inspector without a terminal: keys in, effects carried out to their end at once, the
//! screen as text. No clock, no second thread: the same keys always give the same screen.

use quantscope::app::comparison::comparison;
use quantscope::app::keys::Key;
use quantscope::app::outputs::News;
use quantscope::app::settings::Settings;
use quantscope::app::{self, App, Effect, Event, Meter, Target};
use quantscope::checkpoint::Checkpoint;
use quantscope::job::{Progress, channels, clip, duplicates, element_window, save, scan};
use quantscope::plan::default_calibration;
use quantscope::plan::recipe;
use quantscope::quantization::AnalysisSpec;
use quantscope::tensor::TensorId;
use quantscope::tui::{
    by_quantizer, compare, cost, count, lay_out, measure_outputs, questions, write_recipe,
    write_report,
};
use quantscope::ui::{self, Colours, Theme};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Size};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const TINY_LLAMA: &str = "tests/data/tiny-llama/single/model.safetensors";
pub(crate) const SHARDED: &str = "tests/data/tiny-llama/sharded";
pub(crate) const DEMO: &str = "assets/demo.safetensors";

pub(crate) struct Driver {
    pub app: App,
    pub clipboard: Vec<String>,
    pub quit: bool,
    /// Calibrations are put off while this is set; their effects are kept.
    pub hold: bool,
    pub held: Vec<Effect>,
    pub theme: Theme,
    /// Where relative paths lead.
    pub directory: tempfile::TempDir,
    size: Size,
    now: Duration,
}

impl Driver {
    pub(crate) fn open(path: impl AsRef<Path>) -> Driver {
        let checkpoint = Checkpoint::open(path.as_ref()).expect("opens");
        Driver::of(checkpoint, false)
    }

    /// The moment before anything is calibrated.
    pub(crate) fn open_waiting(path: impl AsRef<Path>) -> Driver {
        let checkpoint = Checkpoint::open(path.as_ref()).expect("opens");
        Driver::of(checkpoint, true)
    }

    pub(crate) fn of(checkpoint: Checkpoint, hold: bool) -> Driver {
        Driver::with(checkpoint, hold, Settings::default())
    }

    /// With a person's own settings, as they stand in a file.
    pub(crate) fn open_with(path: impl AsRef<Path>, settings: &str) -> Driver {
        let checkpoint = Checkpoint::open(path.as_ref()).expect("opens");
        Driver::with(checkpoint, false, Settings::parse(settings).expect("settings"))
    }

    fn with(checkpoint: Checkpoint, hold: bool, settings: Settings) -> Driver {
        let mut driver = Driver {
            app: App::with(Arc::new(checkpoint), settings),
            clipboard: Vec::new(),
            quit: false,
            hold,
            held: Vec::new(),
            theme: Theme::new(Colours::True),
            directory: tempfile::tempdir().expect("a directory"),
            size: Size::new(120, 36),
            now: Duration::ZERO,
        };
        driver.resize(120, 36);
        driver.send(Event::Opened);
        driver
    }

    pub(crate) fn resize(&mut self, width: u16, height: u16) {
        self.size = Size::new(width, height);
        self.look();
    }

    /// Presses keys, written with spaces between: `j`, `Space`, `Enter`, `Ctrl-c`.
    pub(crate) fn press(&mut self, keys: &str) {
        for key in keys.split_whitespace() {
            self.send(Event::Key(key_named(key)));
        }
    }

    pub(crate) fn type_text(&mut self, text: &str) {
        text.chars().for_each(|c| self.send(Event::Key(Key::Char(c))));
    }

    pub(crate) fn click(&mut self, x: u16, y: u16) {
        let hit: Option<Target> = ui::layout::hit(self.size, &self.app, Position::new(x, y));
        if let Some(target) = hit {
            self.send(Event::Click(target));
        }
    }

    /// Moves the mouse there with its button held.
    pub(crate) fn drag(&mut self, x: u16, y: u16) {
        let hit = ui::layout::drag(self.size, &self.app, Position::new(x, y));
        if let Some(target) = hit {
            self.send(Event::Drag(target));
        }
    }

    pub(crate) fn send(&mut self, event: Event) {
        let effects = app::update(&mut self.app, event);
        effects.into_iter().for_each(|effect| self.carry_out(effect));
        self.look();
    }

    fn look(&mut self) {
        let viewport = ui::layout::viewport(self.size, &self.app);
        if viewport != self.app.viewport {
            let effects = app::update(&mut self.app, Event::Resized(viewport));
            effects.into_iter().for_each(|effect| self.carry_out(effect));
        }
    }

    /// Holds back from now on what takes long.
    pub(crate) fn hold(&mut self) {
        self.hold = true;
    }

    /// Carries out what was held back.
    pub(crate) fn release(&mut self) {
        self.hold = false;
        std::mem::take(&mut self.held).into_iter().for_each(|effect| self.carry_out(effect));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn carry_out(&mut self, effect: Effect) {
        let checkpoint = self.app.model.checkpoint.clone();
        match effect {
            Effect::Calibrate { .. } if self.hold => self.held.push(effect),
            Effect::Calibrate { generation, schemes } => {
                let tensors = checkpoint.ids().collect();
                for (tensor, found) in scan_of(
                    &checkpoint,
                    tensors,
                    &questions(schemes, default_calibration(&checkpoint)),
                ) {
                    self.send(Event::Found { generation, tensor, found });
                }
                self.tick(None);
                self.send(Event::CalibrationEnded { generation, meter: Meter::default() });
            }
            Effect::StopCalibration => self.held.clear(),
            Effect::Hurry(_) => {}
            Effect::LayOut(request) => {
                self.send(Event::LaidOut(lay_out(&checkpoint, &request)));
            }
            Effect::Save(mut request) => {
                let out = request.out.clone();
                request.out = self.directory.path().join(&out);
                let (progress, phase) = (Progress::default(), |_| ());
                let mut saved = save::run(&checkpoint, &request, Some(1), &progress, &phase);
                if let Ok(receipt) = &mut saved {
                    receipt.out = out;
                    receipt.elapsed = Duration::from_millis(120);
                }
                self.send(Event::Save(save::News::Finished(Box::new(saved))));
            }
            Effect::CancelSave | Effect::Mouse(_) | Effect::Suspend | Effect::Redraw => {}
            Effect::ReadConfig => {
                let config = checkpoint.config().map(|text| text.map_err(|e| e.to_string()));
                self.send(Event::Config(config));
            }
            Effect::ReadValues(request) => {
                let found = element_window::run(&checkpoint, &request, &Progress::default());
                self.send(Event::Values(request, found.map_err(|error| error.to_string())));
            }
            Effect::Count(tensor) => {
                for (tensor, found) in scan_of(&checkpoint, vec![tensor], &count()) {
                    let counted = found.map_err(|error| error.to_string());
                    let counted = counted.map(|found| found.distribution.expect("asked for"));
                    self.send(Event::Counted(tensor, counted));
                }
            }
            Effect::MeasureClip(_) if self.hold => self.held.push(effect),
            Effect::MeasureClip(request) => {
                let found = clip::run(&checkpoint, &request, Some(1), &Progress::default());
                self.send(Event::Clipped(request, found.map_err(|error| error.to_string())));
            }
            Effect::FindDuplicates(candidates) => {
                let found = duplicates::run(&checkpoint, &candidates, &Progress::default());
                self.send(Event::Duplicates(found.expect("reads")));
            }
            Effect::CompareSchemes(tensor) => {
                let rounding = self.app.model.plan().rounding;
                let questions = comparison(default_calibration(&checkpoint), rounding);
                for (tensor, found) in scan_of(&checkpoint, vec![tensor], &questions) {
                    let outcomes = found.map(|found| found.outcomes);
                    let outcomes = outcomes.map_err(|error| error.to_string());
                    self.send(Event::SchemesCompared(tensor, outcomes));
                }
            }
            Effect::ReadChannels(request) => {
                let found = channels::run(&checkpoint, &request, Some(1), &Progress::default());
                self.send(Event::Channels(request, found.map_err(|error| error.to_string())));
            }
            Effect::Measure(marks) => {
                for (quantizer, tensors) in by_quantizer(marks) {
                    let questions = cost(quantizer, self.app.model.plan().rounding);
                    for (tensor, found) in scan_of(&checkpoint, tensors, &questions) {
                        self.send(Event::Measured { tensor, found });
                    }
                }
            }
            Effect::WriteRecipe { path, text, replace } => {
                let path = self.directory.path().join(path);
                let written = write_recipe(&checkpoint, &path, &text, replace);
                self.send(Event::RecipeWritten(written));
            }
            Effect::WriteReport { path, format, replace } => {
                let path = self.directory.path().join(path);
                let written = write_report(&self.app.report(), &path, format, replace);
                self.send(Event::ReportWritten(written));
            }
            Effect::ReadRecipe(path) => {
                let read = recipe::read(&self.directory.path().join(path), &checkpoint);
                self.send(Event::RecipeRead(read.map_err(|error| error.to_string())));
            }
            Effect::Diff(_) if self.hold => self.held.push(effect),
            Effect::Diff(path) => {
                // Models of the tests first, then what was written on the way.
                let path = if path.exists() { path } else { self.directory.path().join(path) };
                let compared = compare(&checkpoint, &path, Some(1), &Progress::default());
                self.send(Event::Compared(compared));
            }
            Effect::MeasureOutputs(_) if self.hold => self.held.push(effect),
            Effect::MeasureOutputs(files) => {
                for news in outputs_of(&checkpoint, files) {
                    self.send(Event::Outputs(news));
                }
            }
            Effect::StopOutputs => self.held.clear(),
            Effect::CancelDiff => {}
            Effect::Copy(text) => self.clipboard.push(text),
            Effect::Quit => self.quit = true,
        }
    }

    /// A second passes; the calibration is as far as `share` says.
    pub(crate) fn tick(&mut self, share: Option<f64>) {
        self.now += Duration::from_secs(1);
        let total = self.app.model.checkpoint.total_bytes();
        let calibration = share.map(|share| Meter {
            done: (total as f64 * share) as u64,
            total,
            elapsed: Duration::from_millis(250),
            rate: None,
        });
        let (save, diff, outputs) = (None, None, None);
        self.send(Event::Tick { now: self.now, calibration, save, diff, outputs });
    }

    pub(crate) fn buffer(&self) -> Buffer {
        let backend = TestBackend::new(self.size.width, self.size.height);
        let mut terminal = Terminal::new(backend).expect("a backend");
        terminal.draw(|frame| ui::draw(frame, &self.app, &self.theme)).expect("draws");
        terminal.backend().buffer().clone()
    }

    /// The rows of the screen, their ends trimmed.
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

    /// Asserts that the screen shows a text, or shows the screen.
    pub(crate) fn expect(&self, text: &str) {
        assert!(self.shows(text), "expected {text:?} on the screen:\n{}", self.screen());
    }

    /// Asserts that the screen shows a text, wherever its lines are broken: in a window, or
    /// across the whole width.
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

    /// The rows of the table, as they are written.
    pub(crate) fn table(&self) -> Vec<String> {
        let rows = self.rows();
        let first = 4;
        rows[first..first + self.app.table.visible().len()].to_vec()
    }
}

/// What opening these captures and measuring by them tells.
pub(crate) fn outputs_of(checkpoint: &Checkpoint, files: Vec<PathBuf>) -> Vec<News> {
    let told = Mutex::new(Vec::new());
    let tell = |news| told.lock().expect("no panic").push(news);
    measure_outputs(checkpoint, files, Some(1), &Progress::default(), &tell);
    told.into_inner().expect("no panic")
}

/// What is found out about these tensors.
pub(crate) fn scan_of(
    checkpoint: &Checkpoint,
    tensors: Vec<TensorId>,
    questions: &AnalysisSpec,
) -> Vec<scan::Finding> {
    let order = scan::Order::new(tensors);
    let found = Mutex::new(Vec::new());
    let report = |finding| found.lock().expect("no panic").push(finding);
    scan::run(checkpoint, questions, &order, Some(1), &Progress::default(), &report)
        .expect("runs to its end");
    found.into_inner().expect("no panic")
}

fn key_named(name: &str) -> Key {
    match name {
        "Space" => Key::Char(' '),
        "Enter" => Key::Enter,
        "Esc" => Key::Esc,
        "Tab" => Key::Tab,
        "BackTab" => Key::BackTab,
        "Backspace" => Key::Backspace,
        "Up" => Key::Up,
        "Down" => Key::Down,
        "Left" => Key::Left,
        "Right" => Key::Right,
        "Home" => Key::Home,
        "End" => Key::End,
        "PageUp" => Key::PageUp,
        "PageDown" => Key::PageDown,
        _ => match (name.strip_prefix("Ctrl-"), &name.chars().collect::<Vec<_>>()[..]) {
            (Some(letter), _) => Key::Ctrl(letter.chars().next().expect("a letter")),
            (None, [c]) => Key::Char(*c),
            _ => panic!("no key is called {name}"),
        },
    }
}
