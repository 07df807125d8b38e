//! The texts of the pager: the checkpoint's metadata, and the legend.

use crate::app::filter::Property;
use crate::app::pager::{Line, Pager};
use crate::checkpoint::Checkpoint;
use crate::quantization::{Preset, Rating, Thresholds};
use crate::tensor::ChannelAxes;
use crate::text::figures::{bytes, count, counted, parameters, percent};

/// Files, sizes and metadata. `config` is the text of `config.json`, once it has been read.
pub(crate) fn metadata(
    checkpoint: &Checkpoint,
    config: Option<&Option<Result<String, String>>>,
) -> Pager {
    let floats = checkpoint.ids().filter(|&id| checkpoint.float_type(id).is_some()).count();
    let mut lines = vec![
        Line::field("path", checkpoint.path().display().to_string()),
        Line::field("format", checkpoint.format().name()),
        Line::field(
            "tensors",
            format!(
                "{}, {} of floats",
                count(checkpoint.tensors().len() as u64),
                count(floats as u64)
            ),
        ),
        Line::field(
            "parameters",
            format!("{} ({})", parameters(checkpoint.parameters()), count(checkpoint.parameters())),
        ),
        Line::field(
            "data",
            format!(
                "{} ({} bytes)",
                bytes(checkpoint.total_bytes()),
                count(checkpoint.total_bytes())
            ),
        ),
    ];
    let quantized = checkpoint.ids().filter(|&id| checkpoint.packed_format(id).is_some()).count();
    if quantized > 0 {
        lines.push(Line::field("quantized", counted(quantized, "tensor")));
    }
    if let Some(index) = checkpoint.index() {
        lines.push(Line::field("index", index.path.display().to_string()));
    }
    lines.extend(checkpoint.notes().iter().map(|note| Line::field("note", note.clone())));
    lines.push(Line::Blank);
    lines.push(Line::Heading(counted(checkpoint.shards().len(), "file")));
    for shard in checkpoint.shards() {
        lines.push(Line::Field(bytes(shard.source.size()), shard.name()));
    }
    for shard in checkpoint.shards().iter().filter(|shard| !shard.metadata.is_empty()) {
        lines.push(Line::Blank);
        lines.push(Line::Heading(format!("__metadata__ of {}", shard.name())));
        for (key, value) in &shard.metadata {
            lines.push(Line::Field(key.clone(), value.clone()));
        }
    }
    match config {
        None => lines.extend([Line::Blank, Line::text("config.json: reading …")]),
        Some(None) => lines.extend([Line::Blank, Line::text("There is no config.json.")]),
        Some(Some(text)) => {
            lines.extend([Line::Blank, Line::Heading("config.json".to_owned())]);
            match text {
                Ok(text) => {
                    lines.extend(text.lines().map(|l| Line::Verbatim(l.replace('\t', "    "))))
                }
                Err(why) => lines.push(Line::text(why)),
            }
        }
    }
    Pager::new("Metadata", lines)
}

/// The schemes of int8, each with its meaning; for a tensor, with the axes of its output
/// channels.
pub(crate) fn scheme_meanings(axes: Option<ChannelAxes>) -> [(&'static str, &'static str); 3] {
    let per_channel = match axes {
        None => "one scale per output channel",
        Some(ChannelAxes::First) => "one scale per output channel, along axis 0",
        Some(ChannelAxes::Second) => "one scale per output channel, along axis 1",
        Some(ChannelAxes::FirstTwo) => "one scale per output channel, along axes 0 and 1",
        Some(ChannelAxes::FirstAndLast) => "one scale per output channel, along axes 0 and 2",
    };
    [
        ("per tensor", "one scale per tensor; supported everywhere"),
        ("per channel", per_channel),
        ("block n", "one scale per n elements along the last axis"),
    ]
}

/// The meaning of a preset.
pub(crate) fn preset_meaning(preset: Preset) -> &'static str {
    match preset {
        Preset::W8A8 => "int8 weights per channel, int8 inputs",
        Preset::W8A16(_) => "int8 weights in groups of columns",
        Preset::W4A16(_) => "int4 weights in groups of columns",
        Preset::W4A16Asym(_) => "the same with zero points",
        Preset::Fp8Dynamic => "FP8 weights per channel, FP8 inputs",
        Preset::Fp8Block => "FP8 weights in blocks of 128 × 128, FP8 inputs",
        Preset::Nvfp4A16 => "FP4 weights in groups of 16 with FP8 scales",
        Preset::Mxfp4A16 => "FP4 weights in groups of 32, scales are powers of two",
        Preset::Mxfp8A16 => "FP8 weights in groups of 32, scales are powers of two",
        Preset::Fp8 => "FP8 weights with one scale per tensor",
        Preset::Nvfp4ComfyUi => "FP4 weights in groups of 16 with FP8 scales",
    }
}

/// Explains SQNR, its ratings and the other figures.
///
/// `opens` is the name of the key that opens captured activations.
pub(crate) fn legend(thresholds: &Thresholds, opens: &str) -> Pager {
    let Thresholds { fair, good, excellent } = thresholds;
    let rating = |db: String, rating: Rating, meaning: String| {
        Line::Field(format!("{db:<12}{}", rating.name()), meaning)
    };
    // The noise as a share of the weights' norm.
    let share = |db: &f64| match 10f64.powf(-db / 20.0) {
        whole if whole >= 0.01 => format!("{:.0} %", whole * 100.0),
        part => percent(part),
    };
    let between = |worse: &f64, better: &f64| format!("{} to {}", share(better), share(worse));
    let state =
        |state: &Property| Line::Field(format!("is:{}", state.word()), state.meaning().into());
    let mut lines = vec![
        Line::text(format!(
            "SQNR and the figures derived from it are errors of the weights. The error of a layer's output also depends on its input: {opens} opens recorded activations, and the column 'output' shows that error.",
        )),
        Line::Blank,
        Line::Heading("SQNR, signal to quantization noise".to_owned()),
        Line::text(
            "10·log₁₀(Σx² / Σ(x−x̂)²) in dB, over all elements. 20 dB is an error of 10 % of the weights' norm, 40 dB is 1 %; each bit of precision adds 6 dB.",
        ),
        Line::Blank,
        rating(
            format!("≥ {excellent} dB"),
            Rating::Excellent,
            format!("error at most {} of the norm", share(excellent)),
        ),
        rating(
            format!("{good}–{excellent} dB"),
            Rating::Good,
            format!("{}; typical of linear layers in int8", between(good, excellent)),
        ),
        rating(
            format!("{fair}–{good} dB"),
            Rating::Fair,
            format!("{}; try per channel or blocks", between(fair, good)),
        ),
        rating(
            format!("< {fair} dB"),
            Rating::Poor,
            format!("over {}; an outlier stretches the scale", share(fair)),
        ),
        Line::Blank,
        Line::Heading("Output error, with recorded activations".to_owned()),
        Line::text(
            "‖Wx−Ŵx̂‖² / ‖Wx‖² in dB over the recorded inputs x; lower is better. The table shows it with quantized weights; the detail also with inputs quantized on the fly (dynamic) and with one calibrated scale (static). ~ is the diagonal approximation, from mean squares per feature. A module shows the worst of its layers, as in ≤−38.0 dB.",
        ),
        Line::Blank,
        Line::Heading("Marks".to_owned()),
        Line::field("●", "to be quantized; on a module: all its quantizable tensors"),
        Line::field("◐", "a module with some tensors marked"),
        Line::field("!", "has a diagnostic; in place of a mark: unreadable, or no scale"),
        Line::field("dim name", "a vector, norm or embedding: only quantized if marked by hand"),
        Line::Blank,
        Line::Heading("Other figures".to_owned()),
        Line::field("relative error", "‖x−x̂‖ / ‖x‖"),
        Line::field("RMSE", "√(Σ(x−x̂)² / n), in the unit of the weights"),
        Line::field("largest error", "max |x−x̂|; half a scale at most"),
        Line::field("cosine", "Σx·x̂ / (‖x‖·‖x̂‖); 1 when the direction is kept"),
        Line::field("zeroed", "share of the non-zero elements that become 0"),
        Line::field("levels used", "how many of the 255 values −127 … 127 occur"),
        Line::field("scale", "absmax / 127: the distance between two levels"),
        Line::Blank,
        Line::Heading("Schemes".to_owned()),
    ];
    lines.extend(scheme_meanings(None).map(|(scheme, meaning)| Line::field(scheme, meaning)));
    lines.extend([
        Line::field("channel − tensor", "a column: how far one SQNR is above the other"),
        Line::Blank,
        Line::Heading("Filters; all conditions must hold".to_owned()),
        Line::field("words", "in the name; fuzzy if no name contains them"),
        Line::field("*.glob.*", "matches the whole name; * matches dots too"),
        Line::field("re:regex", "a regular expression in the name"),
        Line::field("dtype:bf16", "the dtype, or the packed format of a quantized tensor"),
        Line::field(
            "size>10MB",
            "bytes; also params>7B, sqnr<30, output>-30 and absmax>2, with < <= > >= =",
        ),
        Line::field("!", "before any of these: not"),
    ]);
    lines.extend(Property::OF_TENSORS.iter().map(state));
    lines.extend([Line::Blank, Line::text("Sizes are decimal: 1 MB is 1 000 000 bytes.")]);
    Pager::new("What the figures mean", lines)
}
