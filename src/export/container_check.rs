//! Everything of an output but its tensors' elements: headers, the bytes between tensors,
//! texts, and what lies beside the weights. All of it follows from the source and the plan,
//! so that every byte can be compared.

use crate::checkpoint::packed::Int8Values;
use crate::checkpoint::{Checkpoint, Format, StoredId, has_extension};
use crate::export::burn;
use crate::export::compressed_tensors::input_scale_name;
use crate::export::error::SaveError;
use crate::export::output_plan::{MadeFrom, OutFile, OutputPlan, SidecarFile};
use crate::export::request::{OutputFormat, Request, Task};
use crate::export::verify::{Match, Pairing};
use crate::plan::{InputQuantization, Plan};
use crate::quantization::Rounding;
use crate::tensor::{FloatType, TensorId, read_f64};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;

/// What must have been asked for to get an output whose tensors are paired like this;
/// `None` if nothing was: then each is its source's, and files need not be alike.
fn request(pairing: &Pairing) -> Result<Option<Request>, SaveError> {
    let mut plan = Plan::default();
    let (mut fake, mut packed, mut container) = (false, false, false);
    let mut floats: Vec<(FloatType, Option<FloatType>)> = Vec::new();
    let mut inputs = BTreeMap::new();
    let recorded = input_scales(pairing.out)?;
    for pair in &pairing.pairs {
        if let Some((quantizer, rounding)) = pairing.quantizer(pair) {
            plan.mark(pair.source, quantizer);
            plan.rounding = if pair.how == Match::Q8_0 { Rounding::default() } else { rounding };
        }
        match pair.how {
            Match::FakeQuantized(..) => fake = true,
            Match::Quantized => {
                let int8 = pairing.out.packed_format(pair.out).and_then(|layout| layout.int8());
                container |= int8.is_some_and(|int8| int8.container.is_some());
                packed |= int8.is_some_and(|int8| int8.stored_as == Int8Values::Offset);
                inputs.extend(recorded.get(&pair.out).map(|&scale| (pair.source, scale)));
            }
            Match::Dequantized(to) => {
                let before =
                    pairing.source.packed_format(pair.source).map(|layout| layout.original());
                floats.push((to, before));
            }
            Match::Identical | Match::Q8_0 => {}
        }
    }
    if !inputs.is_empty() {
        plan.inputs = InputQuantization::Static(inputs);
    }
    let format = match pairing.out.format() {
        Format::Gguf => OutputFormat::Gguf,
        Format::Burnpack => OutputFormat::Burn(burn::layout_of(pairing.out)),
        _ if fake => OutputFormat::FakeQuantized,
        _ if packed => OutputFormat::Int8WeightOnly,
        _ if container => OutputFormat::Int8,
        _ => OutputFormat::Safetensors,
    };
    let task = match (plan.is_empty(), floats.first()) {
        (false, _) => Task::Quantize { plan, format },
        (true, Some(&(to, _))) => {
            let original = floats.iter().all(|(to, before)| Some(*to) == *before);
            Task::Dequantize { to: (!original).then_some(to) }
        }
        (true, None)
            if pairing.out.format() != pairing.source.format()
                || pairing.pairs.len() < pairing.source.tensors().len() =>
        {
            Task::Dequantize { to: None }
        }
        (true, None) => return Ok(None),
    };
    Ok(Some(Request { task, out: root(pairing.out, format), force: true }))
}

/// The calibrated scales of inputs that an output holds, by the layers' weights. An error if
/// one is no scale.
pub fn input_scales(out: &Checkpoint) -> Result<HashMap<TensorId, f32>, SaveError> {
    let stored: HashMap<&str, StoredId> = out
        .all_stored()
        .filter(|(_, stored)| stored.name.ends_with("input_scale"))
        .map(|(id, stored)| (stored.name.as_str(), id))
        .collect();
    let mut scales = HashMap::new();
    let mut reader = out.reader();
    let quantized = out.ids().filter(|&id| !stored.is_empty() && out.packed_format(id).is_some());
    for id in quantized {
        let name = input_scale_name(out.tensor(id));
        let Some(&at) = stored.get(name.as_str()) else { continue };
        let part = out.stored(at);
        let wrong = |why: String| {
            let (path, tensor) = (out.path().to_owned(), name.clone());
            Err(SaveError::Mismatch { path, tensor, why })
        };
        let Some(float) = part.dtype.float().filter(|_| part.shape.elements() == 1) else {
            let (dtype, shape) = (&part.dtype, &part.shape);
            return wrong(format!("it is {dtype} of shape {shape}, expected one float"));
        };
        let bytes = reader.stored(at, 0..part.bytes())?;
        match read_f64(float, bytes, 0) {
            Some(scale) if scale.is_finite() && scale > 0.0 => {
                scales.insert(id, scale as f32);
            }
            scale => return wrong(format!("it is {}, which no scale is", scale.unwrap_or(0.0))),
        }
    }
    Ok(scales)
}

/// The path that names an output as a whole, whichever of its files it was opened by.
fn root(out: &Checkpoint, format: OutputFormat) -> PathBuf {
    let part = format.is_directory() || has_extension(out.path(), "json");
    match out.directory() {
        Some(directory) if part => directory.to_owned(),
        _ => out.path().to_owned(),
    }
}

/// Compares a whole output with what it must have been asked for, as long as `wanted` says
/// that it is still wanted.
pub(crate) fn check_output(pairing: &Pairing, wanted: &dyn Fn() -> bool) -> Result<(), SaveError> {
    let Some(request) = request(pairing)? else { return Ok(()) };
    check(&request.out, &OutputPlan::new(pairing.source, &request)?, wanted)
}

/// Compares with a output_plan what stands at `path`, all but the tensors' elements, as long as
/// `wanted` says that it is still wanted.
pub(crate) fn check(
    path: &Path,
    output_plan: &OutputPlan,
    wanted: &dyn Fn() -> bool,
) -> Result<(), SaveError> {
    let compare = |path: &Path, found: &mut dyn Read, expected: &mut dyn Read, of: &str| {
        compare(path, found, expected, of, wanted)
    };
    let place = |name: &Path| match output_plan.directory {
        true => path.join(name),
        false => path.to_owned(),
    };
    for file in &output_plan.files {
        check_file(&place(Path::new(&file.name)), file, &compare)?;
    }
    for text in &output_plan.texts {
        let path = place(Path::new(&text.name));
        let mut found = open(&path)?;
        compare(&path, &mut found, &mut text.text.as_bytes(), "the plan")?;
    }
    for SidecarFile { name, source, .. } in &output_plan.sidecar_files {
        let path = place(name);
        compare(&path, &mut open(&path)?, &mut open(source)?, &source.display().to_string())?;
    }
    Ok(())
}

/// Compares what two things read, of which the first is at a path.
type Compare<'c> = dyn Fn(&Path, &mut dyn Read, &mut dyn Read, &str) -> Result<(), SaveError> + 'c;

fn check_file(path: &Path, file: &OutFile, compare: &Compare) -> Result<(), SaveError> {
    let fail = |source| SaveError::Write { path: path.to_owned(), source };
    let mut found = open(path)?;
    let length = found.metadata().map_err(fail)?.len();
    if length != file.size() {
        return Err(differs(path, format!("it has {length} bytes, expected {}", file.size())));
    }
    let head = file.head.len() as u64;
    compare(path, &mut (&mut found).take(head), &mut file.head.as_slice(), "the plan")?;
    let mut end = head;
    for (start, entry) in file.offsets.iter().copied().zip(&file.entries) {
        check_gap(path, &mut found, end..start, compare)?;
        if let MadeFrom::Literal(bytes) = &entry.made_from {
            found.seek(SeekFrom::Start(start)).map_err(fail)?;
            let mut written = (&mut found).take(entry.bytes);
            compare(path, &mut written, &mut bytes.as_slice(), "the plan")?;
        }
        end = start + entry.bytes;
    }
    check_gap(path, &mut found, end..length, compare)
}

/// Between tensors there are zeros.
fn check_gap(
    path: &Path,
    file: &mut File,
    gap: Range<u64>,
    compare: &Compare,
) -> Result<(), SaveError> {
    if gap.is_empty() {
        return Ok(());
    }
    let fail = |source| SaveError::Write { path: path.to_owned(), source };
    file.seek(SeekFrom::Start(gap.start)).map_err(fail)?;
    let mut zeros = io::repeat(0).take(gap.end - gap.start);
    compare(path, &mut file.take(gap.end - gap.start), &mut zeros, "the plan")
}

fn compare(
    path: &Path,
    found: &mut dyn Read,
    expected: &mut dyn Read,
    of: &str,
    wanted: &dyn Fn() -> bool,
) -> Result<(), SaveError> {
    let fail = |source| SaveError::Write { path: path.to_owned(), source };
    let mut at = 0;
    while wanted() {
        let a = piece(found).map_err(fail)?;
        let b = piece(expected).map_err(fail)?;
        if a != b {
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            return Err(differs(path, format!("byte {} is not that of {of}", at + same)));
        }
        if a.is_empty() {
            return Ok(());
        }
        at += a.len();
    }
    Ok(())
}

fn piece(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(PIECE as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open(path: &Path) -> Result<File, SaveError> {
    match File::open(path) {
        Ok(file) => Ok(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(differs(path, "it is missing".to_owned()))
        }
        Err(source) => Err(SaveError::Write { path: path.to_owned(), source }),
    }
}

fn differs(path: &Path, why: String) -> SaveError {
    SaveError::Differs { path: path.to_owned(), why }
}
