//! Tensors that accompany quantized weights without being used to decode them: scales of
//! activations and of key-value caches, and markers.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::comfyui_markers::{FILE_MARKER, MARKER};
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::packed::int8::Int8;
use crate::checkpoint::stored::{Stored, StoredId};
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::Preset;
use crate::tensor::FloatType;
use std::collections::BTreeMap;
use std::ops::Range;

/// The last components of names of activation scales and markers.
const ATTACHMENT_NAMES: [&str; 22] = [
    "input_scale",
    "input_zero_point",
    "output_scale",
    "output_zero_point",
    "activation_scale",
    "input_scale_ub",
    "input_global_scale",
    "act_global_scale",
    "scale_input",
    "qscale_act",
    "weight_format",
    "k_scale",
    "v_scale",
    "q_scale",
    "kv_scale",
    "prob_scale",
    "kv_cache_scaling_factor",
    "k_zero_point",
    "v_zero_point",
    "q_zero_point",
    MARKER,
    FILE_MARKER,
];

/// Suffixes of such names in modules that hold several weights.
const ATTACHMENT_SUFFIXES: [&str; 2] = ["_activation_scale", "_input_scale"];

/// Maximum number of elements of an activation scale.
const MAX_SCALE_ELEMENTS: u64 = 1 << 16;

/// A packed tensor with attached stored tensors, which are dropped together with it.
#[derive(Debug)]
struct Attached {
    format: Box<dyn PackedFormat>,
    attached: Vec<StoredId>,
}

/// Attaches activation scales and markers among the unclaimed stored tensors to the nearest packed
/// tensor: one of the same module, or of the nearest enclosing module.
/// Tensors described by quantscope's own metadata have no attachments: the metadata names all
/// parts, and a scale that the source already had stays a tensor.
pub(super) fn attach<'s>(
    tensors: Vec<PackedTensor>,
    free: impl Iterator<Item = (StoredId, &'s Stored)>,
) -> Vec<PackedTensor> {
    let is_native = |tensor: &PackedTensor| match tensor.format.int8() {
        Some(int8) => int8.container.is_none(),
        None => false,
    };
    let foreign = tensors.iter().enumerate().filter(|(_, tensor)| !is_native(tensor));
    let names: BTreeMap<String, usize> =
        foreign.map(|(at, tensor)| (tensor.name.clone(), at)).collect();
    if names.is_empty() {
        return tensors;
    }
    let mut attached: BTreeMap<usize, Vec<StoredId>> = BTreeMap::new();
    for (id, stored) in free.filter(|(_, stored)| is_attachment(stored)) {
        let owner = nearest(&names, &stored.name);
        attached.entry(owner).or_default().push(id);
    }
    let with = |(at, tensor): (usize, PackedTensor)| match attached.remove(&at) {
        Some(attached) => {
            let format = Attached { format: tensor.format, attached };
            PackedTensor { format: Box::new(format), ..tensor }
        }
        None => tensor,
    };
    tensors.into_iter().enumerate().map(with).collect()
}

fn is_attachment(stored: &Stored) -> bool {
    let name = stored.name.as_str();
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
    let cache = ["k_scale", "v_scale", "q_scale", "kv_scale", "prob_scale"].contains(&last);
    let elements = stored.shape.elements();
    // A per-channel factor may be part of the network.
    names_attachment(last) && elements <= if cache { 1 } else { MAX_SCALE_ELEMENTS }
}

/// Returns whether the last component of a name is that of an activation scale or a marker.
pub(super) fn names_attachment(last: &str) -> bool {
    ATTACHMENT_NAMES.contains(&last) || ATTACHMENT_SUFFIXES.iter().any(|end| last.ends_with(end))
}

/// Returns the index of the packed tensor whose module is nearest to a name.
fn nearest(names: &BTreeMap<String, usize>, name: &str) -> usize {
    let mut prefix = name;
    loop {
        prefix = prefix.rsplit_once('.').map_or("", |(prefix, _)| prefix);
        let start = if prefix.is_empty() { String::new() } else { format!("{prefix}.") };
        let first = names.range(start.clone()..).next();
        if let Some((_, &at)) = first.filter(|(name, _)| name.starts_with(&start)) {
            return at;
        }
        if prefix.is_empty() {
            return 0;
        }
    }
}

impl PackedFormat for Attached {
    fn name(&self) -> String {
        self.format.name()
    }

    fn int8(&self) -> Option<&Int8> {
        self.format.int8()
    }

    fn preset(&self) -> Option<Preset> {
        self.format.preset()
    }

    fn original(&self) -> FloatType {
        self.format.original()
    }

    fn decoded(&self) -> Option<FloatType> {
        self.format.decoded()
    }

    fn parts(&self) -> Vec<StoredId> {
        [self.format.parts(), self.attached.clone()].concat()
    }

    fn decode(
        &self,
        reader: &mut StoredReader,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.format.decode(reader, range, out)
    }
}
