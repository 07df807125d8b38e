//! Lists the arrays of an NPY or NPZ file.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::file_names::has_extension;
use crate::checkpoint::formats::element_type::LazyBits;
use crate::checkpoint::formats::numpy::array_type::ArrayType;
use crate::checkpoint::formats::numpy::header::{self, Header};
use crate::checkpoint::formats::region::Region;
use crate::checkpoint::formats::row::Row;
use crate::checkpoint::formats::zip::{self, Member};
use crate::checkpoint::io::source::Source;
use crate::checkpoint::stored::Stored;
use crate::checkpoint::strided::StridedView;
use crate::tensor::DType;
use std::collections::HashSet;

/// Suffix of the array names in an archive.
const ARRAY_SUFFIX: &str = ".npy";

/// Size of the first read in bytes, enough for nearly every header.
const FIRST_READ: u64 = 256;

/// Notes about what was left out, and the arrays.
type Contents = (Vec<String>, Vec<Stored>);

/// Returns whether a ZIP archive is an NPZ file.
pub(crate) fn is_archive(source: &Source, members: &[Member]) -> bool {
    has_extension(source.path(), "npz")
        || members.iter().any(|member| member.name.ends_with(ARRAY_SUFFIX))
}

/// Reads the array of an NPY file, named after the file.
pub(crate) fn read_npy(source: &Source) -> Result<Vec<Stored>> {
    let name = source.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let region = Region::file(0..source.size());
    let row = read_header(source, &region).and_then(|header| row(&header, &region));
    match row {
        Ok(row) => Ok(vec![row.stored(name)]),
        // The file contains nothing else that could be listed.
        Err(why) => {
            let problem = Problem::Malformed { format: "NPY", why };
            Err(ReadError::of_tensor(source.path(), &name, problem))
        }
    }
}

/// Reads the arrays of an NPZ file. One that cannot be read is listed with the reason.
pub(crate) fn read_npz(source: &Source) -> Result<Contents> {
    let mut stored = Vec::new();
    let mut names = HashSet::new();
    let mut others = Vec::new();
    for member in zip::members(source)? {
        let name = member.name.strip_suffix(ARRAY_SUFFIX);
        let Some(row) = array(source, &member, name.is_some()) else {
            others.push(format!("'{}'", member.name.escape_debug()));
            continue;
        };
        let name = name.unwrap_or(&member.name);
        let mut unique = name.to_owned();
        let mut number = 1;
        while !names.insert(unique.clone()) {
            number += 1;
            unique = format!("{name} ({number})");
        }
        stored.push(row.stored(unique));
    }
    let mut notes = Vec::new();
    match others.as_slice() {
        [] => {}
        [only] => notes.push(format!("left out the member {only}, which is not an array")),
        _ => notes.push(format!(
            "left out {} members that are not arrays: {}",
            others.len(),
            others.join(", ")
        )),
    }
    Ok((notes, stored))
}

/// Returns the array in a member; `None` if it is not an array and its name does not claim so.
fn array(source: &Source, member: &Member, is_named: bool) -> Option<Row> {
    let region = match member.region() {
        Ok(region) => region,
        Err(why) => return is_named.then(|| Row::unreadable(None, None, why)),
    };
    match read_header(source, &region) {
        Ok(header) => Some(row(&header, &region).unwrap_or_else(|why| {
            let dtype = match &header.array_type {
                ArrayType::Numbers { element, .. } => element.dtype.clone(),
                ArrayType::Other { name, .. } => DType::Other(name.as_str().into()),
            };
            Row::unreadable(Some(dtype), Some(header.shape.clone()), why)
        })),
        Err(why) => is_named.then(|| Row::unreadable(None, None, why)),
    }
}

fn read_header(source: &Source, region: &Region) -> Result<Header, String> {
    let start = |length: u64| {
        let length = length.min(region.length);
        let part = region.slice(0, length).ok_or("it is too short for an array")?;
        part.read(source, length).map_err(|error| error.problem.to_string())
    };
    let first = start(FIRST_READ)?;
    match header::length(&first)? {
        length if length <= first.len() as u64 => header::parse(&first),
        length => header::parse(&start(length)?),
    }
}

/// Creates the row of the array that a header describes.
fn row(header: &Header, region: &Region) -> Result<Row, String> {
    let (element, big_endian) = match &header.array_type {
        ArrayType::Numbers { element, big_endian } => (element, *big_endian),
        ArrayType::Other { name, what } => {
            let dtype = DType::Other(name.as_str().into());
            let why = format!("it is an array of {what}");
            return Ok(Row::unreadable(Some(dtype), Some(header.shape.clone()), why));
        }
    };
    let found = region.length.saturating_sub(header.length);
    let needed = header.shape.elements().checked_mul(element.size);
    let data = needed.and_then(|needed| region.slice(header.length, needed));
    let (Some(needed), Some(data)) = (needed, data) else {
        let needed = needed.map_or("an impossible number of".to_owned(), |n| n.to_string());
        return Err(format!(
            "its shape and type need {needed} bytes, the file has {found}; it is cut off"
        ));
    };
    let conversion = element.conversion(big_endian, LazyBits::default())?;
    let (shape, size) = (header.shape.clone(), element.size);
    let view = if header.column_major {
        StridedView::column_major(shape.clone(), size, needed)?
    } else {
        StridedView::contiguous(shape.clone(), size, needed)?
    };
    Ok(Row::readable(element, shape, &data, view, conversion))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::formats::numpy::header::MAGIC;

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
    fn arrays_are_named_after_their_file() {
        for version in [1, 2, 3] {
            let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4L), }   \n";
            let found = read(npy(version, text, 48)).expect("valid");
            assert_eq!((found.name.as_str(), &found.dtype), ("w", &DType::F32));
            assert_eq!((found.shape.dims(), found.bytes()), (&[3, 4][..], 48));
        }
        let scalar = read(npy(1, "{'descr': '|b1', 'fortran_order': True, 'shape': ()}", 1));
        assert_eq!(scalar.expect("valid").shape.rank(), 0);
        let wide = read(npy(1, "{'descr': '<c16', 'fortran_order': False, 'shape': (2,)}", 32));
        assert_eq!(wide.expect("valid").dtype.name(), "C128");
    }

    fn described(descr: &str, shape: &str) -> String {
        format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")
    }

    #[test]
    fn arrays_that_cannot_be_decoded_are_listed_with_the_reason() {
        for (descr, name, reason) in [
            ("'|O'", "object", "Python objects"),
            ("[('a', '<f4')]", "structured", "records"),
            ("'<U2'", "<U2", "unicode strings"),
            ("'<V'", "|V", "raw bytes"),
            ("'é4'", "|é4", "not read"),
            ("''", "|", "not read"),
        ] {
            let found = read(npy(1, &described(descr, "(3,)"), 12)).expect(descr);
            assert_eq!((found.dtype.name(), found.shape.dims()), (name, &[3][..]), "{descr}");
            let why = found.unreadable().expect(descr);
            assert!(why.contains(reason), "{descr}: {why}");
        }
    }

    #[test]
    fn invalid_files_are_refused_with_the_reason() {
        let said = described;
        for (text, data, sentence) in [
            (said("'<f4'", "(3,)"), 11, "need 12 bytes"),
            (said("'<f4'", "(4294967296, 4294967296)"), 0, "more elements"),
            (said("'<f8'", "(9223372036854775807,)"), 0, "impossible number"),
            (said("'<f4'", "(3"), 12, "not of the expected form"),
            (said("'<f4'", "(-3,)"), 12, "not of the expected form"),
            (said("'<f4'", "(3,)").replace("shape", "form"), 12, "not of the expected form"),
            (said("'<f4'", "(3,)") + "x", 12, "not of the expected form"),
        ] {
            let found = read(npy(1, &text, data)).expect_err(&text).to_string();
            assert!(found.contains(sentence), "{text}: {found}");
        }
        let refusal = |bytes: Vec<u8>| read(bytes).expect_err("refused").to_string();
        assert!(refusal(npy(4, "", 0)).contains("version is 4"));
        assert!(refusal(b"\x93NUMPX\x01\0\0\0".to_vec()).contains("magic"));
        assert!(refusal(npy(1, "{}", 0)[..9].to_vec()).contains("cut off"));
        let mut long = npy(2, "{}", 0);
        long[8..12].fill(0xff);
        assert!(refusal(long).contains("claims 4294967295 bytes"));
    }
}
