//! ZIP archives of `torch.save`: the pickle `data.pkl` and one member per storage.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::pytorch::machine;
use crate::checkpoint::formats::pytorch::value::Pickle;
use crate::checkpoint::formats::region::{ByteReader, Region};
use crate::checkpoint::formats::zip::{self, Member};
use crate::checkpoint::io::source::Source;
use std::collections::HashMap;
use std::ops::Range;

/// Name of the pickle in an archive.
const PICKLE: &str = "data.pkl";

/// Name of TorchScript's constants: a pickle of that name, and a folder of storages.
pub(super) const CONSTANTS: &str = "constants";

/// Maximum size of a compressed pickle in bytes.
const PICKLE_LIMIT: u64 = 64 << 20;

const BYTE_ORDER_LIMIT: u64 = 64;

/// An opened archive.
pub(super) struct Archive {
    pub pickle: Pickle,
    pub big_endian: bool,
    root: String,
    members: HashMap<String, Member>,
}

impl Archive {
    /// Opens an archive that occupies a range of a file.
    pub(super) fn open(source: &Source, range: Range<u64>) -> Result<Archive> {
        let members = zip::members_within(source, range)?;
        let malformed =
            |why| ReadError::new(source.path(), Problem::Malformed { format: "PyTorch", why });
        let pickle = match main_pickle(&members) {
            Some(pickle) => pickle,
            None => return Err(malformed(format!("it holds no {PICKLE}"))),
        };
        let root = pickle.name.strip_suffix(PICKLE).unwrap_or_default().to_owned();
        let region = pickle.region().map_err(malformed)?;
        let mut reader = ByteReader::new(source, &region, PICKLE_LIMIT)?;
        let pickle = machine::read(&mut reader, source.path())?;
        let members: HashMap<String, Member> =
            members.into_iter().map(|member| (member.name.clone(), member)).collect();
        let order = members.get(&format!("{root}byteorder"));
        let order = order.map(|member| {
            member.region().and_then(|region| {
                region.read(source, BYTE_ORDER_LIMIT).map_err(|e| e.problem.to_string())
            })
        });
        let big_endian = match order.transpose().map_err(malformed)? {
            Some(order) => order.trim_ascii() == b"big",
            None => false,
        };
        Ok(Archive { pickle, big_endian, root, members })
    }

    /// Returns the pickle of TorchScript's constants, which have their own storages.
    pub(super) fn constants(&self, source: &Source) -> Option<Pickle> {
        let member = self.members.get(&format!("{}{CONSTANTS}.pkl", self.root))?;
        let region = member.region().ok()?;
        let mut reader = ByteReader::new(source, &region, PICKLE_LIMIT).ok()?;
        machine::read(&mut reader, source.path()).ok()
    }

    /// Returns the bytes of a storage in the folder `data` or [`CONSTANTS`], or the reason why
    /// there are none.
    pub(super) fn storage(&self, folder: &str, key: &str) -> Result<Region, String> {
        let member = self.members.get(&format!("{}{folder}/{key}", self.root));
        let missing = || format!("its storage '{}' is not in the file", key.escape_debug());
        member.ok_or_else(missing)?.region()
    }
}

/// Returns the pickle that describes the tensors: the one in the top-most folder.
fn main_pickle(members: &[Member]) -> Option<&Member> {
    let is_pickle = |member: &&Member| {
        member.name.strip_suffix(PICKLE).is_some_and(|root| root.is_empty() || root.ends_with('/'))
    };
    members.iter().filter(is_pickle).min_by_key(|member| member.name.matches('/').count())
}

/// Describes an archive that PyTorch writes without a pickle; `None` for others.
pub(crate) fn describe_archive(members: &[Member]) -> Option<String> {
    let ends = |suffix: &str| members.iter().any(|member| member.name.ends_with(suffix));
    let holds = |part: &str| members.iter().any(|member| member.name.contains(part));
    let what = if ends("model.json") && holds("tensors/") {
        "TorchScript of PyTorch 1.3 or before; load it with torch.jit.load and save its state_dict"
    } else if holds(".data/extern_modules") {
        "a torch.package archive; load it with torch.package and save the state_dict"
    } else if ends("archive_format")
        || ends("serialized_exported_program.json")
        || holds("data/weights/")
    {
        "a PyTorch export archive (.pt2); open it with torch.export.load and save the state_dict"
    } else {
        return None;
    };
    Some(what.to_owned())
}
