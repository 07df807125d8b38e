//! Compares the files of an output with its plan: headers, the bytes between tensors, texts and
//! sidecar files. The expected content of all of these follows from the source and the request.

use crate::checkpoint::io::files::{self, FileReader};
use crate::checkpoint::io::remote_path::is_remote;
use crate::export::error::SaveError;
use crate::export::formats::registry;
use crate::export::journal::CopyDigest;
use crate::export::output_plan::{MadeFrom, OutFile, OutputPlan};
use crate::export::request::Task;
use crate::export::sidecar_file::SidecarFile;
use crate::export::verify::pairing::Pairing;
use crate::export::verify::recovered_request;
use crate::path_error::IoContext;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Number of bytes compared at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Compares the files of an output with the content expected from its source. Returns early,
/// without an error, once `is_wanted` returns false.
pub(crate) fn verify_files(
    pairing: &Pairing,
    is_wanted: &dyn Fn() -> bool,
) -> Result<(), SaveError> {
    let Some(request) = recovered_request::recover(pairing)? else { return Ok(()) };
    let output_plan = OutputPlan::new(pairing.source, &request)?;
    compare_with_plan(&request.out, &request.task, &output_plan, &HashMap::new(), is_wanted)
}

/// Compares the files at `path` with an output plan. `digests` are those of sidecar files,
/// which then need not be read from their source again.
pub(crate) fn compare_with_plan(
    path: &Path,
    task: &Task,
    output_plan: &OutputPlan,
    digests: &HashMap<PathBuf, u128>,
    is_wanted: &dyn Fn() -> bool,
) -> Result<(), SaveError> {
    let path_of =
        |name: &Path| if output_plan.directory { path.join(name) } else { path.to_owned() };
    for file in &output_plan.files {
        let path = path_of(Path::new(&file.name));
        FileComparison { path: &path, is_wanted }.compare_file(file)?;
        registry::check_container(task, &path)?;
    }
    for text in &output_plan.texts {
        let path = path_of(Path::new(&text.name));
        let comparison = FileComparison { path: &path, is_wanted };
        comparison.compare(&mut comparison.open()?, &mut text.text.as_bytes(), "the plan")?;
    }
    let mut copied: Vec<&SidecarFile> = output_plan.sidecar_files.iter().collect();
    // Left-out files that exist were copied on request.
    copied.extend(
        output_plan.left_out.files.iter().filter(|file| files::is_file(&path_of(&file.name))),
    );
    for SidecarFile { name, source, .. } in &copied {
        let path = path_of(name);
        let comparison = FileComparison { path: &path, is_wanted };
        if let Some(&digest) = digests.get(name) {
            comparison.compare_digest(digest)?;
            continue;
        }
        let mut original = files::open(source).context(source)?;
        let named = source.display().to_string();
        comparison.compare(&mut comparison.open()?, &mut original, &named)?;
    }
    if !output_plan.directory {
        return Ok(());
    }
    let files = output_plan.files.iter().map(|file| path.join(&file.name));
    let texts = output_plan.texts.iter().map(|text| path.join(&text.name));
    let copied = copied.iter().map(|file| path.join(&file.name));
    check_no_others(path, &files.chain(texts).chain(copied).collect())
}

/// Checks that a directory has no files other than `expected`; the error names all of them.
fn check_no_others(root: &Path, expected: &HashSet<PathBuf>) -> Result<(), SaveError> {
    let (mut others, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        if is_remote(&directory) {
            for (name, kind) in files::names(&directory).context(&directory)? {
                let path = directory.join(name);
                if kind == Some(true) {
                    pending.push(path);
                } else if !expected.contains(&path) {
                    others.push(path);
                }
            }
            continue;
        }
        for entry in std::fs::read_dir(&directory).context(&directory)? {
            let entry = entry.context(&directory)?;
            let path = entry.path();
            if entry.file_type().context(&path)?.is_dir() {
                pending.push(path);
            } else if !expected.contains(&path) {
                others.push(path);
            }
        }
    }
    others.sort();
    let names = others.iter().map(|path| path.strip_prefix(root).unwrap_or(path));
    let names: Vec<_> = names.map(|name| format!("'{}'", name.display())).collect();
    let why = match names.as_slice() {
        [] => return Ok(()),
        [one] => format!("{one} belongs neither to the source nor to the plan"),
        all => format!("{} belong neither to the source nor to the plan", all.join(", ")),
    };
    Err(SaveError::FileDiffers { path: root.to_owned(), why })
}

/// One file of the output that is being compared.
struct FileComparison<'c> {
    path: &'c Path,
    is_wanted: &'c dyn Fn() -> bool,
}

impl FileComparison<'_> {
    fn differs(&self, why: String) -> SaveError {
        SaveError::FileDiffers { path: self.path.to_owned(), why }
    }

    fn open(&self) -> Result<Box<dyn FileReader>, SaveError> {
        match files::open(self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(self.differs("it is missing".to_owned()))
            }
            opened => Ok(opened.context(self.path)?),
        }
    }

    /// Compares the digest of a file with the one computed while it was copied.
    fn compare_digest(&self, expected: u128) -> Result<(), SaveError> {
        let (mut file, mut digest) = (self.open()?, CopyDigest::default());
        while (self.is_wanted)() {
            let piece = read_piece(&mut file).context(self.path)?;
            if piece.is_empty() {
                return if digest.finish() == expected {
                    Ok(())
                } else {
                    Err(self.differs("its bytes are not those that were copied".into()))
                };
            }
            digest.add(&piece);
        }
        Ok(())
    }

    /// Compares the length, the header, literals and the bytes between tensors.
    fn compare_file(&self, file: &OutFile) -> Result<(), SaveError> {
        let mut found = self.open()?;
        let length = files::size(self.path).context(self.path)?;
        if length != file.size() {
            return Err(self.differs(format!("it has {length} bytes, expected {}", file.size())));
        }
        let head = file.head.len() as u64;
        self.compare(&mut (&mut found).take(head), &mut file.head.as_slice(), "the plan")?;
        let mut end = head;
        for (start, entry) in file.offsets.iter().copied().zip(&file.entries) {
            self.compare_gap(&mut *found, end..start)?;
            match &entry.made_from {
                MadeFrom::Literal(bytes) => {
                    found.seek(SeekFrom::Start(start)).context(self.path)?;
                    let mut written = (&mut found).take(entry.bytes);
                    self.compare(&mut written, &mut bytes.as_slice(), "the plan")?;
                }
                MadeFrom::Zeros => self.compare_gap(&mut *found, start..start + entry.bytes)?,
                _ => {}
            }
            end = start + entry.bytes;
        }
        self.compare_gap(&mut *found, end..length)
    }

    /// Checks that a range of bytes, such as those between two tensors, holds zeros.
    fn compare_gap(&self, file: &mut dyn FileReader, gap: Range<u64>) -> Result<(), SaveError> {
        if gap.is_empty() {
            return Ok(());
        }
        file.seek(SeekFrom::Start(gap.start)).context(self.path)?;
        let mut zeros = io::repeat(0).take(gap.end - gap.start);
        self.compare(&mut file.take(gap.end - gap.start), &mut zeros, "the plan")
    }

    /// Compares all bytes of two readers; the first reads the file.
    fn compare(
        &self,
        found: &mut dyn Read,
        expected: &mut dyn Read,
        expected_from: &str,
    ) -> Result<(), SaveError> {
        let mut offset = 0;
        while (self.is_wanted)() {
            let a = read_piece(found).context(self.path)?;
            let b = read_piece(expected).context(self.path)?;
            if a != b {
                let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
                let byte = offset + same;
                return Err(self.differs(format!("byte {byte} is not that of {expected_from}")));
            }
            if a.is_empty() {
                return Ok(());
            }
            offset += a.len();
        }
        Ok(())
    }
}

fn read_piece(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
