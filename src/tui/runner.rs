//! Carries out effects. Only this part of the inspector reads files, runs jobs or draws.

use crate::app::picker::{ModelChoice, Picker};
use crate::app::{App, Effect, Event, NotWritten, names, outputs};
use crate::checkpoint::{Checkpoint, find_models};
use crate::export::{KnownScales, LoadCheck, Request, Survey};
use crate::job::{Executor, PendingJob, channels, clip, duplicates, element_window, save, scan};
use crate::plan::rules::TargetRules;
use crate::plan::target::Loader;
use crate::plan::{default_calibration, recipe};
use crate::quantization::{Analysis, AnalysisSpec, Quantizer, ScaleStorage};
use crate::report::Format;
use crate::tensor::TensorId;
use crate::tui::completion::complete;
use crate::tui::files::{preview_save, resolve, write_recipe, write_report};
use crate::tui::jobs::{Jobs, RunningCalibration, RunningMarks, RunningSave, Timed, TimedQuery};
use crate::tui::log::Log;
use crate::tui::measurements::{
    calibration_spec, compare, group_by_quantizer, histogram_spec, measure_outputs,
};
use crate::tui::options::Options;
use crate::tui::query::{QueryKind, query};
use crate::tui::screen::Screen;
use crate::tui::{input, recent, session};
use crate::ui::Theme;
use crate::{app, demo, ui};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The time since the program started.
pub type Clock = Box<dyn Fn() -> Duration>;

/// The application with its screen and its jobs: takes events, carries out effects.
///
/// Generic over the screen and over where jobs run. Production uses the terminal and threads;
/// tests use a screen in memory and run each job where it is started.
pub struct Runner<S, E> {
    /// The state of the inspector.
    pub app: App,
    /// The colours that it is drawn with.
    pub theme: Theme,
    /// What it is drawn on.
    pub screen: S,
    /// What runs its background jobs.
    pub executor: E,
    pub(super) options: Options,
    pub(super) jobs: Jobs,
    pub(super) log: Log,
    clock: Clock,
    quit: bool,
    /// Models that were open before, most recent first.
    opened: Vec<PathBuf>,
}

/// The result of [`Runner::collect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected {
    /// No event was there.
    Nothing,
    /// Findings that can be drawn with the next frame.
    Findings,
    /// The end of a job or an answer to the user, which should be drawn immediately.
    Results,
}

impl<S: Screen, E: Executor> Runner<S, E> {
    /// Opens the inspector on a checkpoint. Nothing runs before [`Runner::start`].
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        options: Options,
        theme: Theme,
        screen: S,
        executor: E,
        clock: Clock,
    ) -> Runner<S, E> {
        let mut app = App::with(checkpoint, options.settings.clone());
        app.activations.clone_from(&options.activations);
        if let Some(path) = &options.session {
            session::restore(&mut app, path);
        }
        let (jobs, log) = (Jobs::default(), Log::default());
        let opened = Vec::new();
        Runner { app, theme, screen, executor, options, jobs, log, clock, quit: false, opened }
    }

    /// Draws the first frame and starts the first jobs.
    pub fn start(&mut self) -> io::Result<()> {
        self.note_opened();
        self.update_viewport()?;
        let effects = self.update(Event::Opened);
        // Drawn first, so that starting the jobs does not delay the first frame.
        self.draw()?;
        self.carry_out_all(effects)
    }

    /// Whether the user has left.
    pub fn has_quit(&self) -> bool {
        self.quit
    }

    /// Whether a job is running.
    pub fn is_busy(&self) -> bool {
        self.jobs.are_running()
    }

    /// Lays the application out for the screen's size and draws it.
    pub fn draw_frame(&mut self) -> io::Result<()> {
        self.update_viewport()?;
        self.draw()
    }

    fn draw(&mut self) -> io::Result<()> {
        let (app, theme) = (&self.app, &self.theme);
        self.screen.draw(|frame| ui::draw(frame, app, theme))
    }

    /// Tells the application how much of each list fits on the screen.
    pub fn update_viewport(&mut self) -> io::Result<()> {
        let viewport = ui::layout::viewport(self.screen.size()?, &self.app);
        if viewport != self.app.viewport {
            self.handle(Event::Resized(viewport))?;
        }
        Ok(())
    }

    /// Handles an event of the terminal: a key, the mouse or pasted text.
    pub fn handle_input(&mut self, event: crossterm::event::Event) -> io::Result<()> {
        match input::translate(event, &self.app, self.screen.size()?) {
            Some(event) => self.handle(event),
            None => Ok(()),
        }
    }

    /// Updates the application with an event and carries out the effects.
    pub fn handle(&mut self, event: Event) -> io::Result<()> {
        let effects = self.update(event);
        self.carry_out_all(effects)
    }

    /// Handles the findings of jobs since the last call.
    pub fn collect(&mut self) -> io::Result<Collected> {
        let polled = self.jobs.poll((self.clock)());
        let found = !polled.events.is_empty();
        for event in polled.events {
            self.handle(event)?;
        }
        Ok(match (polled.job_ended, found) {
            (true, _) => Collected::Results,
            (false, true) if self.jobs.calibration.is_none() => Collected::Results,
            (false, true) => Collected::Findings,
            (false, false) => Collected::Nothing,
        })
    }

    /// Passes the progress of the jobs to the application.
    pub fn tick(&mut self) -> io::Result<()> {
        let tick = self.jobs.tick((self.clock)());
        self.handle(tick)
    }

    fn update(&mut self, event: Event) -> Vec<Effect> {
        self.log.write((self.clock)(), "event", &event);
        app::update(&mut self.app, event)
    }

    fn carry_out_all(&mut self, effects: Vec<Effect>) -> io::Result<()> {
        for effect in effects {
            self.log.write((self.clock)(), "effect", &effect);
            self.carry_out(effect)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> io::Result<()> {
        match effect {
            Effect::Calibrate { generation, schemes, shared_absmax } => {
                let usual = default_calibration(self.checkpoint());
                let scale_storage = self.app.model.scale_storage();
                let spec = calibration_spec(&schemes, usual, scale_storage);
                let spec = AnalysisSpec { shared_absmax, ..spec };
                self.calibrate(generation, spec)?;
            }
            Effect::StopCalibration => self.jobs.calibration = None,
            Effect::Prioritize(tensors) => {
                if let Some(calibration) = &self.jobs.calibration {
                    calibration.order.prioritize(tensors);
                }
            }
            Effect::PreviewSave(request) => {
                let preview = preview_save(self.checkpoint(), &request);
                self.handle(Event::SavePreviewed(preview))?;
            }
            Effect::ReviewFormats => {
                let formats = app::formats::review(self.checkpoint());
                self.handle(Event::FormatsReviewed(formats))?;
            }
            Effect::ReadRules(target) => {
                let rules = TargetRules::new(self.checkpoint(), &target);
                let rules = rules.map_err(|error| error.to_string());
                self.handle(Event::RulesRead(target, rules))?;
            }
            Effect::Save(request) => self.save(request)?,
            Effect::CancelSave => {
                if let Some(running) = &self.jobs.save {
                    running.save.job.cancel();
                }
            }
            Effect::ReadConfig => {
                let config = self.checkpoint().config();
                let config = config.map(|text| text.map_err(|error| error.to_string()));
                self.handle(Event::Config(config))?;
            }
            Effect::ReadValues(request) => self.read_values(request)?,
            Effect::BuildHistogram(tensor) => self.count(tensor)?,
            Effect::MeasureClip(request) => self.measure_clip(request)?,
            Effect::CompareSchemes(tensor, spec) => self.compare_schemes(tensor, spec)?,
            Effect::ReadChannels(request) => self.read_channels(request)?,
            Effect::FindDuplicates(candidates) => self.find_duplicates(candidates)?,
            Effect::MeasureMarks(marks, storage) => self.measure_marks(marks, storage),
            Effect::CheckSaved(out, loaders) => self.check_saved(out, loaders)?,
            Effect::FindModels => self.find_models()?,
            Effect::OpenModel(path) => self.open_model(&path)?,
            Effect::CompletePath(text) => {
                let completion = complete(&text, &self.options.directory);
                self.handle(Event::PathCompleted(text, completion))?;
            }
            Effect::CreateDirectory(path) => {
                let created = std::fs::create_dir_all(&path).map_err(|error| error.to_string());
                self.handle(Event::DirectoryCreated(path, created))?;
            }
            Effect::WriteRecipe { path, text, replace } => {
                let path = self.resolve(&path);
                let written = write_recipe(self.checkpoint(), &path, &text, replace);
                self.handle(Event::RecipeWritten(written))?;
            }
            Effect::ReadRecipe(path) => {
                let read = recipe::read(&self.resolve(&path), self.checkpoint());
                self.handle(Event::RecipeRead(read.map_err(|error| error.to_string())))?;
            }
            Effect::WriteReport { path, format, replace } => {
                self.write_report(&path, format, replace)?;
            }
            Effect::Diff(path) => self.diff(&path)?,
            Effect::CancelDiff => self.jobs.cancel_query(QueryKind::Diff),
            Effect::MeasureOutputs(files) => self.measure_outputs(&files)?,
            Effect::StopOutputs => self.jobs.outputs = None,
            Effect::Copy(text) => self.screen.copy(&text)?,
            Effect::Mouse(capture) => self.screen.capture_mouse(capture)?,
            Effect::Suspend => self.screen.suspend()?,
            Effect::Redraw => self.screen.invalidate()?,
            Effect::Quit => self.quit = true,
        }
        Ok(())
    }

    /// Checks whether a model that was saved will load.
    fn check_saved(&mut self, out: PathBuf, loaders: Vec<Loader>) -> io::Result<()> {
        let saved = self.resolve(&out);
        let job = PendingJob::new("check", Arc::default(), move |_, sender| {
            let checked = Checkpoint::open(&saved)
                .and_then(|checkpoint| LoadCheck::new(&checkpoint, &loaders))
                .map_err(|error| error.to_string());
            let _ = sender.send(checked);
        });
        self.ask(QueryKind::LoadCheck, job, move |checked| {
            Some(Event::SavedChecked(out.clone(), checked.and_then(|checked| checked)))
        })
    }

    /// Records the model that is open for later runs.
    fn note_opened(&self) {
        let model = reopening_path(self.checkpoint());
        if let Some(file) = &self.options.recent
            && model.as_os_str() != demo::WORD
        {
            // A list that cannot be kept must not keep the user from the model.
            let _ = recent::add(file, &model);
        }
    }

    /// Lists the models that can be opened: those opened before, then those that are found.
    fn find_models(&mut self) -> io::Result<()> {
        let now = reopening_path(self.checkpoint());
        let mut recent = self.opened.clone();
        let kept = self.options.recent.as_deref().map(recent::load).unwrap_or_default();
        let is_there = |path: &Path| path.exists() || path.to_string_lossy().contains("://");
        for model in kept.into_iter().filter(|model| *model != now && is_there(model)) {
            if !recent.contains(&model) {
                recent.push(model);
            }
        }
        let root = if self.options.directory.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            self.options.directory.clone()
        };
        let hub = self.options.hub.clone();
        let job = PendingJob::new("models", Arc::default(), move |_, sender| {
            let hub = hub.filter(|cache| cache.is_dir());
            let models = hub.as_deref().map(|cache| (cache, find_models(cache)));
            let found = Picker::new(&root, find_models(&root), models).choices;
            let mut choices: Vec<ModelChoice> =
                recent.iter().map(|path| recent_choice(path)).collect();
            choices.extend(found.into_iter().filter(|choice| !recent.contains(&choice.path)));
            let _ = sender.send(choices);
        });
        self.ask(QueryKind::Models, job, |found: Result<Vec<ModelChoice>, String>| {
            Some(Event::ModelsFound(found.unwrap_or_default()))
        })
    }

    /// Saves the session of the current model, and replaces the model with another one.
    fn open_model(&mut self, path: &Path) -> io::Result<()> {
        let resolved = self.resolve(path);
        let checkpoint = match demo::open_model(&resolved) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                let mut why = error.to_string();
                if let Ok(Some(_)) = Survey::read(&resolved, None) {
                    why += &format!("; `quantscope {}` watches them", path.display());
                }
                return self.handle(Event::OpenFailed(path.to_owned(), why));
            }
        };
        if let Some(path) = &self.options.session {
            // Failing to save the session must not prevent opening the other model.
            let _ = session::keep(&self.app, path);
            self.options.session = session::path_of(&resolved);
        }
        let before = reopening_path(self.checkpoint());
        self.opened.retain(|other| *other != before && *other != resolved);
        self.opened.insert(0, before);
        self.jobs = Jobs::default();
        let mut app = App::with(Arc::new(checkpoint), self.app.settings.clone());
        app.carry_over(&mut self.app);
        if let Some(path) = &self.options.session {
            session::restore(&mut app, path);
        }
        self.app = app;
        self.note_opened();
        self.update_viewport()?;
        self.handle(Event::Opened)
    }

    fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.app.model.checkpoint
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        resolve(path, &self.options.directory)
    }

    /// Starts a job, and records its start time.
    fn begin<T: Send + 'static>(&mut self, job: PendingJob<T>) -> io::Result<Timed<T>> {
        let started = (self.clock)();
        let job = job.start_on(&mut self.executor)?;
        Ok(Timed { job, started })
    }

    /// Starts a query. Replaces a running query of the same kind.
    fn ask<T: Send + 'static>(
        &mut self,
        kind: QueryKind,
        job: PendingJob<T>,
        to_event: impl Fn(Result<T, String>) -> Option<Event> + 'static,
    ) -> io::Result<()> {
        self.jobs.cancel_query(kind);
        match self.begin(job) {
            Ok(Timed { job, started }) => {
                let query = query(job, to_event);
                self.jobs.queries.push(TimedQuery { kind, query, started });
            }
            Err(error) => {
                if let Some(event) = to_event(Err(error.to_string())) {
                    self.handle(event)?;
                }
            }
        }
        Ok(())
    }

    /// A scan of a few tensors without the cache.
    fn scan(&self, tensors: Vec<TensorId>, spec: AnalysisSpec) -> PendingJob<scan::Finding> {
        let order = Arc::new(scan::Order::new(tensors));
        scan::prepare(self.checkpoint().clone(), spec, order, self.options.threads, None)
    }

    fn calibrate(&mut self, generation: u64, spec: AnalysisSpec) -> io::Result<()> {
        let checkpoint = self.checkpoint().clone();
        let order = Arc::new(scan::Order::new(checkpoint.ids().collect()));
        let Options { threads, cache, .. } = &self.options;
        let job = scan::prepare(checkpoint, spec, order.clone(), *threads, cache.clone());
        match self.begin(job) {
            Ok(scan) => {
                self.jobs.calibration = Some(RunningCalibration { generation, order, scan });
                Ok(())
            }
            Err(error) => {
                self.handle(Event::CalibrationFailed { generation, why: error.to_string() })
            }
        }
    }

    fn measure_marks(&mut self, marks: Vec<(TensorId, Quantizer)>, scale_storage: ScaleStorage) {
        for (quantizer, tensors) in group_by_quantizer(marks) {
            let rounding = self.app.model.plan().rounding;
            let spec =
                AnalysisSpec { scale_storage, ..AnalysisSpec::errors(vec![quantizer], rounding) };
            let job = self.scan(tensors, spec);
            let started = self.begin(job);
            let marks = started.map(|timed| RunningMarks { scale_storage, scan: timed.job });
            self.jobs.mark_errors.extend(marks.ok());
        }
    }

    fn save(&mut self, mut request: Request) -> io::Result<()> {
        let out = request.out.clone();
        request.out = self.resolve(&out);
        let job = save::prepare(
            self.checkpoint().clone(),
            request,
            KnownScales::new(),
            None,
            self.options.threads,
        );
        match self.begin(job) {
            Ok(save) => {
                self.jobs.save = Some(RunningSave { out, save });
                Ok(())
            }
            Err(error) => self.handle(Event::SaveFailed(error.to_string())),
        }
    }

    fn read_values(&mut self, request: element_window::Request) -> io::Result<()> {
        let (checkpoint, wanted) = (self.checkpoint().clone(), request.clone());
        let job = PendingJob::new("values", Arc::default(), move |progress, sender| {
            let _ = sender.send(element_window::run(&checkpoint, &wanted, progress));
        });
        self.ask(QueryKind::Values, job, move |found| {
            Some(Event::Values(request.clone(), flatten(found)))
        })
    }

    fn count(&mut self, tensor: TensorId) -> io::Result<()> {
        let job = self.scan(vec![tensor], histogram_spec());
        self.ask(QueryKind::Histogram, job, move |found| {
            let histogram = analysis_of(found).and_then(|analysis| {
                analysis.histogram.ok_or_else(|| "the tensor has no elements".to_owned())
            });
            Some(Event::HistogramBuilt(tensor, histogram))
        })
    }

    fn measure_clip(&mut self, request: clip::Request) -> io::Result<()> {
        let job = clip::prepare(self.checkpoint().clone(), request, self.options.threads);
        self.ask(QueryKind::Clip, job, move |found| {
            Some(Event::ClipMeasured(request, flatten(found)))
        })
    }

    fn compare_schemes(&mut self, tensor: TensorId, spec: AnalysisSpec) -> io::Result<()> {
        let job = self.scan(vec![tensor], spec);
        self.ask(QueryKind::Schemes, job, move |found| {
            let outcomes = analysis_of(found).map(|analysis| analysis.outcomes);
            Some(Event::SchemesCompared(tensor, outcomes))
        })
    }

    fn read_channels(&mut self, request: channels::Request) -> io::Result<()> {
        let (checkpoint, wanted) = (self.checkpoint().clone(), request.clone());
        let threads = self.options.threads;
        let job = PendingJob::new("channels", Arc::default(), move |progress, sender| {
            let _ = sender.send(channels::run(&checkpoint, &wanted, threads, progress));
        });
        self.ask(QueryKind::Channels, job, move |found| {
            Some(Event::Channels(request.clone(), flatten(found)))
        })
    }

    fn find_duplicates(&mut self, candidates: duplicates::Candidates) -> io::Result<()> {
        let checkpoint = self.checkpoint().clone();
        let job = PendingJob::new("duplicates", Arc::default(), move |progress, sender| {
            let _ = sender.send(duplicates::run(&checkpoint, &candidates, progress));
        });
        // Unreadable tensors are already marked in their rows.
        self.ask(QueryKind::Duplicates, job, |found| {
            found.ok().and_then(Result::ok).map(Event::Duplicates)
        })
    }

    fn write_report(&mut self, path: &Path, format: Format, replace: bool) -> io::Result<()> {
        let (report, path) = (self.app.report(), self.resolve(path));
        let job = PendingJob::new("report", Arc::default(), move |_, sender| {
            let _ = sender.send(write_report(&report, &path, format, replace));
        });
        self.ask(QueryKind::Report, job, |written| {
            let failed = |why| Err(NotWritten::Failed(why));
            Some(Event::ReportWritten(written.unwrap_or_else(failed)))
        })
    }

    fn diff(&mut self, path: &Path) -> io::Result<()> {
        let (checkpoint, threads) = (self.checkpoint().clone(), self.options.threads);
        let path = self.resolve(path);
        let job = PendingJob::new("diff", Arc::default(), move |progress, sender| {
            let _ = sender.send(compare(&checkpoint, &path, threads, progress));
        });
        self.ask(QueryKind::Diff, job, |compared| {
            Some(Event::Compared(compared.and_then(|compared| compared)))
        })
    }

    fn measure_outputs(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let (checkpoint, threads) = (self.checkpoint().clone(), self.options.threads);
        let files: Vec<PathBuf> = files.iter().map(|path| self.resolve(path)).collect();
        let scale_storage = self.app.model.scale_storage();
        let job = PendingJob::new("outputs", Arc::default(), move |progress, sender| {
            let report = |news| _ = sender.send(news);
            measure_outputs(&checkpoint, files, scale_storage, threads, progress, &report);
        });
        match self.begin(job) {
            Ok(outputs) => {
                self.jobs.outputs = Some(outputs);
                Ok(())
            }
            Err(error) => {
                self.handle(Event::Outputs(outputs::OutputsEvent::Ended(Err(error.to_string()))))
            }
        }
    }
}

/// Returns the absolute path or address that opens a checkpoint again.
fn reopening_path(checkpoint: &Checkpoint) -> PathBuf {
    let path = checkpoint.path();
    let is_url = path.to_string_lossy().contains("://");
    match (demo::is(checkpoint), std::path::absolute(path)) {
        (true, _) => PathBuf::from(demo::WORD),
        (false, Ok(absolute)) if !is_url => absolute,
        _ => path.to_owned(),
    }
}

/// The entry of a recently opened model in the list of models.
fn recent_choice(path: &Path) -> ModelChoice {
    let last = path.file_name().map(|name| name.to_string_lossy());
    let name = match last.and_then(|name| names::on_the_hub(&name)) {
        Some(hub) => names::visible(&hub).into_owned(),
        None => names::visible(&path.to_string_lossy()).into_owned(),
    };
    ModelChoice { path: path.to_owned(), name, place: "opened before", known: None }
}

/// Merges the two kinds of errors into one message.
fn flatten<T, E: std::fmt::Display>(answer: Result<Result<T, E>, String>) -> Result<T, String> {
    answer.and_then(|found| found.map_err(|error| error.to_string()))
}

/// The analysis that a scan of one tensor found.
fn analysis_of(found: Result<scan::Finding, String>) -> Result<Analysis, String> {
    flatten(found.map(|(_, analysis)| analysis))
}
