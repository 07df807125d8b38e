//! Lists the tensors of a PyTorch file.

use crate::checkpoint::access::Role;
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::pytorch::archive::{Archive, CONSTANTS};
use crate::checkpoint::formats::pytorch::legacy;
use crate::checkpoint::formats::pytorch::machine;
use crate::checkpoint::formats::pytorch::roles::Roles;
use crate::checkpoint::formats::pytorch::tar;
use crate::checkpoint::formats::pytorch::tensor::{FindStorage, Locator};
use crate::checkpoint::formats::pytorch::value::Pickle;
use crate::checkpoint::formats::pytorch::walk::{Holders, Namer, leaves};
use crate::checkpoint::formats::region::{ByteReader, Region};
use crate::checkpoint::formats::zip::{self, Member};
use crate::checkpoint::io::source::Source;
use crate::checkpoint::stored::Stored;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The content of a file.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Key-values that describe the file.
    pub metadata: Vec<(String, String)>,
    /// Notes about what was left out.
    pub notes: Vec<String>,
    pub stored: Vec<Stored>,
}

/// The first byte of a pickle of protocol 2 or later.
const PROTOCOL: u8 = 0x80;

/// First bytes of pickles of protocols 0 and 1, which have no header.
const FIRST_BYTES: &[u8] = b"(]}cLIVSFGNKMJXTU";

/// Returns whether a ZIP archive is a PyTorch archive.
pub(crate) fn has_pickle(members: &[Member]) -> bool {
    members.iter().any(|member| member.name.ends_with("data.pkl"))
}

/// Returns whether a file that is not a ZIP archive is a pickle or a tar archive of PyTorch.
pub(crate) fn is_pickle(source: &Source) -> Result<bool> {
    let mut first = [0; 2];
    if source.size() < first.len() as u64 {
        return Ok(false);
    }
    source.read_exact(&source.open()?, &mut first, 0)?;
    match first {
        [PROTOCOL, 2..=5] => Ok(true),
        [first, _] if FIRST_BYTES.contains(&first) => {
            let region = Region::file(0..source.size());
            let mut reader = ByteReader::new(source, &region, 0)?;
            Ok(machine::read(&mut reader, source.path()).is_ok())
        }
        _ => tar::is_tar(source),
    }
}

/// Reads the tensors of a file.
pub(crate) fn read(source: &Source) -> Result<Contents> {
    let mut first = [0; 4];
    source.read_exact(&source.open()?, &mut first, 0)?;
    if first == zip::MAGIC {
        return of_archive(source);
    }
    let found = |storages: &HashMap<String, Region>, key: &str| match storages.get(key) {
        Some(region) => Ok(region.clone()),
        None => Err(format!("its storage '{}' is not in the file", key.escape_debug())),
    };
    if tar::is_tar(source)? {
        let tar = tar::open(source)?;
        return list(source, &tar.pickle, false, &|key| found(&tar.storages, key));
    }
    let region = Region::file(0..source.size());
    let mut reader = ByteReader::new(source, &region, 0)?;
    let pickle = machine::read(&mut reader, source.path())?;
    if legacy::is_magic(&pickle) {
        let file = legacy::open(source, &region, 0)?;
        return list(source, &file.pickle, false, &|key| found(&file.storages, key));
    }
    list(source, &pickle, false, &|key| found(&HashMap::new(), key))
}

fn of_archive(source: &Source) -> Result<Contents> {
    let archive = Archive::open(source, 0..source.size())?;
    let data = |key: &str| archive.storage("data", key);
    let mut contents = list(source, &archive.pickle, archive.big_endian, &data)?;
    if let Some(constants) = archive.constants(source) {
        let find = |key: &str| archive.storage(CONSTANTS, key);
        let constants = list(source, &constants, archive.big_endian, &find)?;
        contents.metadata.extend(constants.metadata);
        contents.notes.extend(constants.notes);
        let taken: HashSet<String> =
            contents.stored.iter().map(|stored| stored.name.to_string()).collect();
        contents.stored.extend(constants.stored.into_iter().filter_map(|constant| {
            let name = format!("{CONSTANTS}.{}", constant.name);
            (!taken.contains(&name)).then(|| Stored { name: name.into(), ..constant })
        }));
    }
    Ok(contents)
}

/// Lists the tensors that a pickle describes.
fn list(
    source: &Source,
    pickle: &Pickle,
    big_endian: bool,
    find: &FindStorage,
) -> Result<Contents> {
    let holders = Holders::new(pickle);
    let roles = Roles::new(pickle, &holders);
    let found = leaves(pickle, &holders);
    let locator = Locator::new(source, pickle, find, big_endian);
    let root = source.path().file_stem().unwrap_or_default().to_string_lossy();
    let mut namer = Namer::new(source, pickle, &found);
    let mut stored: Vec<Stored> = Vec::with_capacity(found.leaves.len());
    let mut sharing: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for leaf in &found.leaves {
        let Some(row) = locator.row(leaf.id) else { continue };
        let unwrapped = leaf.top.is_some() && leaf.top == roles.wrapper;
        let Some(name) = namer.name(leaf, &root, unwrapped) else {
            let why = "its tensors' names are too long to be kept".to_owned();
            let problem = Problem::Malformed { format: "PyTorch", why };
            return Err(ReadError::new(source.path(), problem));
        };
        if let Some(start) = row.storage {
            sharing.entry(start).or_default().push(stored.len());
        }
        let role = match roles.of(leaf.top) {
            Role::Network if leaf.is_part => Role::Part,
            role => role,
        };
        let whole = Stored::new(name, row.dtype, row.shape, row.range);
        stored.push(Stored { access: row.access, role, ..whole });
    }
    let shared = sharing.values().filter(|tensors| tensors.len() > 1).map(|tensors| {
        let names = tensors.iter().filter_map(|&at| Some(stored.get(at)?.name.as_str()));
        ("one storage for".to_owned(), names.collect::<Vec<_>>().join(", "))
    });
    let metadata = shared.collect();
    let mut notes = Vec::new();
    if found.incomplete {
        notes.push(
            "left out further names of these tensors: the file gives them more than can be listed"
                .to_owned(),
        );
    }
    Ok(Contents { metadata, notes, stored })
}
