//! Groups that lie whole in one chunk: calibrated and measured while it is in the cache.

use crate::quantization::analysis::multi_pass::Asked;
use crate::quantization::kernels::{self, ChannelSums, GroupFindings, GroupLosses, Seen, Wanted};
use crate::quantization::{
    Calibration, Groups, Loss, NotQuantizable, QuantizationScheme, Quantized,
};
use crate::tensor::FloatType;
use std::ops::Range as Elements;

/// A scheme whose groups lie whole in one chunk each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole<'l> {
    pub asked: Asked<'l>,
    pub groups: Groups,
}

/// What a chunk's groups turned out to be, and the channels that go on in the next.
#[derive(Debug)]
pub(super) struct Found {
    pub quantized: Quantized,
    pub channels: Vec<(u64, Loss)>,
}

/// Blocks of 32, 64 and 128 elements, which one sweep answers together.
pub(super) const NESTED: [u32; 3] = [32, 64, 128];

/// A run of elements.
#[derive(Clone, Copy)]
pub(super) struct Run<'b> {
    /// The index of its first element.
    pub start: u64,
    pub bytes: &'b [u8],
}

impl<'b> Run<'b> {
    /// The runs of it that lie in a part of `groups` each.
    pub(super) fn divided(
        self,
        groups: &Groups,
        dtype: FloatType,
    ) -> impl Iterator<Item = (u64, Run<'b>)> + use<'b> {
        let end = self.start + (self.bytes.len() / dtype.size()) as u64;
        groups.segments(self.start..end).map(move |(group, part): (u64, Elements<u64>)| {
            let at = |element: u64| (element - self.start) as usize * dtype.size();
            let bytes = self.bytes.get(at(part.start)..at(part.end)).unwrap_or_default();
            (group, Run { start: part.start, bytes })
        })
    }

    /// It, cut where a row ends that it starts within.
    fn cut_at_row(self, groups: &Groups, dtype: FloatType) -> impl Iterator<Item = Run<'b>> {
        let into_row = self.start % groups.row_len();
        let rest = if into_row == 0 { 0 } else { groups.row_len() - into_row };
        let cut = (rest as usize).saturating_mul(dtype.size()).min(self.bytes.len());
        let (rest, rows) = self.bytes.split_at(cut);
        let after = Run { start: self.start + (cut / dtype.size()) as u64, bytes: rows };
        [Run { bytes: rest, ..self }, after].into_iter().filter(|part| !part.bytes.is_empty())
    }

    /// Where it is cut by output channels, which are groups of equal length.
    pub(super) fn cuts(self, channels: &Groups) -> ChannelSums {
        let length = channels.row_len();
        let narrow = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        ChannelSums { first: narrow(length - self.start % length), length: narrow(length) }
    }

    /// What its channels lose, each with its number.
    pub(super) fn numbered(
        self,
        channels: Option<&Groups>,
        errors: Vec<Loss>,
    ) -> impl Iterator<Item = (u64, Loss)> {
        (channels.map_or(0, |channels| channels.of(self.start))..).zip(errors)
    }
}

impl Whole<'_> {
    /// Whether its groups are output channels or parts of them, calibrated by min-max.
    fn by_absmax(&self) -> bool {
        self.asked.quantizer().calibration == Calibration::MinMax && self.groups.count() != 1
    }

    /// The places of three schemes that one sweep answers: blocks of [`NESTED`] lengths in
    /// rows of the same length, alike in everything else.
    pub(super) fn nested(all: &[Option<Whole>]) -> Option<[usize; 3]> {
        let place = |length: u32| {
            all.iter().position(|whole| {
                whole.is_some_and(|w| {
                    let scheme = w.asked.quantizer().scheme;
                    w.by_absmax()
                        && matches!(scheme, QuantizationScheme::PerBlock(_, _, n) if n == length)
                })
            })
        };
        let places = [place(NESTED[0])?, place(NESTED[1])?, place(NESTED[2])?];
        let alike = places.map(|i| {
            let whole = all.get(i).copied().flatten()?;
            let qtype = whole.asked.quantizer().scheme.quantization_type();
            Some((qtype, whole.asked.rounding, whole.groups.row_len()))
        });
        // A row that is shorter than a block is one group, which is another sweep.
        let row = alike[0]?.2;
        (alike[0] == alike[1] && alike[1] == alike[2] && row >= 128).then_some(places)
    }

    /// Calibrates and measures the groups of a chunk, and what each of `channels` loses.
    pub(super) fn look(
        &self,
        chunk: Run,
        channels: Option<&Groups>,
        found: &mut Found,
    ) -> Result<(), NotQuantizable> {
        let dtype = self.asked.dtype;
        let losses_only = found.quantized.loss.is_some();
        let wanted = losses_only || found.quantized.error.is_some();
        if !self.by_absmax() {
            let mut seen = Seen::default();
            for (number, group) in chunk.divided(&self.groups, dtype) {
                let (clip, scale) = self.asked.scale(number, group.bytes)?;
                found.quantized.scales.push(clip, scale);
                if wanted {
                    let how = self.asked.how(scale);
                    let cuts = channels.map(|channels| group.cuts(channels));
                    let (sums, errors) =
                        kernels::error_by_channel(dtype, group.bytes, how, cuts, &mut seen);
                    found.quantized.add(&sums);
                    found.channels.extend(group.numbered(channels, errors));
                }
            }
        } else if wanted {
            for run in chunk.cut_at_row(&self.groups, dtype) {
                let wanted = found.wanted(run, channels);
                let layout = self.groups.into();
                let how = self.how();
                if losses_only {
                    let groups = kernels::group_loss(dtype, run.bytes, layout, how, wanted);
                    found.take_losses(run, channels, groups.map_err(overflow)?);
                } else {
                    let groups = kernels::group_error(dtype, run.bytes, layout, how, wanted);
                    found.take(run, channels, groups.map_err(overflow)?);
                }
            }
        } else {
            for run in chunk.cut_at_row(&self.groups, dtype) {
                for absmax in self.absmaxes(run.bytes) {
                    let scale = self.asked.quantizer().scale_for(absmax, FloatType::F32)?;
                    found.quantized.scales.push(absmax, scale);
                }
            }
        }
        Ok(())
    }

    /// The same for three schemes that are [`Whole::nested`], in one sweep.
    pub(super) fn look_nested(
        nested: [&Whole; 3],
        chunk: Run,
        channels: Option<&Groups>,
        mut found: [&mut Found; 3],
    ) -> Result<(), NotQuantizable> {
        let whole = nested[0];
        let (groups, dtype) = (&whole.groups, whole.asked.dtype);
        let row = usize::try_from(groups.row_len()).unwrap_or(usize::MAX);
        for run in chunk.cut_at_row(groups, dtype) {
            let wanted = found[0].wanted(run, channels);
            if found[0].quantized.loss.is_some() {
                let blocks = kernels::block_losses(dtype, run.bytes, row, whole.how(), wanted);
                for (found, blocks) in found.iter_mut().zip(blocks.map_err(overflow)?) {
                    found.take_losses(run, channels, blocks);
                }
                continue;
            }
            let blocks = kernels::block_errors(dtype, run.bytes, row, whole.how(), wanted);
            for (found, blocks) in found.iter_mut().zip(blocks.map_err(overflow)?) {
                found.take(run, channels, blocks);
            }
        }
        Ok(())
    }

    fn how(&self) -> kernels::GroupQuantization {
        let qtype = self.asked.quantizer().scheme.quantization_type();
        let rounding = self.asked.rounding;
        kernels::GroupQuantization { qtype, rounding, scale_type: FloatType::F32 }
    }

    /// The largest magnitude of every group in `bytes`, which start where one does.
    fn absmaxes(&self, bytes: &[u8]) -> Vec<f64> {
        let dtype = self.asked.dtype;
        let mut absmaxes = vec![0.0; self.groups.count_in((bytes.len() / dtype.size()) as u64)];
        kernels::group_absmax(dtype, bytes, self.groups.into(), &mut absmaxes);
        absmaxes
    }
}

impl Found {
    /// What is to be told of a run's groups.
    fn wanted(&self, run: Run, channels: Option<&Groups>) -> Wanted {
        let channels = channels.map(|channels| run.cuts(channels));
        Wanted { every_scale: self.quantized.scales.all.is_some(), channels }
    }

    fn take(&mut self, run: Run, channels: Option<&Groups>, groups: GroupFindings) {
        self.quantized.scales.append(groups.scales);
        self.quantized.add(&groups.sums);
        self.channels.extend(run.numbered(channels, groups.channels));
    }

    fn take_losses(&mut self, run: Run, channels: Option<&Groups>, groups: GroupLosses) {
        self.quantized.scales.append(groups.scales);
        if let Some(loss) = &mut self.quantized.loss {
            loss.merge(&groups.loss);
        }
        self.channels.extend(run.numbered(channels, groups.channels));
    }
}

fn overflow(why: kernels::NoScale) -> NotQuantizable {
    NotQuantizable::ScaleOverflow { absmax: why.absmax }
}
