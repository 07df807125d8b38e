//! The summary below `inspect`: tensors by dtype and by role, and the size in int8 and int4.

use crate::cli::listing::Row;
use crate::cli::table::{Column, Table};
use crate::plan::Obstacle;
use crate::quantization::{QuantizationMode, QuantizationScheme, QuantizationType};
use crate::report::document::Totals;
use crate::text::{figures, names};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The scheme of the size in int4: common block size, one F32 scale per block.
const INT4: QuantizationScheme =
    QuantizationScheme::PerBlock(QuantizationMode::Symmetric, QuantizationType::QInt4, 32);

/// The role of a tensor in a network, guessed from its name and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum TensorRole {
    Attention,
    Mlp,
    Experts,
    Embedding,
    OutputHead,
    Convolution,
    Norm,
    Vector,
    Optimizer,
    Other,
}

impl TensorRole {
    fn name(self) -> &'static str {
        match self {
            TensorRole::Attention => "attention",
            TensorRole::Mlp => "MLP",
            TensorRole::Experts => "experts",
            TensorRole::Embedding => "embedding",
            TensorRole::OutputHead => "output head",
            TensorRole::Convolution => "convolution",
            TensorRole::Norm => "norm",
            TensorRole::Vector => "bias or vector",
            TensorRole::Optimizer => "optimizer state",
            TensorRole::Other => "other",
        }
    }

    fn of(row: &Row) -> TensorRole {
        match row.obstacle {
            Some(Obstacle::Embedding) => return TensorRole::Embedding,
            Some(Obstacle::Norm) => return TensorRole::Norm,
            Some(Obstacle::OptimizerState) => return TensorRole::Optimizer,
            Some(Obstacle::Bias) => return TensorRole::Vector,
            _ => {}
        }
        match row.tensor.shape.rank() {
            0 | 1 => TensorRole::Vector,
            rank => TensorRole::of_name(&row.tensor.name).unwrap_or({
                let is_kernel = rank > 2 && row.tensor.name.ends_with(".weight");
                if is_kernel { TensorRole::Convolution } else { TensorRole::Other }
            }),
        }
    }

    /// The role of the first of [`ROLE_WORDS`] in the name.
    fn of_name(name: &str) -> Option<TensorRole> {
        let name = name.to_ascii_lowercase();
        let role = ROLE_WORDS.iter().find(|(word, _)| name.contains(word)).map(|(_, role)| *role);
        let is_head = || HEAD_STARTS.iter().any(|start| name.starts_with(start));
        role.or_else(|| is_head().then_some(TensorRole::OutputHead))
    }
}

/// Words in names with the roles they stand for.
const ROLE_WORDS: [(&str, TensorRole); 24] = [
    ("expert", TensorRole::Experts),
    ("_exps", TensorRole::Experts),
    (".moe.", TensorRole::Experts),
    ("attn", TensorRole::Attention),
    ("attention", TensorRole::Attention),
    ("q_proj", TensorRole::Attention),
    ("k_proj", TensorRole::Attention),
    ("v_proj", TensorRole::Attention),
    ("o_proj", TensorRole::Attention),
    ("qkv", TensorRole::Attention),
    ("mlp", TensorRole::Mlp),
    ("ffn", TensorRole::Mlp),
    ("feed_forward", TensorRole::Mlp),
    ("feedforward", TensorRole::Mlp),
    ("intermediate", TensorRole::Mlp),
    ("fc1", TensorRole::Mlp),
    ("fc2", TensorRole::Mlp),
    ("up_proj", TensorRole::Mlp),
    ("down_proj", TensorRole::Mlp),
    ("gate_proj", TensorRole::Mlp),
    ("output.dense", TensorRole::Mlp),
    ("lm_head", TensorRole::OutputHead),
    ("classifier", TensorRole::OutputHead),
    ("embed_out", TensorRole::OutputHead),
];

/// Starts of the names of output heads.
const HEAD_STARTS: [&str; 4] = ["output.", "head.", "score.", "fc."];

/// Number, elements and bytes of some tensors.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Count {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

impl Count {
    fn merge(&mut self, other: Count) {
        self.tensors += other.tensors;
        self.parameters = self.parameters.saturating_add(other.parameters);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// The counts of the listed tensors.
#[derive(Debug, Default)]
pub(super) struct Overview {
    dtypes: BTreeMap<String, Count>,
    roles: BTreeMap<TensorRole, Count>,
    bytes_int4: u64,
}

/// The overview in the JSON document.
#[derive(Serialize)]
pub(super) struct OverviewDocument<'a> {
    dtypes: Vec<DtypeCount<'a>>,
    roles: Vec<RoleCount>,
    bytes_int8: u64,
    bytes_int4: u64,
}

#[derive(Serialize)]
struct DtypeCount<'a> {
    dtype: &'a str,
    #[serde(flatten)]
    count: Count,
}

#[derive(Serialize)]
struct RoleCount {
    role: TensorRole,
    #[serde(flatten)]
    count: Count,
}

impl Overview {
    pub(super) fn add(&mut self, row: &Row) {
        let tensor = row.tensor;
        let count = Count { tensors: 1, parameters: tensor.parameters(), bytes: tensor.bytes };
        match self.dtypes.get_mut(tensor.dtype.name()) {
            Some(counted) => counted.merge(count),
            None => _ = self.dtypes.insert(tensor.dtype.name().to_owned(), count),
        }
        self.roles.entry(TensorRole::of(row)).or_default().merge(count);
        let bytes = if row.is_selected() { INT4.bytes(&tensor.shape, 4) } else { tensor.bytes };
        self.bytes_int4 = self.bytes_int4.saturating_add(bytes);
    }

    /// Adds the counts of further tensors.
    pub(super) fn merge(&mut self, other: Overview) {
        for (dtype, count) in other.dtypes {
            self.dtypes.entry(dtype).or_default().merge(count);
        }
        for (role, count) in other.roles {
            self.roles.entry(role).or_default().merge(count);
        }
        self.bytes_int4 = self.bytes_int4.saturating_add(other.bytes_int4);
    }

    /// Prints the tables. `scheme` is the int8 scheme of `totals`.
    pub(super) fn print(
        &self,
        totals: &Totals,
        scheme: QuantizationScheme,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let dtypes = self.dtypes.iter().map(|(dtype, count)| (names::visible(dtype), *count));
        print_counts("dtype", dtypes, out)?;
        let roles = self.roles.iter().map(|(role, count)| (role.name().into(), *count));
        print_counts("role", roles, out)?;
        let columns =
            [("size", Column::Left), ("bytes", Column::Right), ("of source", Column::Right)];
        let mut table = Table::new(&columns);
        let sizes = [
            (format!("int8, {scheme}"), totals.bytes_quantized),
            ("int4, per-block:32".to_owned(), self.bytes_int4),
        ];
        for (name, bytes) in sizes {
            table.cell(name);
            table.cell(figures::bytes(bytes));
            table.cell(figures::percent(bytes as f64 / totals.bytes.max(1) as f64));
        }
        writeln!(out)?;
        table.print(out, None)
    }

    pub(super) fn document(&self, totals: &Totals) -> OverviewDocument<'_> {
        let dtypes = self.dtypes.iter();
        let roles = self.roles.iter();
        OverviewDocument {
            dtypes: dtypes.map(|(dtype, count)| DtypeCount { dtype, count: *count }).collect(),
            roles: roles.map(|(role, count)| RoleCount { role: *role, count: *count }).collect(),
            bytes_int8: totals.bytes_quantized,
            bytes_int4: self.bytes_int4,
        }
    }
}

/// Prints one line per name, largest first.
fn print_counts<'n>(
    title: &str,
    counts: impl Iterator<Item = (std::borrow::Cow<'n, str>, Count)>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(count.bytes));
    let mut table = Table::new(&[
        (title, Column::Left),
        ("tensors", Column::Right),
        ("parameters", Column::Right),
        ("bytes", Column::Right),
    ]);
    for (name, count) in counts {
        table.cell(name);
        table.cell(count.tensors);
        table.cell(figures::parameters(count.parameters));
        table.cell(figures::bytes(count.bytes));
    }
    writeln!(out)?;
    table.print(out, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_of_the_table_decides_the_role() {
        for (name, role) in [
            ("model.layers.0.self_attn.q_proj.weight", Some(TensorRole::Attention)),
            ("model.layers.0.mlp.experts.3.up_proj.weight", Some(TensorRole::Experts)),
            ("model.layers.0.MLP.gate.weight", Some(TensorRole::Mlp)),
            ("encoder.layer.0.output.dense.weight", Some(TensorRole::Mlp)),
            ("fc.weight", Some(TensorRole::OutputHead)),
            ("Output.weight", Some(TensorRole::OutputHead)),
            ("conv.fc.weight", None),
            ("", None),
        ] {
            assert_eq!(TensorRole::of_name(name), role, "{name}");
        }
    }
}
