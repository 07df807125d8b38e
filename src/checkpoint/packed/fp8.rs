//! 8-bit floats with scales: FP8 of transformers (`weight_scale_inv`), compressed-tensors, fbgemm,
//! ModelOpt, Mistral and DeepSeek-V4; and FP8 without scales.

use crate::checkpoint::packed::comfyui_markers::FILE_MARKER;
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::foreign::scales_other_codes;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{Listing, PartTensor, module_of, shape};
use crate::checkpoint::packed::quant_config::{WeightScheme, configured_dtype};
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::packed::scaled::{Codes, FirstNibble, Scaled};
use crate::quantization::Preset;
use crate::tensor::minifloat::value_table;
use crate::tensor::{DType, FloatType, Shape};
use std::collections::BTreeSet;

/// Block size if the configuration does not give it.
const DEFAULT_BLOCK: u64 = 128;

/// Group sizes accepted for a grid of `[rows, groups]` without a configuration.
const PLAUSIBLE_GROUPS: [u64; 5] = [16, 32, 64, 128, 256];

/// Supported quantization methods.
const METHODS: [&str; 4] = ["fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"];

/// How the scales divide a tensor.
enum Division {
    Tensor,
    Matrices,
    Rows,
    Columns,
    Blocks(u64, u64),
    /// Groups of columns in each row.
    Groups(u64),
}

impl Division {
    fn describe(&self) -> String {
        match self {
            Division::Tensor => " per-tensor".to_owned(),
            Division::Matrices => " per-expert".to_owned(),
            Division::Rows => " per-channel".to_owned(),
            Division::Columns => " per-channel, of the last axis".to_owned(),
            Division::Blocks(rows, columns) => format!(", blocks of {rows}×{columns}"),
            Division::Groups(columns) => format!(", groups of {columns}"),
        }
    }

    fn grid(&self, numbers: FloatPart, shape: &Shape) -> ScaleGrid {
        match *self {
            Division::Tensor => ScaleGrid::of_tensor(numbers, shape),
            Division::Matrices => ScaleGrid::of_matrices(numbers, shape),
            Division::Rows => ScaleGrid::of_rows(numbers, shape),
            Division::Columns => ScaleGrid::of_columns(numbers, shape),
            Division::Blocks(rows, columns) => ScaleGrid::of_blocks(numbers, shape, rows, columns),
            Division::Groups(columns) => ScaleGrid::of_blocks(numbers, shape, 1, columns),
        }
    }
}

/// Recognizes a tensor of 8-bit floats.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    value_table(values.dtype())?;
    if values.last_name() == FILE_MARKER || scales_other_codes(listing, values) {
        return None;
    }
    let name = values.stored.name.as_str();
    let format = format!("fp8 {}", short_name(values.dtype()));
    let scales = scales_beside(listing, values);
    if let Some(method) = listing.effective_method().filter(|method| !METHODS.contains(method)) {
        return Some(listing.named(values, name, method, None));
    }
    let decoded = match scales.as_slice() {
        [] => unscaled(listing, values),
        [scale] => scaled(listing, values, *scale),
        [first, second, ..] => Err(format!(
            "both '{}' and '{}' are there",
            first.stored.name.escape_debug(),
            second.stored.name.escape_debug()
        )),
    };
    Some(listing.decoded_or_named(values, name, &format, decoded))
}

fn short_name(dtype: &DType) -> String {
    dtype.name().trim_start_matches("F8_").to_lowercase()
}

/// Returns the stored tensors that may be the scales of `values`.
fn scales_beside<'s>(listing: &Listing<'s>, values: PartTensor) -> Vec<PartTensor<'s>> {
    let name = values.stored.name.as_str();
    let mut names = vec![format!("{name}_scale_inv"), format!("{name}_scale")];
    if let Some(module) = values.module("weight") {
        names.extend(["scale_weight", "qscale_weight"].map(|last| format!("{module}.{last}")));
    }
    let mut found: Vec<PartTensor> = names.iter().filter_map(|name| listing.get(name)).collect();
    let exponents =
        values.module("weight").and_then(|module| listing.get(&format!("{module}.scale")));
    found.extend(exponents.filter(|part| *part.dtype() == DType::F8E8M0));
    found
}

fn unscaled(listing: &Listing, values: PartTensor) -> Result<PackedTensor, String> {
    let name = values.stored.name.as_str();
    if listing.effective_method().is_some() || listing.markers.mark_file_of(name) {
        return Err("its scales are missing".into());
    }
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    if listing.markers.layer(module).is_some() {
        return Err("it is part of a layer that ComfyUI marks as quantized".into());
    }
    let ends = ["_scale", "scales", ".scale", "_scale_inv"];
    if *values.dtype() == DType::F8E8M0 || ends.iter().any(|end| name.ends_with(end)) {
        return Err("it holds scales, but not of a weight beside it".into());
    }
    let scaled_types = listing.scaled_types.get_or_init(|| {
        let scaled = listing.parts().filter(|part| value_table(part.dtype()).is_some());
        let scaled = scaled.filter(|&part| !scales_beside(listing, part).is_empty());
        scaled.map(|part| part.dtype().clone()).collect::<BTreeSet<_>>().into_iter().collect()
    });
    if scaled_types.contains(values.dtype()) {
        return Err("it has no scales, although other tensors of its type have some".into());
    }
    plain_codes(listing, values)
}

/// Returns FP8 numbers without scales.
pub(super) fn plain_codes(listing: &Listing, values: PartTensor) -> Result<PackedTensor, String> {
    let format = format!("fp8 {}, unscaled", short_name(values.dtype()));
    let original = listing.original(values.dtype());
    tensor(values, format, None, original, None)
}

/// Builds a tensor from the codes in `values` and the grid of their scales.
fn tensor(
    values: PartTensor,
    name: String,
    scales: Option<ScaleGrid>,
    original: FloatType,
    preset: Option<Preset>,
) -> Result<PackedTensor, String> {
    let table = value_table(values.dtype()).ok_or("it does not hold 8-bit floats")?;
    let shape = values.stored.shape.clone();
    let codes = Codes::Bytes(table);
    let format = Scaled::new(name, values.id, codes, scales, shape, original);
    Ok(Scaled { preset, ..format }.into_tensor(&values.stored.name))
}

fn scaled(
    listing: &Listing,
    values: PartTensor,
    scale: PartTensor,
) -> Result<PackedTensor, String> {
    let name = values.stored.name.as_str();
    let module = module_of(name);
    for extra in ["weight_zero_point", "weight_scale_2", "svdquant_lora_a", "pre_quant_scale"] {
        if let Some(extra) = listing.get(&format!("{module}.{extra}")) {
            let extra = extra.stored.name.escape_debug();
            return Err(format!("'{extra}' is part of its equation, expected scales only"));
        }
    }
    let method = listing.effective_method();
    let scheme = match method {
        Some("compressed-tensors") => listing.weight_scheme(module)?,
        _ if listing.is_excluded(module) => {
            return Err("config.json excludes its module from quantization".into());
        }
        _ => WeightScheme::default(),
    };
    if let (Some("fp8"), Some(configured)) = (method, listing.text("fmt")) {
        let found = short_name(values.dtype());
        // Such as `e4m3`, `e4m3fn` and `float8_E4M3FN`.
        let named = configured.to_lowercase();
        if ["e4m3", "e5m2"].iter().any(|kind| named.contains(kind) != found.contains(kind)) {
            return Err(format!("expected '{configured}' as in config.json, found {found}"));
        }
    }
    if method == Some("compressed-tensors") {
        scheme.stored_as(&["float-quantized", "naive-quantized", "mxfp8-quantized"])?;
        scheme.typed("float", 8)?;
    }
    let numbers = match scale.dtype() {
        DType::U8 if exponents_expected(listing, &scheme) => FloatPart::exponents(scale, "scales")?,
        _ => FloatPart::new(scale, "scales")?,
    };
    if scheme.format.as_deref() == Some("mxfp8-quantized") {
        scale.typed("scales", &[DType::U8, DType::F8E8M0])?;
    }
    let division = division(listing, values, scale, &scheme)?;
    let format = format!("fp8 {}{}", short_name(values.dtype()), division.describe());
    let grid = division.grid(numbers, &values.stored.shape);
    let preset = match (method, values.dtype(), values.dims().len(), &division) {
        (Some("compressed-tensors"), DType::F8E4M3, 2, division) => preset(division, scale),
        _ => None,
    };
    tensor(values, format, Some(grid), listing.original(scale.dtype()), preset)
}

/// Returns the preset of compressed-tensors with this division, if any.
fn preset(division: &Division, scale: PartTensor) -> Option<Preset> {
    match (division, scale.dtype()) {
        (Division::Tensor, dtype) if dtype.float().is_some() => Some(Preset::Fp8),
        (Division::Rows, dtype) if dtype.float().is_some() => Some(Preset::Fp8Dynamic),
        (Division::Blocks(128, 128), dtype) if dtype.float().is_some() => Some(Preset::Fp8Block),
        (Division::Groups(32), DType::U8) => Some(Preset::Mxfp8A16),
        _ => None,
    }
}

/// Returns whether U8 scales hold exponents of two.
fn exponents_expected(listing: &Listing, scheme: &WeightScheme) -> bool {
    match listing.effective_method() {
        Some("fp8") => listing.text("scale_fmt").as_deref() == Some("ue8m0"),
        Some("modelopt") => listing.modelopt_algorithm().is_some_and(|name| name.contains("MXFP8")),
        Some("compressed-tensors") => {
            let mx_groups =
                scheme.group_size == Some(32) && scheme.kind.as_deref() == Some("float");
            scheme.format.as_deref() == Some("mxfp8-quantized")
                || (scheme.format.is_none() && mx_groups)
        }
        _ => false,
    }
}

/// Determines the division from the shapes and the configuration.
fn division(
    listing: &Listing,
    values: PartTensor,
    scale: PartTensor,
    scheme: &WeightScheme,
) -> Result<Division, String> {
    let dims = values.dims();
    let (&[.., rows, columns], leading) = (dims, dims.len().saturating_sub(2)) else {
        scale.single("scales")?;
        return Ok(Division::Tensor);
    };
    let leading = dims.get(..leading).unwrap_or_default();
    let name = values.stored.name.as_str();
    if let Some(strategy) = scheme.strategy.as_deref() {
        return by_strategy(strategy, scheme, scale, leading, rows, columns);
    }
    if matches!(scale.dtype(), DType::U8) {
        let (high, wide) = listing.weight_block_size().unwrap_or((1, 32));
        return blocks(scale, leading, rows, columns, high, wide);
    }
    if let Some((high, wide)) = listing.weight_block_size() {
        return blocks(scale, leading, rows, columns, high, wide);
    }
    let inverse = scale.stored.name.ends_with("_scale_inv");
    // For an inverse scale, a 2-D grid with one element is a grid of blocks.
    if scale.elements() == 1 && !(inverse && scale.dims().len() > 1) {
        return Ok(Division::Tensor);
    }
    match (leading, scale.dims()) {
        ([], [n] | [n, 1]) if *n == rows && !inverse => return Ok(Division::Rows),
        ([], &[down, 1, across, 1]) if listing.effective_method() == Some("modelopt") => {
            return tiles(rows, columns, down, across);
        }
        ([experts], [n] | [n, 1, 1]) if n == experts => return Ok(Division::Matrices),
        ([experts], [n, 1, across]) if n == experts && *across == columns => {
            return Ok(Division::Columns);
        }
        ([experts], [n, down, 1]) if n == experts && (*down == rows || *down == columns) => {
            return stacked_rows(listing, name, rows, columns, *down);
        }
        ([], &[n, groups] | &[n, groups, 1]) if n == rows && groups > 1 && !inverse => {
            let group = columns.checked_div(groups).filter(|n| n * groups == columns);
            if let Some(group) = group.filter(|group| PLAUSIBLE_GROUPS.contains(group)) {
                return Ok(Division::Groups(group));
            }
        }
        _ => {}
    }
    blocks(scale, leading, rows, columns, DEFAULT_BLOCK, DEFAULT_BLOCK)
}

/// Returns the division for a strategy of compressed-tensors; an error if the scales have another
/// shape.
fn by_strategy(
    strategy: &str,
    scheme: &WeightScheme,
    scale: PartTensor,
    leading: &[u64],
    rows: u64,
    columns: u64,
) -> Result<Division, String> {
    match strategy {
        "tensor" if leading.is_empty() => {
            scale.single("scales")?;
            Ok(Division::Tensor)
        }
        "channel" => {
            if leading.is_empty() && *scale.dims() == [rows] {
                return Ok(Division::Rows);
            }
            scale.shaped("scales", &[leading, &[rows, 1]].concat())?;
            Ok(Division::Rows)
        }
        "block" => {
            let (high, wide) =
                scheme.block.ok_or("config.json does not give its block_structure")?;
            blocks(scale, leading, rows, columns, high, wide)
        }
        "group" | "tensor_group" => {
            let size = scheme.group_size.ok_or("config.json does not give its group_size")?;
            scale.shaped("scales", &[leading, &[rows, columns.div_ceil(size)]].concat())?;
            Ok(Division::Groups(size))
        }
        _ => Err(format!(
            "config.json says strategy '{}', which is not read",
            strategy.escape_debug()
        )),
    }
}

/// Returns blocks of `high` rows and `wide` columns; an error if the scales have another shape.
fn blocks(
    scale: PartTensor,
    leading: &[u64],
    rows: u64,
    columns: u64,
    high: u64,
    wide: u64,
) -> Result<Division, String> {
    let expected = [leading, &[rows.div_ceil(high), columns.div_ceil(wide)]].concat();
    let one = leading.is_empty() && scale.elements() == 1;
    if !(one && expected.iter().all(|&n| n == 1)) {
        scale.shaped(&format!("scales of {high}×{wide} blocks"), &expected)?;
    }
    Ok(Division::Blocks(high, wide))
}

/// Returns ModelOpt's tiles, whose scales keep the reduced dimensions.
fn tiles(rows: u64, columns: u64, down: u64, across: u64) -> Result<Division, String> {
    let fits = |all: u64, count: u64, side: u64| side > 0 && all.div_ceil(side) == count;
    let even = |all: u64, count: u64| all.checked_div(count).filter(|side| side * count == all);
    let sides =
        [(Some(DEFAULT_BLOCK), Some(DEFAULT_BLOCK)), (even(rows, down), even(columns, across))];
    let fitting = sides.into_iter().find_map(|sides| match sides {
        (Some(high), Some(wide)) if fits(rows, down, high) && fits(columns, across, wide) => {
            Some(Division::Blocks(high, wide))
        }
        _ => None,
    });
    fitting.ok_or_else(|| {
        format!("its {down} by {across} scales do not divide {rows} rows and {columns} columns")
    })
}

/// Returns the division for scales `[experts, n, 1]`: one per stored row or, in fbgemm's Llama 4,
/// one per column of `down_proj`.
fn stacked_rows(
    listing: &Listing,
    name: &str,
    rows: u64,
    columns: u64,
    n: u64,
) -> Result<Division, String> {
    let llama = listing.effective_method() == Some("fbgemm_fp8")
        && name.strip_suffix("down_proj").is_some_and(|module| {
            let gate = listing.get(&format!("{module}gate_up_proj_scale"));
            gate.is_some_and(|gate| matches!(gate.dims(), [_, 1, _]))
        });
    match (llama, n == rows, n == columns) {
        (true, _, true) => Ok(Division::Columns),
        (false, true, false) => Ok(Division::Rows),
        _ => Err("its scales may be of rows or of columns".into()),
    }
}

/// Recognizes DeepSeek-V4's experts: I8 bytes of two E2M1 numbers each, with `scale` next to
/// `weight`.
pub(super) fn deepseek_experts(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let (DType::I8, Some(module)) = (values.dtype(), values.module("weight")) else { return None };
    let scale = listing.get(&format!("{module}.scale"))?;
    if *scale.dtype() != DType::F8E8M0 {
        return None;
    }
    let name = values.stored.name.as_str();
    let decoded = || {
        if !listing.allows(&["fp8"]) || listing.expert_dtype() != Some("fp4") {
            return Err("config.json does not say that its experts are fp4".to_owned());
        }
        let (rows, bytes) = values.matrix("packed values")?;
        let columns = bytes.checked_mul(2).ok_or("its rows are too long")?;
        scale.shaped("scales", &[rows, columns.div_ceil(32)])?;
        let shape = shape(vec![rows, columns])?;
        let grid = ScaleGrid::of_blocks(FloatPart::new(scale, "scales")?, &shape, 1, 32);
        let format = "deepseek fp4, groups of 32".to_owned();
        let codes = Codes::E2m1(FirstNibble::Low);
        let original = configured_dtype(listing).unwrap_or(FloatType::BF16);
        let format = Scaled::new(format, values.id, codes, Some(grid), shape, original);
        Ok(format.into_tensor(name))
    };
    Some(listing.decoded_or_named(values, name, "deepseek fp4", decoded()))
}
