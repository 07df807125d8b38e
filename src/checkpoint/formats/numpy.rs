//! NPY and NPZ: NumPy's arrays, alone or several in a ZIP archive.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::formats::zip::{self, Member};
use crate::checkpoint::io::cursor::Cursor;
use crate::checkpoint::io::inflate::Inflater;
use crate::checkpoint::{Access, Data, Indirect, Source, Stored, View};
use crate::tensor::{DType, Shape};

pub(crate) const MAGIC: [u8; 6] = *b"\x93NUMPY";

const HEADER_LIMIT: u64 = 1 << 16;

/// What ends the names of the arrays in an archive.
pub(crate) const SUFFIX: &str = ".npy";

/// The array of an NPY file, named as the file is.
pub(crate) fn read_npy(source: &Source) -> Result<Vec<Stored>> {
    let name = source.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut cursor = Cursor::new(source, 0, HEADER_LIMIT)?;
    let header = header(source, &name, &mut |n| cursor.bytes(n))?;
    let range = cursor.position()..source.size();
    Ok(vec![header.stored(source, name, range)?])
}

/// The arrays of an NPZ file.
pub(crate) fn read_npz(source: &Source) -> Result<Vec<Stored>> {
    let mut stored = Vec::new();
    for member in zip::members(source)? {
        let Some(name) = member.name.strip_suffix(SUFFIX) else { continue };
        stored.push(array(source, &member, name)?);
    }
    let mut names = std::collections::HashSet::new();
    match stored.iter().find(|s| !names.insert(s.name.as_str())) {
        Some(twice) => {
            Err(CheckpointError::of_tensor(source.path(), &twice.name, Problem::DuplicateTensor))
        }
        None => Ok(stored),
    }
}

fn array(source: &Source, member: &Member, name: &str) -> Result<Stored> {
    if !member.deflated {
        let limit = member.range.start.saturating_add(HEADER_LIMIT).min(member.range.end);
        let mut cursor = Cursor::new(source, member.range.start, limit)?;
        let header = header(source, name, &mut |n| cursor.bytes(n))?;
        return header.stored(source, name.to_owned(), cursor.position()..member.range.end);
    }
    let handle = source.open()?;
    let mut inflater = Inflater::new(source.path(), member.range.clone());
    let mut at = 0;
    let header = header(source, name, &mut |n| {
        let mut out = vec![0; n.min(HEADER_LIMIT) as usize];
        inflater.read(at, &mut out, &mut |at, out| source.read_exact(&handle, out, at))?;
        at += out.len() as u64;
        Ok(out)
    })?;
    header.deflated(source, name.to_owned(), member, at)
}

/// What an array's header says.
#[derive(Debug, PartialEq)]
struct Header {
    dtype: DType,
    /// Bytes of one element.
    size: u64,
    fortran: bool,
    shape: Shape,
}

impl Header {
    /// The array whose bytes fill `range`.
    fn stored(self, source: &Source, name: String, range: std::ops::Range<u64>) -> Result<Stored> {
        let fail = |problem| CheckpointError::of_tensor(source.path(), &name, problem);
        let found = range.end - range.start;
        self.check(found).map_err(fail)?;
        if !self.fortran {
            return Ok(Stored::new(name, self.dtype, self.shape, range));
        }
        let view = View::column_major(self.shape.clone(), self.size, found)
            .map_err(|why| fail(Problem::Malformed { format: "NPY", why }))?;
        let (data, bytes) = (Data::File, view.bytes());
        let indirect = Indirect { data, bytes, view: Some(view), conversion: None };
        let access = Access::Indirect(indirect.into());
        Ok(Stored { access, ..Stored::new(name, self.dtype, self.shape, range) })
    }

    /// The array in a deflated member, whose header has `header` bytes.
    fn deflated(
        self,
        source: &Source,
        name: String,
        member: &Member,
        header: u64,
    ) -> Result<Stored> {
        let fail = |problem| CheckpointError::of_tensor(source.path(), &name, problem);
        let bytes = member.size.saturating_sub(header);
        self.check(bytes).map_err(fail)?;
        if self.fortran && self.shape.rank() > 1 {
            let why = "it is compressed and in Fortran's order; save it again in C order".into();
            return Err(fail(Problem::Layout(why)));
        }
        let data = Data::Deflated { skip: header, size: bytes };
        let indirect = Indirect { data, bytes, view: None, conversion: None };
        let access = Access::Indirect(indirect.into());
        let range = member.range.clone();
        Ok(Stored { access, ..Stored::new(name, self.dtype, self.shape, range) })
    }

    fn check(&self, found: u64) -> Result<(), Problem> {
        match self.shape.elements().checked_mul(self.size) {
            Some(expected) if expected == found => Ok(()),
            expected => {
                let expected = expected.map_or("an impossible number of".into(), |n| n.to_string());
                Err(Problem::SizeMismatch { expected, found })
            }
        }
    }
}

/// Reads an array's header from what gives its next bytes.
fn header(
    source: &Source,
    name: &str,
    next: &mut dyn FnMut(u64) -> Result<Vec<u8>>,
) -> Result<Header> {
    let fail = |problem| CheckpointError::of_tensor(source.path(), name, problem);
    let bad = |why: String| fail(Problem::Malformed { format: "NPY", why });
    let start = next(8)?;
    let [magic @ .., major, _minor] = start.as_slice() else {
        return Err(bad("it is too short".into()));
    };
    if magic != MAGIC {
        return Err(bad("it does not start with NumPy's magic bytes".into()));
    }
    let length = match major {
        1 => next(2)?,
        2 | 3 => next(4)?,
        _ => return Err(bad(format!("its version is {major}, expected 1, 2 or 3"))),
    };
    let length = length.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    if length >= HEADER_LIMIT {
        return Err(bad(format!("its header claims {length} bytes, more than {HEADER_LIMIT}")));
    }
    let text =
        String::from_utf8(next(length)?).map_err(|_| bad("its header is not text".to_owned()))?;
    let said = Parser { rest: text.trim() }
        .header()
        .ok_or_else(|| bad(format!("its header is not of the expected form: {:?}", text.trim())))?;
    let (dtype, size) = dtype(&said.descr).map_err(bad)?;
    let shape = Shape::new(said.shape.as_slice())
        .ok_or_else(|| fail(Problem::ShapeOverflow { shape: said.shape.clone() }))?;
    Ok(Header { dtype, size, fortran: said.fortran, shape })
}

/// A type by NumPy's name for it, and bytes of one element.
fn dtype(descr: &str) -> Result<(DType, u64), String> {
    let (order, kind) = descr.split_at_checked(1).unwrap_or(("", descr));
    let dtype = match kind {
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "b1" => DType::Bool,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "c8" => DType::C64,
        _ if kind.starts_with('O') => {
            return Err("it holds Python objects, which are not read".into());
        }
        // Other types are listed by their names: c16, f16, strings, bytes of any meaning.
        _ => DType::Other(kind.into()),
    };
    let size = match &dtype {
        DType::Other(kind) => {
            let digits = kind.get(1..).and_then(|digits| digits.parse::<u64>().ok());
            let wide = if kind.starts_with('U') { 4 } else { 1 };
            digits.and_then(|digits| digits.checked_mul(wide))
        }
        known => known.bytes_for(1),
    };
    let size = size.filter(|&size| size > 0);
    let size = size.ok_or_else(|| format!("its type '{}' is not known", descr.escape_debug()))?;
    match order {
        ">" if size > 1 => {
            Err("its elements are big-endian; save it again as little-endian".into())
        }
        "<" | "|" | "=" | ">" => Ok((dtype, size)),
        _ => Err(format!("its type '{}' is not known", descr.escape_debug())),
    }
}

#[derive(Default)]
struct Said {
    descr: String,
    fortran: bool,
    shape: Vec<u64>,
}

/// Reads the one form of Python literal that NumPy writes.
struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn header(mut self) -> Option<Said> {
        let mut said = Said::default();
        let mut seen = [false; 3];
        self.eat("{")?;
        while self.eat("}").is_none() {
            let key = self.string()?;
            self.eat(":")?;
            let place = match key {
                "descr" => {
                    said.descr = self.string()?.to_owned();
                    0
                }
                "fortran_order" => {
                    said.fortran = match (self.eat("True"), self.eat("False")) {
                        (Some(()), _) => true,
                        (_, Some(())) => false,
                        _ => return None,
                    };
                    1
                }
                "shape" => {
                    said.shape = self.tuple()?;
                    2
                }
                _ => return None,
            };
            *seen.get_mut(place)? = true;
            if self.eat(",").is_none() {
                self.eat("}")?;
                break;
            }
        }
        (seen == [true; 3] && self.rest.trim().is_empty()).then_some(said)
    }

    fn eat(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'t str> {
        let text = self.rest.trim_start();
        let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (inside, rest) = text.get(1..)?.split_once(quote)?;
        self.rest = rest;
        Some(inside)
    }

    fn tuple(&mut self) -> Option<Vec<u64>> {
        self.eat("(")?;
        let mut dims = Vec::new();
        while self.eat(")").is_none() {
            let text = self.rest.trim_start();
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (digits, rest) = text.split_at_checked(end)?;
            dims.push(digits.parse().ok()?);
            // Python 2 wrote long integers with an L.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if self.eat(",").is_none() {
                self.eat(")")?;
                break;
            }
        }
        Some(dims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, text: &str, data: usize) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((text.len() as u16).to_le_bytes()),
            _ => bytes.extend((text.len() as u32).to_le_bytes()),
        }
        bytes.extend(text.bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    fn read(bytes: Vec<u8>) -> Result<Stored> {
        read_npy(&Source::memory("w.npy", bytes.leak())).map(|mut stored| stored.remove(0))
    }

    #[test]
    fn arrays_are_named_as_their_file() {
        for version in [1, 2, 3] {
            let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4L), }   \n";
            let found = read(npy(version, text, 48)).expect("valid");
            assert_eq!((found.name.as_str(), &found.dtype), ("w", &DType::F32));
            assert_eq!((found.shape.dims(), found.bytes()), (&[3, 4][..], 48));
        }
        let scalar = read(npy(1, "{'descr': '|b1', 'fortran_order': True, 'shape': ()}", 1));
        assert_eq!(scalar.expect("valid").shape.rank(), 0);
        let wide = read(npy(1, "{'descr': '<c16', 'fortran_order': False, 'shape': (2,)}", 32));
        assert_eq!(wide.expect("valid").dtype.name(), "c16");
    }

    #[test]
    fn every_lie_has_its_sentence() {
        let said = |descr: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")
        };
        for (text, data, sentence) in [
            (said("'<f4'", "(3,)"), 11, "need 12 bytes"),
            (said("'<f4'", "(3,)"), 13, "need 12 bytes"),
            (said("'<f4'", "(4294967296, 4294967296)"), 0, "more elements"),
            (said("'<f8'", "(9223372036854775807,)"), 0, "impossible number"),
            (said("'>f4'", "(3,)"), 12, "big-endian"),
            (said("'|O'", "(3,)"), 12, "Python objects"),
            (said("[('a', '<f4')]", "(3,)"), 12, "not of the expected form"),
            (said("'<f4'", "(3"), 12, "not of the expected form"),
            (said("'<f4'", "(-3,)"), 12, "not of the expected form"),
            (said("'<f4'", "(3,)").replace("shape", "form"), 12, "not of the expected form"),
            (said("'<f4'", "(3,)") + "x", 12, "not of the expected form"),
            (said("'f4'", "(3,)"), 12, "is not known"),
            (said("''", "(3,)"), 12, "is not known"),
            (said("'<V'", "(3,)"), 12, "is not known"),
            (said("'é4'", "(3,)"), 12, "is not known"),
        ] {
            let found = read(npy(1, &text, data)).expect_err(&text).to_string();
            assert!(found.contains(sentence), "{text}: {found}");
        }
        let refusal = |bytes: Vec<u8>| read(bytes).expect_err("refused").to_string();
        assert!(refusal(npy(4, "", 0)).contains("version is 4"));
        assert!(refusal(b"\x93NUMPX\x01\0\0\0".to_vec()).contains("magic"));
        assert!(refusal(npy(1, "{}", 0)[..9].to_vec()).contains("early"));
        let mut long = npy(2, "{}", 0);
        long[8..12].fill(0xff);
        assert!(refusal(long).contains("claims 4294967295 bytes"));
    }
}
