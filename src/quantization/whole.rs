//! Groups that lie whole in one chunk: calibrated and measured while it is in the cache.

use super::channels::ChannelError;
use super::kernels::{self, Quantization, Seen};
use super::spread::Asked;
use super::{Calibration, ErrorSums, Groups, NotQuantizable, QuantizationScheme, Quantized};
use crate::tensor::FloatType;
use std::ops::Range as Elements;

/// A scheme whose groups lie whole in one chunk each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub asked: Asked,
    pub groups: Groups,
}

/// What a chunk's groups turned out to be, and the channels that go on in the next.
#[derive(Debug)]
pub(super) struct Found {
    pub quantized: Quantized,
    pub channels: Vec<(u64, ChannelError)>,
    /// The levels of the runs so far.
    pub seen: Seen,
}

/// Blocks of 32, 64 and 128 elements, which one sweep answers together.
pub(super) const NESTED: [u32; 3] = [32, 64, 128];

/// A run of elements, of one channel where channels are asked about.
#[derive(Clone, Copy)]
pub(super) struct Run<'b> {
    pub channel: Option<u64>,
    /// The index of its first element.
    pub start: u64,
    pub bytes: &'b [u8],
}

impl<'b> Run<'b> {
    /// The runs of it that lie in a part of `groups` each.
    pub fn divided(
        self,
        groups: &Groups,
        dtype: FloatType,
    ) -> impl Iterator<Item = (u64, Run<'b>)> + use<'b> {
        let end = self.start + (self.bytes.len() / dtype.size()) as u64;
        groups.segments(self.start..end).map(move |(group, part): (u64, Elements<u64>)| {
            let at = |element: u64| (element - self.start) as usize * dtype.size();
            let bytes = self.bytes.get(at(part.start)..at(part.end)).unwrap_or_default();
            (group, Run { channel: self.channel, start: part.start, bytes })
        })
    }

    /// It, cut where a row ends that it starts within.
    fn cut_at_row(self, groups: &Groups, dtype: FloatType) -> impl Iterator<Item = &'b [u8]> {
        let into_row = self.start % groups.row_len();
        let rest = if into_row == 0 { 0 } else { groups.row_len() - into_row };
        let cut = (rest as usize).saturating_mul(dtype.size()).min(self.bytes.len());
        let (rest, rows) = self.bytes.split_at(cut);
        [rest, rows].into_iter().filter(|part| !part.is_empty())
    }
}

impl Whole {
    /// Whether its groups are output channels or parts of them, calibrated by min-max.
    fn by_absmax(&self) -> bool {
        self.asked.quantizer.calibration == Calibration::MinMax && self.groups.count() != 1
    }

    /// The places of three schemes that one sweep answers: blocks of [`NESTED`] lengths in
    /// rows of the same length, alike in everything else.
    pub fn nested(all: &[Option<Whole>]) -> Option<[usize; 3]> {
        let place = |length: u32| {
            all.iter().position(|whole| {
                whole.is_some_and(|w| {
                    let scheme = w.asked.quantizer.scheme;
                    w.by_absmax()
                        && matches!(scheme, QuantizationScheme::PerBlock(_, _, n) if n == length)
                })
            })
        };
        let places = [place(NESTED[0])?, place(NESTED[1])?, place(NESTED[2])?];
        let alike = places.map(|i| {
            let whole = all.get(i).copied().flatten()?;
            let qtype = whole.asked.quantizer.scheme.quantization_type();
            Some((qtype, whole.asked.rounding, whole.groups.row_len()))
        });
        // A row that is shorter than a block is one group, which is another sweep.
        let row = alike[0]?.2;
        (alike[0] == alike[1] && alike[1] == alike[2] && row >= 128).then_some(places)
    }

    /// Calibrates and measures the groups of one run, which is a chunk or a channel in it.
    /// `scale`: the one scale of a tensor that lies whole in this chunk.
    pub fn look(
        &self,
        run: Run,
        scale: Option<f32>,
        found: &mut Found,
    ) -> Result<(), NotQuantizable> {
        let Asked { quantizer, rounding, dtype } = self.asked;
        let qtype = quantizer.scheme.quantization_type();
        let wanted = found.quantized.error.is_some();
        let mut sums = ErrorSums::default();
        if let Some(scale) = scale {
            if wanted {
                let how = Quantization { scale, qtype, rounding };
                sums = kernels::error_after(dtype, run.bytes, how, &mut found.seen);
            }
        } else if self.by_absmax() {
            for bytes in run.cut_at_row(&self.groups, dtype) {
                for absmax in self.absmaxes(bytes) {
                    let scale = quantizer.scale_for(absmax, FloatType::F32)?;
                    found.quantized.scales.push(absmax, scale);
                }
                if wanted {
                    let how = self.how();
                    let layout = self.groups.into();
                    let error =
                        kernels::group_error_after(dtype, bytes, layout, how, &mut found.seen);
                    sums.merge(&error.map_err(overflow)?);
                }
            }
        } else {
            for (_, group) in run.divided(&self.groups, dtype) {
                let (clip, scale) = self.asked.scale(group.bytes)?;
                found.quantized.scales.push(clip, scale);
                if wanted {
                    let how = Quantization { scale, qtype, rounding };
                    let seen = &mut found.seen;
                    sums.merge(&kernels::error_after(dtype, group.bytes, how, seen));
                }
            }
        }
        found.add(run, &sums);
        Ok(())
    }

    /// The same for three schemes that are [`Whole::nested`], in one sweep.
    pub fn look_nested(
        nested: [&Whole; 3],
        run: Run,
        found: [&mut Found; 3],
    ) -> Result<(), NotQuantizable> {
        let whole = nested[0];
        let (groups, dtype) = (&whole.groups, whole.asked.dtype);
        let row = usize::try_from(groups.row_len()).unwrap_or(usize::MAX);
        let wanted = found[0].quantized.error.is_some();
        // Of the three, the first keeps what was seen.
        let mut seen = found[0].seen;
        let mut sums = [ErrorSums::default(); 3];
        let mut scales = found.map(|found| (found, Vec::new()));
        for bytes in run.cut_at_row(groups, dtype) {
            // The largest of a row's blocks two by two are those of blocks twice as long.
            let mut absmaxes = whole.absmaxes(bytes);
            let mut per_row = row.div_ceil(NESTED[0] as usize);
            for (i, (_, kept)) in scales.iter_mut().enumerate() {
                if i > 0 {
                    let pairs = absmaxes.chunks(per_row).flat_map(|row| row.chunks(2));
                    absmaxes = pairs.map(|pair| pair.iter().copied().fold(0.0, f64::max)).collect();
                    per_row = per_row.div_ceil(2);
                }
                kept.extend_from_slice(&absmaxes);
            }
            if wanted {
                let errors = kernels::block_errors_after(dtype, bytes, row, whole.how(), &mut seen);
                for (sum, error) in sums.iter_mut().zip(errors.map_err(overflow)?) {
                    sum.merge(&error);
                }
            }
        }
        for ((whole, (found, absmaxes)), sums) in nested.into_iter().zip(scales).zip(sums) {
            for absmax in absmaxes {
                let scale = whole.asked.quantizer.scale_for(absmax, FloatType::F32)?;
                found.quantized.scales.push(absmax, scale);
            }
            found.seen = seen;
            found.add(run, &sums);
        }
        Ok(())
    }

    fn how(&self) -> kernels::GroupQuantization {
        let Asked { quantizer, rounding, .. } = self.asked;
        let qtype = quantizer.scheme.quantization_type();
        kernels::GroupQuantization { qtype, rounding, scale_type: FloatType::F32 }
    }

    /// The largest magnitude of every group in `bytes`, which start where one does.
    fn absmaxes(&self, bytes: &[u8]) -> Vec<f64> {
        let dtype = self.asked.dtype;
        let mut absmaxes = vec![0.0; self.groups.within((bytes.len() / dtype.size()) as u64)];
        kernels::group_absmax(dtype, bytes, self.groups.into(), &mut absmaxes);
        absmaxes
    }
}

impl Found {
    fn add(&mut self, run: Run, sums: &ErrorSums) {
        if let Some(error) = &mut self.quantized.error {
            error.merge(sums);
        }
        if let Some(channel) = run.channel {
            self.channels.push((channel, ChannelError::of(sums)));
        }
    }
}

fn overflow(why: kernels::NoScale) -> NotQuantizable {
    NotQuantizable::ScaleOverflow { absmax: why.absmax }
}
