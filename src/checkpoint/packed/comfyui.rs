//! ComfyUI: the format of a layer is given by a marker, which is a `comfy_quant` tensor or an entry
//! of the file's `_quantization_metadata`. Names and shapes must agree with the marker.

use crate::checkpoint::packed::comfyui_markers::Marker;
use crate::checkpoint::packed::float_part::FloatPart;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::listing::{Listing, PartTensor, product, required, shape};
use crate::checkpoint::packed::modelopt::column_factor;
use crate::checkpoint::packed::scale_grid::ScaleGrid;
use crate::checkpoint::packed::scaled::{
    Codes, FirstNibble, GlobalScale, Rotation, Scaled, signed_bytes,
};
use crate::quantization::{Preset, QuantizationScheme};
use crate::tensor::minifloat::value_table;
use crate::tensor::{DType, Shape};

/// The name of the container.
pub(crate) const NAME: &str = "comfyui";

/// Rotation size if the marker does not give one.
const DEFAULT_ROTATION: u64 = 256;

/// Recognizes a layer with a marker, or one without a marker in a file that has markers.
pub(super) fn recognize(listing: &Listing, values: PartTensor) -> Option<PackedTensor> {
    let layer = values.module("weight")?;
    let name = values.stored.name.as_str();
    let Some(marker) = listing.markers.layer(layer) else {
        let scaled = listing.get(&format!("{name}_scale")).is_some();
        if !scaled || !listing.markers.mark_layers() || listing.effective_method().is_some() {
            return None;
        }
        let reason = "other layers of the file have markers of ComfyUI, this one has none";
        return Some(listing.named(values, name, "comfyui", Some(reason.into())));
    };
    let marker = match marker {
        Ok(marker) => marker,
        Err(reason) => return Some(listing.named(values, name, "comfyui", Some(reason.into()))),
    };
    let layer = MarkedLayer { listing, values, module: layer, marker };
    let format = format!("comfyui {}", marker.format);
    Some(match layer.decoder() {
        Some(decoded) => listing.decoded_or_named(values, name, &format, decoded),
        None => listing.named(values, name, &format, None),
    })
}

struct MarkedLayer<'l, 's> {
    listing: &'l Listing<'s>,
    values: PartTensor<'s>,
    module: &'l str,
    marker: &'l Marker,
}

impl<'s> MarkedLayer<'_, 's> {
    /// Builds the tensor; `None` if the marker's format is not supported.
    fn decoder(&self) -> Option<Result<PackedTensor, String>> {
        let decoded = match self.marker.format.as_str() {
            "float8_e4m3fn" => self.fp8(DType::F8E4M3, Division::TensorOrRows),
            "float8_e5m2" => self.fp8(DType::F8E5M2, Division::TensorOrRows),
            "float8_e4m3fn_rowwise" => self.fp8(DType::F8E4M3, Division::TensorOrRows),
            "float8_e4m3fn_blockwise" => self.fp8(DType::F8E4M3, Division::Blocks(64)),
            "int8_tensorwise" => self.int8(),
            "int8_blockwise" => self.int8_blocks(),
            "convrot_w4a4" => self.convrot_int4(),
            "mxfp8" => self.mxfp8(),
            "nvfp4" => self.nvfp4(),
            _ => return None,
        };
        Some(self.consistent().and(decoded))
    }

    /// Checks that neither the file nor the configuration names another format for the layer.
    fn consistent(&self) -> Result<(), String> {
        if let Some(method) = self.listing.effective_method() {
            return Err(format!("config.json says '{}'", method.escape_debug()));
        }
        if self.listing.metadata(self.values, "quantization_config").is_some() {
            return Err("the file's metadata describes another format as well".into());
        }
        let other = ["weight_scale_inv", "scale_weight", "weight_zero_point", "svdquant_lora_a"];
        match other.iter().find_map(|last| self.beside(last)) {
            Some(part) => {
                let name = part.stored.name.escape_debug();
                Err(format!("'{name}' belongs to another format"))
            }
            None => Ok(()),
        }
    }

    fn beside(&self, last: &str) -> Option<PartTensor<'s>> {
        self.listing.get(&format!("{}.{last}", self.module))
    }

    fn scales(&self) -> Result<PartTensor<'s>, String> {
        required(self.beside("weight_scale"), "scales", &format!("{}.weight_scale", self.module))
    }

    /// Checks that no further factors are stored with the layer.
    fn only_scales(&self) -> Result<(), String> {
        match ["weight_scale_2", "pre_quant_scale"].iter().find_map(|last| self.beside(last)) {
            Some(part) => {
                let name = part.stored.name.escape_debug();
                Err(format!("'{name}' is not part of this format"))
            }
            None => Ok(()),
        }
    }

    fn plain(&self, format: String, codes: Codes, shape: Shape, scales: ScaleGrid) -> Scaled {
        let original = self.listing.original(self.values.dtype());
        Scaled::new(format, self.values.id, codes, Some(scales), shape, original)
    }

    /// Adds the preset and the original type of a layer that quantscope wrote.
    fn recorded(&self, format: Scaled, preset: Preset, is_preset: bool) -> Scaled {
        match self.listing.recorded_type(self.values, self.values.stored.name.as_str()) {
            None => format,
            Some(original) => Scaled { original, preset: is_preset.then_some(preset), ..format },
        }
    }

    fn tensor(&self, format: Scaled) -> PackedTensor {
        format.into_tensor(&self.values.stored.name)
    }

    fn fp8(&self, dtype: DType, division: Division) -> Result<PackedTensor, String> {
        self.values.typed("values", std::slice::from_ref(&dtype))?;
        self.only_scales()?;
        let scale = self.scales()?;
        let table = value_table(&dtype).ok_or("it does not hold 8-bit floats")?;
        let shape = self.values.stored.shape.clone();
        let short = dtype.name().trim_start_matches("F8_").to_lowercase();
        let (division, grid) = self.grid(scale, &shape, division)?;
        let format = format!("comfyui fp8 {short}{division}");
        let format = self.plain(format, Codes::Bytes(table), shape, grid);
        let is_preset = dtype == DType::F8E4M3 && scale.elements() == 1;
        Ok(self.tensor(self.recorded(format, Preset::Fp8, is_preset)))
    }

    /// Returns the grid of scales and its description.
    fn grid(
        &self,
        scale: PartTensor,
        shape: &Shape,
        division: Division,
    ) -> Result<(String, ScaleGrid), String> {
        let numbers = FloatPart::new(scale, "scales")?;
        match division {
            Division::TensorOrRows if scale.elements() == 1 => {
                Ok((" per-tensor".to_owned(), ScaleGrid::of_tensor(numbers, shape)))
            }
            Division::TensorOrRows => {
                let (rows, _) = self.values.matrix("values")?;
                if scale.dims() != [rows] {
                    scale.shaped("scales", &[rows, 1])?;
                }
                Ok((" per-channel".to_owned(), ScaleGrid::of_rows(numbers, shape)))
            }
            Division::Blocks(default) => {
                let side = self.marker.number("group_size").unwrap_or(default).max(1);
                let (rows, columns) = self.values.matrix("values")?;
                scale.shaped("scales", &[rows.div_ceil(side), columns.div_ceil(side)])?;
                let grid = ScaleGrid::of_blocks(numbers, shape, side, side);
                Ok((format!(", blocks of {side}×{side}"), grid))
            }
        }
    }

    fn int8_blocks(&self) -> Result<PackedTensor, String> {
        self.values.typed("values", &[DType::I8])?;
        self.only_scales()?;
        let shape = self.values.stored.shape.clone();
        let (division, grid) = self.grid(self.scales()?, &shape, Division::Blocks(128))?;
        let original = self.listing.original(self.values.dtype());
        Ok(signed_bytes(self.values, format!("comfyui int8{division}"), grid, original))
    }

    /// One scale, or one for each row; rotated if the marker says so.
    fn int8(&self) -> Result<PackedTensor, String> {
        self.values.typed("values", &[DType::I8])?;
        self.only_scales()?;
        let scale = self.scales()?;
        let shape = self.values.stored.shape.clone();
        let (division, grid) = self.grid(scale, &shape, Division::TensorOrRows)?;
        if self.marker.flag("convrot") {
            let (_, columns) = self.values.matrix("values")?;
            let rotation = self.rotation(columns)?;
            let name = format!("comfyui int8{division}, rotated in runs of {}", rotation.size);
            let format = self.plain(name, Codes::SignedBytes, shape, grid);
            return Ok(self.tensor(Scaled { rotation: Some(rotation), ..format }));
        }
        let Some(scale_type) = scale.dtype().float() else {
            return Err(format!("its scales are {}, expected floats", scale.dtype()));
        };
        let name = self.values.stored.name.as_str();
        let recorded = self.listing.recorded_type(self.values, name);
        let format = Int8 {
            container: Some(NAME),
            values: self.values.id,
            stored_as: Int8Values::Signed,
            scale: scale.id,
            scale_type,
            biases: None,
            scheme: match scale.elements() {
                1 => QuantizationScheme::PER_TENSOR,
                _ => QuantizationScheme::PER_CHANNEL,
            },
            rounding: self.listing.rounding(self.values),
            calibration: self.listing.calibration(self.values, name),
            original: recorded.unwrap_or_else(|| self.listing.original(self.values.dtype())),
            shape: shape.clone(),
            beside: Vec::new(),
        };
        Ok(PackedTensor::new(name, shape, format))
    }

    fn rotation(&self, columns: u64) -> Result<Rotation, String> {
        let size = self.marker.number("convrot_groupsize").unwrap_or(DEFAULT_ROTATION);
        let power_of_4 = size.is_power_of_two() && size.trailing_zeros().is_multiple_of(2);
        if power_of_4 && size <= 1 << 16 && columns.is_multiple_of(size) {
            return Ok(Rotation { size });
        }
        Err(format!("its rotation of {size} columns does not fit its {columns} columns"))
    }

    /// Two signed 4-bit integers in a byte, rotated.
    fn convrot_int4(&self) -> Result<PackedTensor, String> {
        self.values.typed("values", &[DType::I8])?;
        self.only_scales()?;
        let scale = self.scales()?;
        let (rows, bytes) = self.values.matrix("packed values")?;
        let columns = product(bytes, 2)?;
        let shape = shape(vec![rows, columns])?;
        scale.shaped("scales", &[rows])?;
        let rotation = self.rotation(columns)?;
        let grid = ScaleGrid::of_rows(FloatPart::new(scale, "scales")?, &shape);
        let name = format!("comfyui int4 per-channel, rotated in runs of {}", rotation.size);
        let format = self.plain(name, Codes::SignedNibbles, shape, grid);
        Ok(self.tensor(Scaled { rotation: Some(rotation), ..format }))
    }

    fn mxfp8(&self) -> Result<PackedTensor, String> {
        self.values.typed("values", &[DType::F8E4M3])?;
        self.only_scales()?;
        self.group_size(32)?;
        let scale = self.scales()?;
        let (rows, columns) = self.values.matrix("values")?;
        scale.shaped("scales", &ScaleGrid::tiled_dims(rows, columns, 32))?;
        let shape = self.values.stored.shape.clone();
        let table = value_table(&DType::F8E4M3).ok_or("it does not hold 8-bit floats")?;
        let numbers = FloatPart::exponents_or_zero(scale, "scales")?;
        let grid = ScaleGrid::of_tiled_groups(numbers, &shape, 32);
        let name = "comfyui mxfp8, blocks of 32".to_owned();
        Ok(self.tensor(self.plain(name, Codes::Bytes(table), shape, grid)))
    }

    fn nvfp4(&self) -> Result<PackedTensor, String> {
        self.values.typed("packed values", &[DType::U8])?;
        self.group_size(16)?;
        let scale = self.scales()?;
        let global_name = format!("{}.weight_scale_2", self.module);
        let global = required(self.beside("weight_scale_2"), "global scale", &global_name)?;
        global.single("global scale")?;
        let (rows, bytes) = self.values.matrix("packed values")?;
        let columns = product(bytes, 2)?;
        scale.shaped("scales", &ScaleGrid::tiled_dims(rows, columns, 16))?;
        let shape = shape(vec![rows, columns])?;
        let numbers = FloatPart::bytes_of(scale, "scales", DType::F8E4M3)?;
        let grid = ScaleGrid::of_tiled_groups(numbers, &shape, 16);
        let (column_factor, factor) = column_factor(self.listing, self.module, columns)?;
        let name = "comfyui nvfp4, blocks of 16".to_owned();
        let format = self.plain(name, Codes::E2m1(FirstNibble::High), shape, grid);
        let parts = [scale.id, global.id].into_iter().chain(factor).collect();
        let global = Some(GlobalScale::Multiplies(FloatPart::new(global, "global scale")?));
        let is_preset = column_factor.is_none();
        let format = Scaled { global, column_factor, parts, ..format };
        Ok(self.tensor(self.recorded(format, Preset::Nvfp4ComfyUi, is_preset)))
    }

    /// Checks that the marker's group size is that of the format.
    fn group_size(&self, size: u64) -> Result<(), String> {
        match self.marker.number("group_size") {
            Some(found) if found != size => {
                Err(format!("its marker says groups of {found}, expected {size}"))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Copy)]
enum Division {
    TensorOrRows,
    /// Square blocks of a default size.
    Blocks(u64),
}
