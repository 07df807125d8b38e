//! A target applied to one checkpoint.

use crate::checkpoint::output_axes::CONV1D_ARCHITECTURES;
use crate::checkpoint::{Checkpoint, Result};
use crate::plan::eligibility::{Obstacle, obstacle};
use crate::plan::marks::Plan;
use crate::plan::rules::architecture::Architecture;
use crate::plan::rules::comfyui;
use crate::plan::rules::conversions::ModuleKind;
use crate::plan::rules::eligibility::{Eligibility, Reason};
use crate::plan::rules::linear_names;
use crate::plan::rules::llama_cpp::kept_part;
use crate::plan::rules::loader_limits::{
    Condition, Consequence, LOADER_LIMITS, LoaderLimit, MLX_GROUP,
};
use crate::plan::rules::roles;
use crate::plan::rules::selected::Selected;
use crate::plan::rules::units::{FusionUnits, UnitKind};
use crate::plan::target::Container;
use crate::plan::target::Loader;
use crate::plan::target::Target;
use crate::tensor::TensorId;
use std::collections::BTreeMap;

/// The rules of a target for one checkpoint: eligibility, fusion units, and the review of a plan.
///
/// Created once per target, and cheap to query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetRules {
    target: Target,
    architecture: Architecture,
    units: FusionUnits,
    /// The target's first loader that keeps image encoders in float, if any.
    float_vision: Option<Loader>,
    /// Whether no tensor has the name of a known Linear layer, so that every name is accepted.
    takes_unknown_names: bool,
}

/// The problems of a plan for its target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Review {
    /// Reasons not to save for this target. Each is a sentence that says what to do.
    pub refusals: Vec<String>,
    /// Limits under which the output loads, but not everywhere.
    pub warnings: Vec<String>,
}

impl TargetRules {
    /// Reads the checkpoint's configuration and finds its fusion units. Fails only if the
    /// configuration cannot be read.
    pub fn new(checkpoint: &Checkpoint, target: &Target) -> Result<TargetRules> {
        let linear_only = target.container().holds_linear_only();
        let (architecture, units) = if linear_only {
            (Architecture::of(checkpoint)?, FusionUnits::of(checkpoint))
        } else {
            Default::default()
        };
        let keeps_vision = |loader: &Loader| {
            LoaderLimit::of(*loader).any(|limit| {
                (limit.condition, limit.consequence)
                    == (Condition::VisionPart, Consequence::LeaveFloat)
            })
        };
        let float_vision = target.loaders().iter().copied().find(keeps_vision);
        let target = target.clone();
        let takes_unknown_names = false;
        let mut rules =
            TargetRules { target, architecture, units, float_vision, takes_unknown_names };
        rules.takes_unknown_names =
            linear_only && !checkpoint.ids().any(|id| rules.reason(checkpoint, id).is_none());
        Ok(rules)
    }

    /// The target itself.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The architecture; empty if the target does not depend on it.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The groups of tensors that must share a scheme; empty if the target merges nothing.
    pub fn units(&self) -> &FusionUnits {
        &self.units
    }

    /// Returns whether a tensor is quantized by default, only by its plain name, or never. Only
    /// the headers are read.
    pub fn eligibility(&self, checkpoint: &Checkpoint, id: TensorId) -> Eligibility {
        if self.target.container() == Container::ComfyUi {
            return comfyui::eligibility(checkpoint, id);
        }
        let is_gguf = self.target.container() == Container::Gguf;
        // llama.cpp also quantizes lookup tables, except those with names that it knows.
        let is_table = |found: &Obstacle| is_gguf && *found == Obstacle::Embedding;
        if let Some(obstacle) = obstacle(checkpoint, id).filter(|found| !is_table(found)) {
            let by_name = obstacle.can_be_overruled() && !self.holds_linear_only();
            let reason = Reason::Obstacle(obstacle);
            return if by_name { Eligibility::ByName(reason) } else { Eligibility::Never(reason) };
        }
        let tensor = checkpoint.tensor(id);
        if is_gguf && let Some(part) = kept_part(&tensor.name) {
            return Eligibility::Never(Reason::KeptByLlamaCpp(part));
        }
        if !self.holds_linear_only() {
            return Eligibility::ByDefault;
        }
        let rank = tensor.shape.rank();
        let Some(module) = tensor.name.strip_suffix(".weight") else {
            let is_fused = rank == 3 || roles::is_fused_experts(&tensor.name, rank);
            return Eligibility::Never(if is_fused {
                Reason::FusedExperts
            } else {
                Reason::NotAModuleWeight
            });
        };
        if rank != 2 {
            return Eligibility::Never(Reason::Convolution(rank));
        }
        let container = self.target.container();
        let columns = tensor.shape.row_len();
        if container == Container::Mlx && !columns.is_multiple_of(MLX_GROUP) {
            return Eligibility::Never(Reason::Columns { columns, group: MLX_GROUP });
        }
        let is_expert = self.units.unit_of(id).is_some_and(|unit| unit.kind == UnitKind::Experts);
        if is_expert && matches!(container, Container::Mlx | Container::Torchao) {
            return Eligibility::Never(Reason::JoinedExpert);
        }
        match self.role(module, tensor.shape.channels()) {
            Some(reason @ Reason::Converted) if container == Container::Torchao => {
                Eligibility::Never(reason)
            }
            Some(Reason::TiedHead) => Eligibility::Never(Reason::TiedHead),
            Some(Reason::UnknownName) if self.takes_unknown_names => Eligibility::ByDefault,
            Some(reason) => Eligibility::ByName(reason),
            None => Eligibility::ByDefault,
        }
    }

    /// Returns why a tensor is not quantized by default; `None` if it is.
    pub fn reason(&self, checkpoint: &Checkpoint, id: TensorId) -> Option<Reason> {
        self.eligibility(checkpoint, id).reason().cloned()
    }

    /// Returns why a module is not an ordinary Linear layer. Its weight has two dimensions and
    /// `rows` rows.
    fn role(&self, module: &str, rows: u64) -> Option<Reason> {
        let architecture = &self.architecture;
        if roles::is_router(module) {
            return Some(Reason::Router);
        }
        if roles::is_head(module) {
            let vocabulary =
                !architecture.knows_vocabulary() || architecture.has_vocabulary_of(rows);
            let tied = architecture.ties_head() && vocabulary && roles::is_language_head(module);
            return Some(if tied { Reason::TiedHead } else { Reason::OutputHead });
        }
        if roles::is_multi_token_prediction(module, architecture.layers_before_mtp()) {
            return Some(Reason::MultiTokenPrediction);
        }
        if roles::is_table(module) {
            return Some(Reason::LookupTable);
        }
        let transposed = CONV1D_ARCHITECTURES.iter().any(|m| architecture.is_or_holds(m));
        if transposed && roles::is_conv1d_name(module) {
            return Some(Reason::Conv1d);
        }
        let is_transformers = self.target.container() != Container::Mlx;
        match architecture.exception(module).filter(|_| is_transformers) {
            Some(ModuleKind::Converted | ModuleKind::Renamed) => return Some(Reason::Converted),
            Some(ModuleKind::Other(class)) => return Some(Reason::OtherModule(class)),
            None => {}
        }
        if let Some(loader) = self.float_vision
            && architecture.has_vision_part()
            && roles::is_vision(module)
        {
            return Some(Reason::VisionPart(loader));
        }
        if linear_names::is_linear(module) {
            return None;
        }
        Some(if architecture.has_vocabulary_of(rows) {
            Reason::VocabularyTable(rows)
        } else {
            Reason::UnknownName
        })
    }

    /// Checks a plan against the limits of the target's loaders. If no loader was named, a
    /// refusal becomes a warning that names the loader and its version.
    pub fn review(&self, checkpoint: &Checkpoint, plan: &Plan) -> Review {
        let mut review = Review::default();
        let head_is_reported = self.review_loader_limits(checkpoint, plan, |_| true, &mut review);
        self.review_marks(checkpoint, plan, head_is_reported, &mut review);
        review
    }

    /// Checks a model that is saved already. `plan` has a mark for each quantized tensor.
    /// `is_int8` is whether they are int8, so that the limits of int8 schemes apply.
    pub(crate) fn review_saved(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        is_int8: bool,
    ) -> Review {
        let mut review = Review::default();
        let applies = |limit: &LoaderLimit| is_int8 || !limit.condition.is_of_int8();
        let head_is_reported = self.review_loader_limits(checkpoint, plan, applies, &mut review);
        if !self.holds_linear_only() {
            return review;
        }
        let mut quantized: BTreeMap<String, Vec<TensorId>> = BTreeMap::new();
        for (id, _) in plan.iter() {
            let tensor = checkpoint.tensor(id);
            let is_matrix = tensor.shape.rank() == 2;
            let module = tensor.name.strip_suffix(".weight").filter(|_| is_matrix);
            match module.and_then(|module| self.role(module, tensor.shape.channels())) {
                None | Some(Reason::UnknownName) => {}
                Some(Reason::OutputHead) if head_is_reported => {}
                Some(reason) => quantized.entry(reason.to_string()).or_default().push(id),
            }
        }
        warn_although(checkpoint, quantized, &mut review);
        review
    }

    /// Adds the limits that apply to the review. Returns whether one of them names the output
    /// head.
    fn review_loader_limits(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        applies: impl Fn(&LoaderLimit) -> bool,
        review: &mut Review,
    ) -> bool {
        let container = self.target.container();
        let linear = match container {
            Container::CompressedTensors(scheme) => Some(scheme),
            _ => None,
        };
        let (architecture, units) = (&self.architecture, &self.units);
        let selected = Selected { checkpoint, architecture, units, plan, container, linear };
        let mut head_is_reported = false;
        let mut report = |limit: &LoaderLimit| {
            let sentence = limit.message(&limit.condition.met_by(&selected)?);
            head_is_reported |= limit.condition == Condition::QuantizedHead;
            Some(sentence)
        };
        if self.target.loaders().is_empty() {
            let limits =
                LOADER_LIMITS.iter().filter(|limit| limit.warn_without_target && applies(limit));
            review.warnings.extend(limits.filter_map(&mut report));
        }
        let limits = self.target.loaders().iter().flat_map(|&loader| LoaderLimit::of(loader));
        for limit in limits.filter(|limit| applies(limit)) {
            let Some(sentence) = report(limit) else { continue };
            let sentences = match limit.consequence {
                Consequence::Refuse => &mut review.refusals,
                Consequence::Warn | Consequence::LeaveFloat => &mut review.warnings,
            };
            if !sentences.contains(&sentence) {
                sentences.push(sentence);
            }
        }
        head_is_reported
    }

    /// Refuses marks that the format cannot hold, and warns of those that are not quantized by
    /// default. `head_is_reported` is whether a limit has named the output head already.
    fn review_marks(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        head_is_reported: bool,
        review: &mut Review,
    ) {
        let is_comfyui = self.target.container() == Container::ComfyUi;
        if !self.holds_linear_only() && !is_comfyui {
            return;
        }
        let mut by_name: BTreeMap<String, Vec<TensorId>> = BTreeMap::new();
        for (id, _) in plan.iter() {
            match self.eligibility(checkpoint, id) {
                Eligibility::ByDefault => {}
                Eligibility::ByName(Reason::OutputHead) if head_is_reported => {}
                Eligibility::ByName(reason) => {
                    by_name.entry(reason.to_string()).or_default().push(id);
                }
                Eligibility::Never(reason) => {
                    let name = checkpoint.tensor(id).name.escape_debug();
                    review.refusals.push(format!(
                        "tensor '{name}' cannot be int8 in {}: {reason}; leave it out, or choose the format safetensors",
                        self.target.container().name()
                    ));
                }
            }
        }
        warn_although(checkpoint, by_name, review);
        if is_comfyui || plan.is_empty() {
            return;
        }
        if self.takes_unknown_names {
            review.warnings.push(
                "no tensor has the name of a known Linear layer: all matrices are taken for Linear layers".to_owned(),
            );
        } else if !self.architecture.is_known() {
            let name = match self.architecture.name() {
                Some(name) => format!("the architecture '{}'", name.escape_debug()),
                None => "an architecture that config.json does not name".to_owned(),
            };
            review.warnings.push(format!(
                "{name} is not one that quantscope knows: its Linear layers were found by their names alone"
            ));
        }
    }

    pub(crate) fn holds_linear_only(&self) -> bool {
        self.target.container().holds_linear_only()
    }
}

/// Adds one warning for each reason why tensors are not quantized by default.
fn warn_although(
    checkpoint: &Checkpoint,
    quantized: BTreeMap<String, Vec<TensorId>>,
    review: &mut Review,
) {
    for (reason, ids) in quantized {
        let subject = counted_names(checkpoint, &ids);
        review.warnings.push(format!("{subject} quantized although {reason}"));
    }
}

/// `tensor 'a' is`, or `tensor 'a' and 3 more are`.
fn counted_names(checkpoint: &Checkpoint, ids: &[TensorId]) -> String {
    let first = ids.first().map_or("", |&id| &*checkpoint.tensor(id).name).escape_debug();
    match ids.len() {
        0 | 1 => format!("tensor '{first}' is"),
        n => format!("tensor '{first}' and {} more are", n - 1),
    }
}
