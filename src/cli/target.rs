//! `--for`, `--format` and `--scheme`: the loaders, the format and the scheme of an output.

use crate::checkpoint::{Checkpoint, Format};
use crate::cli::error::{Error, UsageError};
use crate::cli::options::SchemeArgs;
use crate::export::{OutputFormat, WeightLayout};
use crate::plan::gguf_mix::GgufMix;
use crate::plan::rules::TargetRules;
use crate::plan::target::{Container, LinearScheme, Loader, Target, TargetError};
use crate::plan::{PRESET_SCHEMES, Selection};
use crate::quantization::{Preset, QuantizationScheme, ScaleStorage};
use crate::tensor::{BlockType, TensorId, TensorInfo};
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use std::path::Path;

/// The loaders.
#[derive(Debug, Args)]
pub(super) struct ForArgs {
    /// The program that is to load the output, or several separated by commas. It decides the
    /// format, the schemes, and which tensors are quantized by default; what it cannot load is
    /// refused before anything is written
    #[arg(long = "for", value_name = "LOADER", value_delimiter = ',', value_parser = loader())]
    pub loaders: Vec<Loader>,
}

impl ForArgs {
    /// The target of these loaders for a checkpoint; the default target if there are none.
    pub(super) fn target(&self, checkpoint: &Checkpoint) -> Result<Target, Error> {
        let target = Target::for_loaders(&self.loaders, checkpoint.format());
        target.map_err(|why| unfit(checkpoint, why))
    }
}

/// The loaders and the format that figures, sizes and eligibility are for.
#[derive(Debug, Args)]
pub(super) struct MeasuredForArgs {
    /// The program that is to load a quantized model, or several separated by commas. Figures
    /// are those of scales as its format stores them, sizes count all that the format stores,
    /// and only what it can load is quantizable. The default scheme is that of its format
    #[arg(long = "for", value_name = "LOADER", value_delimiter = ',', value_parser = loader())]
    loaders: Vec<Loader>,
    /// The format that figures and sizes are for; if not given, that of --for, else safetensors,
    /// and GGUF for a GGUF
    #[arg(long, value_name = "FORMAT", value_parser = format())]
    format: Option<FormatName>,
}

impl MeasuredForArgs {
    /// Whether a loader or a format was named.
    pub(super) fn is_given(&self) -> bool {
        !self.loaders.is_empty() || self.format.is_some()
    }

    /// Resolves the target for a checkpoint. The scheme is the first of `schemes`, or the one of
    /// `--scheme`, or the default of the format.
    pub(super) fn resolve(
        &self,
        checkpoint: &Checkpoint,
        selection: &Selection,
        scheme: &SchemeArgs,
        schemes: &[QuantizationScheme],
    ) -> Result<MeasuredFor, Error> {
        let refuse = |why: TargetError| unfit(checkpoint, why);
        let named = schemes.first().copied().or(scheme.given());
        let mut target = Target::for_loaders(&self.loaders, checkpoint.format()).map_err(refuse)?;
        if !self.is_given() {
            let container = target.container_from(checkpoint.format());
            let holds_all = named.iter().chain(schemes).all(|&scheme| container.can_store(scheme));
            if container != Container::Gguf || !holds_all {
                let scheme = named.unwrap_or_else(|| scheme.scheme(checkpoint));
                return Ok(MeasuredFor { rules: TargetRules::default(), scheme });
            }
            target = Target::format(container);
        }
        if let Some(format) = self.format {
            target = target.with_format(format.container).map_err(refuse)?;
        }
        if let Some(scheme) = named {
            target = target.for_scheme(scheme);
        }
        let container = target.container();
        let stores =
            |s: &&QuantizationScheme| target.clone().for_scheme(**s).container().can_store(**s);
        if let Some(scheme) = named.iter().chain(schemes).find(|s| !stores(s)) {
            let (scheme, format) = (scheme.to_string(), container.name());
            return Err(refuse(TargetError::CannotStore { scheme, format }));
        }
        if let Some(why) = OutputFormat::of(container).unfit(checkpoint) {
            return Err(UsageError::options(checkpoint.path(), why).into());
        }
        let rules = TargetRules::new(checkpoint, &target)?;
        // If the user leaves the block size to the model, the tensors to quantize determine it.
        let by_default = || {
            let tensors = selection.resolve_for(checkpoint, &rules).unwrap_or_default();
            OutputFormat::of(container).default_scheme(checkpoint, tensors)
        };
        let groups = Container::CompressedTensors(LinearScheme::W8A16);
        let scheme = match named {
            Some(_) if schemes.is_empty() && scheme.fits_rows() && container == groups => {
                by_default()
            }
            Some(scheme) => scheme,
            None => by_default(),
        };
        Ok(MeasuredFor { rules, scheme })
    }
}

/// The target and the scheme that figures, sizes and eligibility are for.
pub(super) struct MeasuredFor {
    pub rules: TargetRules,
    /// The scheme that is measured first.
    pub scheme: QuantizationScheme,
}

impl MeasuredFor {
    /// A scheme without a target.
    pub(super) fn scheme(scheme: QuantizationScheme) -> MeasuredFor {
        MeasuredFor { rules: TargetRules::default(), scheme }
    }

    pub(super) fn container(&self) -> Container {
        self.rules.target().container()
    }

    /// The format with the scheme of compressed-tensors that `scheme` belongs to.
    pub(super) fn container_of(&self, scheme: QuantizationScheme) -> Container {
        self.rules.target().clone().for_scheme(scheme).container()
    }

    pub(super) fn scale_storage(&self) -> ScaleStorage {
        self.container().scale_storage()
    }

    /// Why a tensor is not quantized by default; `None` if it is.
    pub(super) fn reason(&self, checkpoint: &Checkpoint, id: TensorId) -> Option<String> {
        let reason = self.rules.reason(checkpoint, id).map(|reason| reason.to_string());
        reason.or_else(|| self.scheme_obstacle(checkpoint.tensor(id)))
    }

    /// Why a tensor cannot have the scheme in the format, if it cannot.
    pub(super) fn scheme_obstacle(&self, tensor: &TensorInfo) -> Option<String> {
        self.container().scheme_obstacle(self.scheme, &tensor.shape)
    }
}

/// The loaders, the format and the scheme of an output.
#[derive(Debug, Args)]
pub(super) struct TargetArgs {
    #[command(flatten)]
    pub loaders: ForArgs,
    /// The format to write; if not given, that of --for, else safetensors
    #[arg(long, value_name = "FORMAT", value_parser = format())]
    format: Option<FormatName>,
    /// Which elements share a scale, or one of compressed-tensors' schemes: W8A8 is int8
    /// weights and inputs, W8A16 int8 weights only, W4A16 and W4A16_ASYM int4 weights (W4A16:64:
    /// in groups of 64), FP8_DYNAMIC and FP8_BLOCK FP8, FP8 the same with recorded
    /// scales of inputs, NVFP4A16 and MXFP4A16 FP4, MXFP8A16 FP8
    /// with scales of powers of two. For ComfyUI also FP8 and NVFP4_COMFYUI. If not given: W8A8 for
    /// compressed-tensors, with one scale per channel; W8A16 has the largest block of 128, 64
    /// and 32 that divides every row; per-channel where training learned a scale for each;
    /// per-tensor otherwise. For GGUF: a block type of ggml in small letters, such as q4_K or
    /// iq4_xs, or in capitals the mix of types that llama-quantize makes under that name, such
    /// as Q4_K_M or IQ4_XS. W8A8/127.5 and W8A16/127.5 have the scales of compressed-tensors'
    /// own compressor, absmax/127.5 instead of absmax/127
    #[arg(long, value_name = "per-tensor|per-channel|per-block:N|W8A8|W4A16|q4_K|Q4_K_M|…", value_parser = scheme)]
    pub scheme: Option<SchemeName>,
    /// What --max-bytes and --min-sqnr choose from, instead of one scheme: the presets of
    /// compressed-tensors, such as W4A16,FP8_DYNAMIC,W8A8; int8 has scales of absmax/127.5 here
    #[arg(long, value_name = "A,B,…", value_delimiter = ',', value_parser = preset, conflicts_with = "scheme")]
    schemes: Vec<Preset>,
}

/// A value of `--format`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FormatName {
    container: Container,
    /// Whether the name includes the scheme, as former names do.
    names_scheme: bool,
}

/// A value of `--scheme`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SchemeName {
    Shared(QuantizationScheme),
    Linear(LinearScheme),
    Preset(Preset),
    Mix(GgufMix),
}

impl SchemeName {
    /// Whether it is for GGUF only.
    fn is_of_gguf(self) -> bool {
        match self {
            SchemeName::Shared(scheme) => scheme.ggml().is_some(),
            SchemeName::Linear(_) | SchemeName::Preset(_) => false,
            SchemeName::Mix(_) => true,
        }
    }
}

impl TargetArgs {
    /// Returns GGUF as the target if neither a loader, a format nor a scheme is named, and OUT ends
    /// in .gguf like the source; otherwise `target`.
    pub(super) fn or_by_ending(
        &self,
        target: Target,
        checkpoint: &Checkpoint,
        out: &Path,
    ) -> Target {
        let is_gguf = out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        let is_open = target.is_default() && self.format.is_none() && self.scheme.is_none();
        if is_open && is_gguf && checkpoint.format() == Format::Gguf {
            Target::format(Container::Gguf)
        } else {
            target
        }
    }

    /// The target of the options, which take precedence over the target of a recipe.
    pub(super) fn target(
        &self,
        checkpoint: &Checkpoint,
        recipe: Option<&Target>,
    ) -> Result<Target, Error> {
        let refuse = |why: TargetError| unfit(checkpoint, why);
        let mut target = match recipe {
            Some(recipe) if self.loaders.loaders.is_empty() => recipe.clone(),
            _ => self.loaders.target(checkpoint)?,
        };
        if let Some(format) = self.format {
            target = target.with_format(format.container).map_err(refuse)?;
        }
        if let Some(preset) = self.schemes.first() {
            return self.preset_target(checkpoint, target, *preset);
        }
        if self.scheme.is_some_and(SchemeName::is_of_gguf) {
            if target.is_default() && self.format.is_none() {
                target = Target::format(Container::Gguf);
            }
            let nvfp4 = SchemeName::Shared(QuantizationScheme::Ggml(BlockType::NVFP4));
            if target.container() == Container::ComfyUi && self.scheme == Some(nvfp4) {
                return Err(refuse(TargetError::Nvfp4OfComfyUi));
            }
            if target.container() != Container::Gguf {
                return Err(refuse(TargetError::OnlyGguf { format: target.container().name() }));
            }
        }
        let names_scheme = self.format.is_some_and(|format| format.names_scheme);
        match self.scheme {
            Some(SchemeName::Linear(scheme)) => {
                if target.is_default() && self.format.is_none() {
                    target = Target::format(Container::CompressedTensors(scheme));
                }
                let Container::CompressedTensors(_) = target.container() else {
                    let (scheme, name) = (scheme.name(), target.container().name());
                    return Err(refuse(TargetError::NoSuchScheme { scheme, format: name }));
                };
                Ok(target.with_linear_scheme(scheme))
            }
            Some(SchemeName::Preset(preset)) => self.preset_target(checkpoint, target, preset),
            Some(SchemeName::Shared(QuantizationScheme::PerBlock(..))) if !names_scheme => {
                Ok(target.with_linear_scheme(LinearScheme::W8A16))
            }
            _ => Ok(target),
        }
    }

    /// The target that holds presets.
    fn preset_target(
        &self,
        checkpoint: &Checkpoint,
        target: Target,
        preset: Preset,
    ) -> Result<Target, Error> {
        let presets = Container::CompressedTensors(LinearScheme::Presets);
        if target.is_default() && self.format.is_none() {
            let is_held = presets.can_store(QuantizationScheme::Preset(preset));
            return Ok(Target::format(if is_held { presets } else { Container::ComfyUi }));
        }
        let names_scheme = self.format.is_some_and(|format| format.names_scheme);
        match target.container() {
            Container::CompressedTensors(_)
                if !names_scheme && presets.can_store(QuantizationScheme::Preset(preset)) =>
            {
                Ok(target.with_linear_scheme(LinearScheme::Presets))
            }
            other if other.can_store(QuantizationScheme::Preset(preset)) => Ok(target),
            other => {
                let (scheme, format) = (preset.name(), other.name());
                let why = if preset == Preset::Nvfp4ComfyUi {
                    TargetError::OnlyComfyUi { scheme, format }
                } else {
                    TargetError::NoSuchScheme { scheme, format }
                };
                Err(unfit(checkpoint, why))
            }
        }
    }

    /// The schemes that a budget is to choose from, if any were named.
    pub(super) fn schemes(&self) -> Vec<QuantizationScheme> {
        self.schemes.iter().map(|&preset| QuantizationScheme::Preset(preset)).collect()
    }

    /// The mix of llama.cpp that was named, if it is one.
    pub(super) fn mix(&self) -> Option<GgufMix> {
        match self.scheme {
            Some(SchemeName::Mix(mix)) => Some(mix),
            _ => None,
        }
    }

    /// The scheme that was named, if it is one.
    pub(super) fn shared_scheme(&self) -> Option<QuantizationScheme> {
        match self.scheme {
            Some(SchemeName::Shared(scheme)) => Some(scheme),
            Some(SchemeName::Preset(preset)) => Some(QuantizationScheme::Preset(preset)),
            _ => None,
        }
    }
}

/// The writer of a target's format.
pub(super) fn output_format(
    checkpoint: &Checkpoint,
    target: &Target,
    layout: Option<WeightLayout>,
) -> Result<OutputFormat, Error> {
    let container = target.container();
    let format = match (OutputFormat::of(container), layout) {
        (OutputFormat::Burn(_), Some(layout)) => OutputFormat::Burn(layout),
        (format, _) => format,
    };
    match (container, layout) {
        (Container::Burn, _) | (_, None) => Ok(format),
        (other, Some(_)) => Err(unfit(checkpoint, TargetError::NoLayout(other.name()))),
    }
}

fn unfit(checkpoint: &Checkpoint, why: TargetError) -> Error {
    UsageError::Target { path: checkpoint.path().to_owned(), why }.into()
}

fn loader() -> impl TypedValueParser<Value = Loader> {
    let names = Loader::ALL.map(|loader| PossibleValue::new(loader.name()).help(loader.summary()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Loader>())
}

/// Former names that scripts may still use.
const FORMER_NAMES: [(&str, LinearScheme); 2] =
    [("int8", LinearScheme::W8A8), ("int8-weight-only", LinearScheme::W8A16)];

fn format() -> impl TypedValueParser<Value = FormatName> {
    let named = |container: Container| PossibleValue::new(container.name()).help(container.help());
    let former = FORMER_NAMES.map(|(name, _)| PossibleValue::new(name).hide(true));
    let names: Vec<_> = Container::named().map(named).chain(former).collect();
    PossibleValuesParser::new(names).try_map(|name| {
        let former = || FORMER_NAMES.iter().find(|(known, _)| *known == name);
        match Container::from_name(&name) {
            Some(container) => Ok(FormatName { container, names_scheme: false }),
            None => former()
                .map(|&(_, scheme)| FormatName {
                    container: Container::CompressedTensors(scheme),
                    names_scheme: true,
                })
                .ok_or_else(|| format!("unknown format '{name}'")),
        }
    })
}

/// Parses a preset. The int8 presets have compressed-tensors' own scales here.
fn preset(text: &str) -> Result<Preset, String> {
    let with_rule = || text.parse::<QuantizationScheme>().ok()?.preset();
    text.parse::<Preset>()
        .ok()
        .or_else(with_rule)
        .ok_or_else(|| format!("expected one of {}", preset_names(|_| true)))
}

/// The names of the presets that `is` holds for.
fn preset_names(is: impl Fn(Preset) -> bool) -> String {
    let presets = PRESET_SCHEMES.iter().filter_map(|scheme| scheme.preset());
    let names: Vec<&str> = presets.filter(|&preset| is(preset)).map(Preset::name).collect();
    names.join(", ")
}

fn scheme(text: &str) -> Result<SchemeName, String> {
    let linear = LinearScheme::INT8.into_iter().find(|s| s.name().eq_ignore_ascii_case(text));
    if let Some(scheme) = linear {
        return Ok(SchemeName::Linear(scheme));
    }
    if let Ok(mix) = text.parse() {
        return Ok(SchemeName::Mix(mix));
    }
    match text.parse::<QuantizationScheme>() {
        Ok(QuantizationScheme::Preset(preset)) => Ok(SchemeName::Preset(preset)),
        Ok(scheme) if scheme.is_scaled_int8() || scheme.ggml().is_some() => {
            Ok(SchemeName::Shared(scheme))
        }
        _ => {
            let others = preset_names(|preset| !matches!(preset, Preset::W8A8 | Preset::W8A16(_)));
            Err(format!(
                "expected per-tensor, per-channel or per-block:N, W8A8, W8A16, {others}, a block type of GGUF such as q4_K, or a mix of llama.cpp such as Q4_K_M"
            ))
        }
    }
}
