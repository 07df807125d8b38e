//! The stored tensors of a weight beside its values, and checks of them.

use crate::checkpoint::packed::listing::{Listing, PartTensor, module_of};
use crate::checkpoint::packed::quant_config::WeightScheme;
use crate::checkpoint::stored::StoredId;
use crate::tensor::DType;

/// The name of the container.
pub(super) const NAME: &str = "compressed-tensors";

/// Quantization methods whose tensors have this format.
pub(super) const METHODS: [&str; 1] = [NAME];

/// Returns the leading dimensions of a stack of matrices, and the rows and columns of one.
pub(super) fn stack<'p>(
    values: PartTensor<'p>,
    what: &str,
) -> Result<(&'p [u64], u64, u64), String> {
    match values.stored.shape.dims() {
        [leading @ .., rows, columns] if leading.len() <= 1 => Ok((leading, *rows, *columns)),
        _ => Err(values.matrix(what).err().unwrap_or_default()),
    }
}

/// Checks that an optional part is absent.
pub(super) fn none(part: Option<PartTensor>, what: &str) -> Result<(), String> {
    match part {
        None => Ok(()),
        Some(part) => Err(format!("it has {what}, '{}'", part.stored.name.escape_debug())),
    }
}

/// Checks that the module has no further factors, which this decoder would ignore.
pub(super) fn no_further_factors(listing: &Listing, name: &str) -> Result<(), String> {
    let module = module_of(name);
    let names = ["pre_quant_scale", "svdquant_lora_a", "weight_scale_2", "weight_scale_inv"];
    let found = names.iter().find_map(|last| listing.get(&format!("{module}.{last}")));
    none(found, "a further part of its equation")
}

/// Checks that parts required by the configuration exist.
pub(super) fn agrees_with_parts(
    scheme: &WeightScheme,
    zeros: Option<PartTensor>,
    order: Option<PartTensor>,
) -> Result<(), String> {
    if scheme.symmetric == Some(false) && zeros.is_none() {
        return Err("config.json says that it is asymmetric, its zero points are missing".into());
    }
    if scheme.act_order.as_deref() == Some("group") && order.is_none() {
        return Err("config.json says activation order, its group indices are missing".into());
    }
    Ok(())
}

/// Returns the group index of each column if columns are reordered. All −1 means that they are not.
pub(super) fn act_order(
    listing: &Listing,
    part: PartTensor,
    columns: u64,
) -> Result<Option<StoredId>, String> {
    part.typed("group indices", &[DType::I32])?;
    part.shaped("group indices", &[columns])?;
    let first = listing.start(part, 4)?;
    Ok((first != [0xFF; 4]).then_some(part.id))
}
