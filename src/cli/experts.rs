//! The errors of the experts of each layer, for `analyze`.

use super::measured::Measured;
use super::table::{Column, Table};
use crate::checkpoint::Checkpoint;
use crate::plan::experts::{ExpertErrors, ExpertLayer, ExpertLayers, TensorLoss};
use crate::quantization::{QuantizationScheme, Quantized, Thresholds};
use crate::report::experts::ExpertLayerFigures;
use crate::tensor::TensorId;
use crate::text::{figures, names};
use std::collections::HashMap;
use std::io::{self, Write};

/// The layers of experts among the measured tensors, with their errors for each scheme.
pub(super) struct MeasuredExperts {
    layers: Vec<(ExpertLayer, Vec<(QuantizationScheme, ExpertErrors)>)>,
}

impl MeasuredExperts {
    /// The errors for each of `schemes`, which are those of the outcomes in the same order.
    pub(super) fn of<'m>(
        checkpoint: &Checkpoint,
        schemes: &[QuantizationScheme],
        measured: &'m [Measured],
    ) -> MeasuredExperts {
        let layers = ExpertLayers::of(checkpoint);
        if layers.all().is_empty() {
            return MeasuredExperts { layers: Vec::new() };
        }
        let found: HashMap<TensorId, &'m Measured> = measured.iter().map(|m| (m.id, m)).collect();
        let errors = |layer: &ExpertLayer| {
            let of_scheme = |(place, &scheme): (usize, &QuantizationScheme)| {
                let errors = layer.errors(|id| {
                    let quantized = found.get(&id)?.quantized(place);
                    let loss =
                        |q: &'m Quantized| TensorLoss { loss: q.loss(), experts: q.experts() };
                    Some(quantized.map(loss).unwrap_or_default())
                });
                Some((scheme, errors?))
            };
            let errors: Vec<_> = schemes.iter().enumerate().filter_map(of_scheme).collect();
            (!errors.is_empty()).then(|| (layer.clone(), errors))
        };
        MeasuredExperts { layers: layers.all().iter().filter_map(errors).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The figures for JSON: one object for each layer and scheme.
    pub(super) fn figures(&self) -> Vec<ExpertLayerFigures> {
        let each = self.layers.iter().flat_map(|(layer, errors)| {
            errors
                .iter()
                .map(move |(scheme, errors)| ExpertLayerFigures::new(layer, Some(*scheme), errors))
        });
        each.collect()
    }

    /// Prints a table of the layers.
    pub(super) fn print(
        &self,
        out: &mut impl Write,
        width: Option<usize>,
        thresholds: &Thresholds,
    ) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&[
            ("layer of experts", Column::Name),
            ("scheme", Column::Left),
            ("experts", Column::Right),
            ("SQNR", Column::Right),
            ("", Column::Left),
            ("worst expert", Column::Left),
            ("best expert", Column::Left),
            ("mean", Column::Right),
            ("spread", Column::Right),
        ]);
        for (layer, errors) in &self.layers {
            for (scheme, errors) in errors {
                table.cell(names::visible(&layer.path));
                table.cell(scheme);
                match errors.unknown {
                    0 => table.cell(errors.experts.len()),
                    n => table.cell(format_args!(
                        "{} of {}",
                        errors.experts.len(),
                        errors.experts.len() + n
                    )),
                }
                table.cell(figures::decibels(errors.sqnr_db()));
                table.cell(thresholds.rate(errors.sqnr_db()).name());
                for of in [errors.worst(), errors.best()] {
                    let text =
                        of.map(|(expert, db)| format!("{expert}: {}", figures::decibels(db)));
                    table.cell(text.unwrap_or_default());
                }
                for of in [errors.mean_db(), errors.spread_db()] {
                    table.cell(of.map(figures::decibels).unwrap_or_default());
                }
            }
        }
        writeln!(out)?;
        table.print(out, width)?;
        writeln!(
            out,
            "The SQNR of a layer is that of the elements of all its experts together; mean and spread\nare over the experts."
        )
    }
}
