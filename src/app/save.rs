//! The save dialogs: what will be written, the progress, and the receipt.

use crate::app::formats::FormatFit;
use crate::app::meter::Meter;
use crate::app::model::{Model, PRESETS};
use crate::app::pager::{Line, Pager};
use crate::app::tensor_metrics::scheme_name;
use crate::checkpoint::Checkpoint;
use crate::export::{OutputComparison, OutputFormat, Receipt, Request, Task};
use crate::plan::target::{Container, LinearScheme};
use crate::plan::{InputQuantization, Plan, RoundingByInputs};
use crate::quantization::{ErrorStatistics, InputRounding, Preset};
use crate::tensor::{FloatType, TensorId};
use crate::text::figures::{bytes, count, counted, decibels, duration};
use crate::text::names;
use std::collections::HashMap;
use std::path::PathBuf;
use tui_input::Input;

/// The kind of output that the dialog writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SaveKind {
    /// The marked tensors quantized, in a container.
    Quantize(Container),
    /// compressed-tensors W8A8 with calibrated scales for the layers' inputs.
    Static,
    /// `None` restores each tensor's original type.
    Dequantize(Option<FloatType>),
}

/// The format that static quantization of inputs is written in.
const W8A8: Container = Container::CompressedTensors(LinearScheme::W8A8);

impl SaveKind {
    /// The container; `None` for floats.
    pub fn container(self) -> Option<Container> {
        match self {
            SaveKind::Quantize(container) => Some(container),
            SaveKind::Static => Some(W8A8),
            SaveKind::Dequantize(_) => None,
        }
    }
}

/// Every kind of output for marks. Static quantization is offered if input scales are known.
fn kinds(model: &Model) -> Vec<SaveKind> {
    let known = !model.input_scales().is_empty();
    let kinds = Container::ALL.into_iter().flat_map(|container| {
        let also = (container == W8A8 && known).then_some(SaveKind::Static);
        std::iter::once(SaveKind::Quantize(container)).chain(also)
    });
    kinds.collect()
}

const FLOAT_CHOICES: [Option<FloatType>; 4] =
    [None, Some(FloatType::F32), Some(FloatType::BF16), Some(FloatType::F16)];

/// The dialog of a save.
#[derive(Clone, Debug)]
pub struct SaveDialog {
    /// What is saved.
    pub kind: SaveKind,
    /// How marks are rounded for recorded inputs; `None` leaves it to the plan.
    pub rounding: Option<InputRounding>,
    /// The typed path.
    pub path: Input,
    /// A preview of the output, or why the save would fail; `None` until it is computed.
    pub preview: Option<Result<SavePreview, Refusal>>,
    /// Why the last attempt failed.
    pub problem: Option<String>,
    /// The directory that has to be created first.
    pub missing: Option<PathBuf>,
    /// The page of the text that is shown where the text is longer than the window. Pages repeat
    /// after the last.
    pub page: isize,
}

/// The files that a save would write.
#[derive(Clone, Debug, PartialEq)]
pub struct SavePreview {
    /// Number of files.
    pub files: usize,
    /// Total bytes of the files.
    pub bytes: u64,
    /// Warnings about the output.
    pub warnings: Vec<String>,
}

/// Why a save would fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The reason, as a sentence.
    pub why: String,
    /// A change of the marks with which it would not fail.
    pub fix: Option<Box<PlanFix>>,
}

/// A change of the marks that a refusal suggests.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanFix {
    /// The plan with the changes.
    pub plan: Plan,
    /// Describes the change: `make all 37 marks per channel`.
    pub what: String,
}

/// An entry of the list of formats or types.
#[derive(Clone, Debug, PartialEq)]
pub struct SaveChoice {
    /// The name in the list.
    pub name: String,
    /// What it is, in a few words.
    pub summary: &'static str,
    /// Whether it is the selected one.
    pub chosen: bool,
    /// Why it does not fit the target or the checkpoint.
    pub obstacle: Option<String>,
}

impl SaveDialog {
    /// Opens the dialog.
    pub fn new(kind: SaveKind, model: &Model) -> SaveDialog {
        let path = Input::new(default_path(kind, model));
        SaveDialog {
            kind,
            rounding: None,
            path,
            preview: None,
            problem: None,
            missing: None,
            page: 0,
        }
    }

    /// The title of the window.
    pub fn title(&self) -> &'static str {
        match self.kind {
            SaveKind::Quantize(_) | SaveKind::Static => "Save the quantized model",
            SaveKind::Dequantize(_) => "Write the float model back",
        }
    }

    /// The formats or types, each with the reason why this model cannot be saved in it, if there is
    /// one. `known` says which formats this checkpoint can be saved in.
    pub fn choices(&self, model: &Model, known: &[FormatFit]) -> Vec<SaveChoice> {
        match self.kind {
            SaveKind::Quantize(_) | SaveKind::Static => {
                let choice = |kind: SaveKind| {
                    let container = kind.container().unwrap_or_default();
                    let (name, summary) = match kind {
                        SaveKind::Static => (
                            format!("{container} static"),
                            "the same, with calibrated input scales",
                        ),
                        _ => (container.to_string(), container.summary()),
                    };
                    let obstacle = obstacle(container, model, known);
                    SaveChoice { name, summary, chosen: kind == self.kind, obstacle }
                };
                kinds(model).into_iter().map(choice).collect()
            }
            SaveKind::Dequantize(chosen) => FLOAT_CHOICES
                .into_iter()
                .map(|to| SaveChoice {
                    name: to.map_or("original".to_owned(), |to| to.dtype().name().to_lowercase()),
                    summary: match to {
                        None => "each tensor in its type from before quantization",
                        Some(FloatType::F32) => "exact: every value is scale × q",
                        Some(FloatType::BF16) => "half the size, range of F32, 8 bits of precision",
                        Some(FloatType::F16) => "half the size, up to ±65504, 11 bits of precision",
                        Some(FloatType::F64) => "",
                    },
                    chosen: to == chosen,
                    obstacle: None,
                })
                .collect(),
        }
    }

    /// Selects the next or the previous format or type. The path follows unless it was edited.
    pub fn step(&mut self, forward: bool, model: &Model) {
        let untouched = self.path.value() == default_path(self.kind, model);
        self.kind = match self.kind {
            kind @ (SaveKind::Quantize(_) | SaveKind::Static) => {
                neighbour(&kinds(model), kind, forward)
            }
            SaveKind::Dequantize(to) => {
                SaveKind::Dequantize(neighbour(&FLOAT_CHOICES, to, forward))
            }
        };
        if untouched {
            self.path = Input::new(default_path(self.kind, model));
        }
    }

    /// The request to save, or why the format cannot be written.
    pub fn request(
        &self,
        model: &Model,
        known: &[FormatFit],
        force: bool,
    ) -> Result<Request, String> {
        let task = match (self.kind, self.kind.container()) {
            (SaveKind::Dequantize(to), _) => Task::Dequantize { to },
            (_, container) => {
                let container = container.unwrap_or_default();
                if let Some(why) = obstacle(container, model, known) {
                    return Err(why);
                }
                let (plan, format) = (self.plan(model), OutputFormat::of(container));
                if let Some(id) = plan.by_inputs.without_inputs() {
                    let name = names::visible(&model.checkpoint.tensor(id).name);
                    return Err(format!(
                        "{name} is to be rounded for recorded inputs, and no open recording has them: open the recording, or round to nearest"
                    ));
                }
                Task::Quantize { plan, format }
            }
        };
        let out = PathBuf::from(self.path.value().trim());
        Ok(Request { task, out, force, copy: Vec::new() })
    }

    /// The change of the marks that makes the save possible, if it is refused and there is one.
    pub fn fix(&self) -> Option<&PlanFix> {
        self.preview.as_ref()?.as_ref().err()?.fix.as_deref()
    }

    /// The marks that will be written. Static quantization needs the scale of a layer's inputs, so
    /// it leaves out marks without one; plans for other formats do not carry such scales.
    fn plan(&self, model: &Model) -> Plan {
        let mut plan = model.plan().clone();
        match self.kind {
            SaveKind::Static => {
                let mut scales = model.input_scales();
                self.left_out(model).into_iter().for_each(|id| plan.unmark(id));
                scales.retain(|&id, _| plan.is_marked(id));
                plan.inputs = InputQuantization::Static(scales);
            }
            SaveKind::Quantize(W8A8) => plan.inputs = InputQuantization::Dynamic,
            SaveKind::Quantize(PRESETS) => {
                self.left_out(model).into_iter().for_each(|id| plan.unmark(id));
                plan = model.with_fp8_inputs(plan);
            }
            _ => {}
        }
        plan.by_inputs = match self.kind {
            SaveKind::Quantize(PRESETS) => model.rounded_by_inputs(&plan, self.rounding),
            _ => RoundingByInputs::default(),
        };
        self.left_as_floats(model).into_iter().for_each(|id| plan.unmark(id));
        let container = self.kind.container().unwrap_or_default();
        if container == Container::Gguf
            && let Some(outputs) = &model.outputs
            && !outputs.importance.is_empty()
        {
            plan.importance = outputs.importance.clone();
        }
        if let Ok(target) = plan.target.clone().with_format(container) {
            plan.target = target;
        }
        plan
    }

    /// Whether the format holds marks that can be rounded for recorded inputs.
    pub fn offers_rounding(&self, model: &Model) -> bool {
        self.kind == SaveKind::Quantize(PRESETS) && model.offers_rounding_by_inputs()
    }

    /// How marks are rounded for recorded inputs.
    pub fn rounding(&self, model: &Model) -> InputRounding {
        self.rounding.unwrap_or_else(|| model.plan().by_inputs.any())
    }

    /// Switches error compensation, or otherwise the search for clips.
    pub fn switch_rounding(&mut self, compensation: bool, model: &Model) {
        let mut rounding = self.rounding(model);
        let switch =
            if compensation { &mut rounding.compensates } else { &mut rounding.searches_clips };
        *switch = !*switch;
        self.rounding = Some(rounding);
    }

    /// Whether marks need scales of inputs that are still being recorded.
    pub fn waits_for_inputs(&self, model: &Model) -> bool {
        let outputs = model.outputs.as_ref();
        let is_waiting = |id| outputs.is_some_and(|outputs| outputs.is_waiting(id));
        self.kind == SaveKind::Static || self.left_out(model).into_iter().any(is_waiting)
    }

    /// Marks of tensors that GGUF makes F16, for a format without that type.
    fn left_as_floats(&self, model: &Model) -> Vec<TensorId> {
        if self.kind.container().is_none_or(|container| container == Container::Gguf) {
            return Vec::new();
        }
        model.plan().iter().map(|(id, _)| id).filter(|&id| model.becomes_f16(id)).collect()
    }

    /// Marks that stay floats because the scale of their layer's inputs is unknown.
    fn left_out(&self, model: &Model) -> Vec<TensorId> {
        match self.kind {
            SaveKind::Quantize(PRESETS) => return model.fp8_without_inputs(),
            SaveKind::Static => {}
            _ => return Vec::new(),
        }
        let scales = model.input_scales();
        let marked = model.plan().iter().map(|(id, _)| id);
        marked.filter(|id| !scales.contains_key(id)).collect()
    }

    /// Summarizes what will be written and its size.
    pub fn summary(&self, model: &Model) -> Vec<String> {
        let checkpoint = &model.checkpoint;
        let (changed, verb) = match self.kind {
            SaveKind::Quantize(Container::FakeQuantized) => {
                (self.plan(model).len(), "rounded and back")
            }
            SaveKind::Quantize(_) | SaveKind::Static => (self.plan(model).len(), "quantized"),
            SaveKind::Dequantize(_) => {
                let quantized =
                    checkpoint.ids().filter(|&id| checkpoint.packed_format(id).is_some());
                (quantized.count(), "converted back to floats")
            }
        };
        let own = match &model.plan().inputs {
            InputQuantization::Static(own) if self.kind == SaveKind::Static => {
                own.keys().filter(|&&id| model.is_marked(id)).count()
            }
            _ => 0,
        };
        let rest = checkpoint.tensors().len() - changed;
        let mut lines = vec![format!(
            "{} {verb}, {} unchanged",
            counted(changed, "tensor"),
            counted(rest, "tensor")
        )];
        let by_inputs = self.plan(model).by_inputs.len();
        if by_inputs > 0 {
            let nearest = counted(changed.saturating_sub(by_inputs), "tensor");
            let rounded = counted(by_inputs, "tensor");
            lines.push(format!("{rounded} rounded for recorded inputs, {nearest} without them"));
        }
        if own > 0 {
            let scales = counted(own, "scale");
            lines.push(format!("{scales} of inputs from the plan, not calibrated again"));
        }
        if let Some(Ok(preview)) = &self.preview {
            let before = model.totals().before;
            lines.push(format!(
                "{} → {} in {}  ({})",
                bytes(before),
                bytes(preview.bytes),
                counted(preview.files, "file"),
                ratio(before, preview.bytes)
            ));
        }
        lines
    }

    /// Warnings that are shown above the output's own.
    pub fn warnings(&self, model: &Model) -> Vec<String> {
        let preview = self.preview.iter().flatten().flat_map(|preview| preview.warnings.clone());
        let mut warnings: Vec<String> = preview.collect();
        if let SaveKind::Dequantize(_) = self.kind {
            return warnings;
        }
        let not_quantized = |ids: &[TensorId], first: TensorId, why: &str| {
            let name = &model.checkpoint.tensor(first).name;
            match ids.len() {
                1 => format!("{name} is not quantized: {why}"),
                n => format!("{n} marks are not quantized, such as {name}: {why}"),
            }
        };
        let left_out = self.left_out(model);
        if let Some(&first) = left_out.first() {
            let outputs = model.outputs.as_ref();
            let why = match outputs.map(|all| (all.is_waiting(first), all.failure(first))) {
                Some((true, _)) => "its input is not calibrated yet",
                Some((_, Some(_))) => "its input could not be read",
                _ => "its input was not recorded",
            };
            warnings.push(not_quantized(&left_out, first, why));
        }
        let left_as_floats = self.left_as_floats(model);
        if let Some(&first) = left_as_floats.first() {
            let why = "no block type divides its rows, and only GGUF stores it as F16";
            warnings.push(not_quantized(&left_as_floats, first, why));
        }
        let overruled: Vec<TensorId> =
            model.plan().iter().map(|(id, _)| id).filter(|&id| !model.quantizable(id)).collect();
        if let Some(&first) = overruled.first() {
            let name = &model.checkpoint.tensor(first).name;
            let why = model.reason(first).map(ToString::to_string).unwrap_or_default();
            warnings.push(match overruled.len() {
                1 => format!("{name}: {why}, usually not quantized"),
                n => format!("{n} marks are usually not quantized, such as {name}: {why}"),
            });
        }
        if model.quality().waiting > 0 {
            let waiting = counted(model.quality().waiting, "marked tensor");
            warnings.push(format!("{waiting} not measured yet: the error is unknown"));
        }
        warnings
    }
}

/// Why a model cannot be saved in a container, regardless of the marks.
fn obstacle(container: Container, model: &Model, known: &[FormatFit]) -> Option<String> {
    if let Err(why) = model.plan().target.clone().with_format(container) {
        return Some(why.to_string());
    }
    let fit = known.iter().find(|fit| fit.container == container)?;
    fit.format.as_ref().err().cloned()
}

/// The size ratio in words, for outputs that shrink and that grow.
pub fn ratio(before: u64, after: u64) -> String {
    match (before, after) {
        (_, 0) => "empty".to_owned(),
        (b, a) if a <= b => format!("{:.2}× smaller", b as f64 / a as f64),
        (0, _) => "larger".to_owned(),
        (b, a) => format!("{:.2}× larger", a as f64 / b as f64),
    }
}

fn neighbour<T: Copy + PartialEq>(all: &[T], now: T, forward: bool) -> T {
    let at = all.iter().position(|&x| x == now).unwrap_or(0);
    let step = if forward { 1 } else { all.len() - 1 };
    all[(at + step) % all.len()]
}

/// The suggested path: in the current directory, because the model may be in a cache.
fn default_path(kind: SaveKind, model: &Model) -> String {
    let checkpoint = &model.checkpoint;
    let format = kind.container().map(OutputFormat::of).unwrap_or_default();
    let (what, ending) = match kind {
        SaveKind::Quantize(Container::CompressedTensors(LinearScheme::Presets)) => {
            (preset_name(model.plan()).to_owned(), None)
        }
        SaveKind::Quantize(Container::CompressedTensors(scheme)) => {
            (scheme.name().to_owned(), format.ending())
        }
        SaveKind::Quantize(Container::Safetensors | Container::Burn) => {
            ("int8".to_owned(), format.ending())
        }
        SaveKind::Quantize(Container::Gguf) => ("Q8_0".to_owned(), format.ending()),
        SaveKind::Quantize(container) => (container.name().to_owned(), format.ending()),
        SaveKind::Static => ("W8A8-static".to_owned(), None),
        SaveKind::Dequantize(None) => ("float".to_owned(), Some("safetensors")),
        SaveKind::Dequantize(Some(to)) => (to.dtype().name().to_lowercase(), Some("safetensors")),
    };
    let name = model_name(checkpoint);
    let is_file = matches!(kind, SaveKind::Quantize(_)) && format.is_file();
    match ending.filter(|_| is_file || checkpoint.shards().len() <= 1) {
        Some(ending) => format!("{name}-{what}.{ending}"),
        None => format!("{name}-{what}"),
    }
}

/// The name of the preset that all marks have, or what to call their mixture.
fn preset_name(plan: &Plan) -> &'static str {
    let mut names = plan.iter().filter_map(|(_, q)| q.scheme.preset()).map(Preset::name);
    match names.next() {
        Some(first) if names.all(|name| name == first) => first,
        Some(_) => "mixed",
        None => LinearScheme::Presets.name(),
    }
}

/// The model's name; the directory's name if the file is called `model`.
pub fn model_name(checkpoint: &Checkpoint) -> String {
    let name = checkpoint.name();
    let endings = [".safetensors", ".gguf", ".bpk", ".pt", ".pth", ".bin", ".npz", ".npy"];
    let stem = endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    let stem =
        stem.strip_suffix(".index.json").map_or(stem, |s| s.trim_end_matches(".safetensors"));
    let directory = checkpoint.directory().and_then(|d| d.file_name()).map(|d| d.to_string_lossy());
    match directory {
        Some(directory) if stem == "model" && !directory.is_empty() => directory.into_owned(),
        _ => match names::on_the_hub(stem) {
            Some(hub) => hub.rsplit('/').next().unwrap_or(&hub).to_owned(),
            None => stem.to_owned(),
        },
    }
}

/// A save that is running.
#[derive(Debug)]
pub struct Saving {
    /// What is saved.
    pub request: Request,
    /// The dialog to return to if the save fails.
    pub dialog: SaveDialog,
    /// The phase that is running.
    pub phase: &'static str,
    /// How far it is.
    pub meter: Meter,
    /// Whether the user asked to end it.
    pub cancelled: bool,
}

/// The text of a receipt. `model` is the model from when the save started.
pub(super) fn receipt(receipt: &Receipt, model: &Model) -> Pager {
    let out = receipt.out.display().to_string();
    let mut lines = vec![
        Line::field("written", out),
        Line::field(
            "size",
            format!(
                "{} → {} in {}",
                bytes(receipt.before),
                bytes(receipt.written),
                counted(receipt.files + receipt.texts + receipt.sidecar_files, "file")
            ),
        ),
    ];
    if !receipt.quantized.is_empty() {
        lines.push(Line::field("quantized", counted(receipt.quantized.len(), "tensor")));
    }
    if receipt.dequantized > 0 {
        lines.push(Line::field("back to float", counted(receipt.dequantized, "tensor")));
    }
    lines.push(Line::field(
        "unchanged",
        format!("{}, byte for byte", counted(receipt.unchanged, "tensor")),
    ));
    if receipt.sidecar_files > 0 {
        let copied = format!("{} of these files", count(receipt.sidecar_files as u64));
        lines.push(Line::field("copied", copied));
    }
    if receipt.resumed > 0 {
        let resumed = format!("{} were already written", bytes(receipt.resumed));
        lines.push(Line::field("resumed", resumed));
    }
    lines.push(Line::field("took", format!("{}, verified", duration(receipt.elapsed))));
    lines.extend(receipt.warnings.iter().map(|warning| Line::field("note", warning.as_str())));
    lines.extend(output_errors(receipt));
    lines.extend(comparison(receipt, model));
    let title = match receipt.dequantized {
        0 => "Saved and verified",
        _ => "Dequantized and verified",
    };
    Pager::new(title, lines)
}

/// Maximum number of tensors listed in a receipt.
const MAX_LISTED_TENSORS: usize = 50;

/// The output errors of the tensors that were rounded for recorded inputs, before and after.
fn output_errors(receipt: &Receipt) -> Vec<Line> {
    let found = receipt.quantized.iter().filter_map(|c| Some((c.tensor.as_str(), c.output?)));
    let mut rows: Vec<(&str, OutputComparison)> = found.collect();
    if rows.is_empty() {
        return Vec::new();
    }
    rows.sort_by(|a, b| b.1.saved_db().total_cmp(&a.1.saved_db()));
    let lower = rows.iter().filter(|(_, output)| output.saved_db() < output.nearest_db).count();
    let mut lines = vec![
        Line::Blank,
        Line::Heading("Output error on the recorded inputs, worst first".to_owned()),
        Line::text(format!(
            "Lower than by rounding to nearest in {lower} of {}. Evaluate the model to know what that means for its answers.",
            counted(rows.len(), "layer")
        )),
        Line::Blank,
        Line::Verbatim(format!("{:>9}  {:>10}  {:>9}  tensor", "saved", "clips only", "nearest")),
    ];
    let db = |db: f64| format!("{db:.1} dB").replace('-', "−");
    for (name, output) in rows.iter().take(MAX_LISTED_TENSORS) {
        let clipped = output.clipped_db.map_or("—".to_owned(), db);
        let (saved, nearest) = (db(output.saved_db()), db(output.nearest_db));
        let name = names::visible(name);
        lines.push(Line::Verbatim(format!("{saved:>9}  {clipped:>10}  {nearest:>9}  {name}")));
    }
    if rows.len() > MAX_LISTED_TENSORS {
        lines.push(Line::text(format!("… and {} more", rows.len() - MAX_LISTED_TENSORS)));
    }
    lines
}

fn comparison(receipt: &Receipt, model: &Model) -> Vec<Line> {
    if receipt.quantized.is_empty() {
        return Vec::new();
    }
    let ids: HashMap<&str, TensorId> = model
        .plan()
        .iter()
        .map(|(id, _)| (model.checkpoint.tensor(id).name.as_str(), id))
        .collect();
    let preview = |name: &str| -> Option<&ErrorStatistics> {
        let id = *ids.get(name)?;
        model.measurement(id).metrics()?.error_of(model.quantizer_of(id))
    };
    let mut rows: Vec<(&str, &ErrorStatistics, Option<&ErrorStatistics>)> = receipt
        .quantized
        .iter()
        .map(|c| (c.tensor.as_str(), &c.on_disk, preview(&c.tensor)))
        .collect();
    rows.sort_by(|a, b| a.1.sqnr_db.total_cmp(&b.1.sqnr_db));
    let compared: Vec<f64> = rows
        .iter()
        .filter_map(|(_, disk, preview)| Some(difference(disk.sqnr_db, preview.as_ref()?.sqnr_db)))
        .collect();
    let largest = compared.iter().copied().fold(0.0, f64::max);
    let rating = match compared.len() {
        0 => "These tensors were not measured before the save.".to_owned(),
        1 if largest < 1e-6 => "On disk, 1 tensor has the error that was previewed.".to_owned(),
        n if largest < 1e-6 => {
            format!("On disk, {} have the error that was previewed.", counted(n, "tensor"))
        }
        n => format!(
            "On disk, the error of {} differs from the preview by at most {largest:.2e} dB.",
            counted(n, "tensor")
        ),
    };
    let mut lines = vec![
        Line::Blank,
        Line::Heading("Weight error on disk, worst first".to_owned()),
        Line::text(rating),
        Line::Blank,
    ];
    lines.push(Line::Verbatim(format!(
        "{:>9}  {:>9}  {:<12}tensor",
        "on disk", "preview", "scheme"
    )));
    for (name, disk, preview) in rows.iter().take(MAX_LISTED_TENSORS) {
        let shown = preview.map_or("—".to_owned(), |p| decibels(p.sqnr_db));
        let scheme = ids.get(name).map_or("".into(), |&id| scheme_name(model.scheme_of(id)));
        let disk = decibels(disk.sqnr_db);
        let name = names::visible(name);
        lines.push(Line::Verbatim(format!("{disk:>9}  {shown:>9}  {scheme:<12}{name}")));
    }
    if rows.len() > MAX_LISTED_TENSORS {
        lines.push(Line::text(format!("… and {} more", rows.len() - MAX_LISTED_TENSORS)));
    }
    lines
}

fn difference(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { (a - b).abs() }
}
