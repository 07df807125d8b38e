//! Writes an output to a bucket, object by object. `config.json` and the index come last, so that
//! nothing takes an unfinished output for a whole one.

use crate::checkpoint::io::files;
use crate::checkpoint::io::remote::BucketDirectory;
use crate::export::disk::free_bytes;
use crate::export::error::SaveError;
use crate::export::output_plan::{MadeFrom, OutFile, OutputPlan};
use crate::export::sidecar_file::SidecarFile;
use crate::path_error::IoContext;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Number of bytes read of a file at a time.
const READ_BYTES: usize = 1 << 20;

/// An output in a bucket.
#[derive(Debug)]
pub(crate) struct BucketOutput<'o> {
    out: &'o Path,
    output_plan: &'o OutputPlan,
    /// The directory that contains the output, which is the output itself if it is a directory.
    directory: BucketDirectory,
}

/// Bytes of an output file that a worker made, and the offset at which they begin.
pub(crate) struct PlacedPiece<P> {
    pub start: u64,
    pub bytes: u64,
    pub piece: P,
}

impl BucketOutput<'_> {
    /// An output that must not be there yet. A part of it that an interrupted `join` left may be.
    pub(crate) fn new<'o>(
        out: &'o Path,
        output_plan: &'o OutputPlan,
    ) -> Result<BucketOutput<'o>, SaveError> {
        let unfit = |why: String| SaveError::Unfit { path: out.to_owned(), why };
        let parent = out.parent().unwrap_or(out);
        let directory = if output_plan.directory { out } else { parent };
        let directory = BucketDirectory::new(directory).context(out)?;
        let (objects, directories) = directory.names("").context(out)?;
        let found: BTreeSet<String> = objects.into_iter().chain(directories).collect();
        let exists = "exists already, and nothing in a bucket is replaced; choose another path, or remove it";
        if !output_plan.directory {
            let name = out.file_name().unwrap_or_default().to_string_lossy();
            if found.contains(&*name) {
                return Err(unfit(exists.to_owned()));
            }
            return Ok(BucketOutput { out, output_plan, directory });
        }
        let files = output_plan.files.iter().map(|file| file.name.as_str());
        let texts = output_plan.texts.iter().map(|text| text.name.as_str());
        let names = files.chain(texts).map(str::to_owned);
        let names = names.chain(output_plan.sidecar_files.iter().map(object_name));
        let first = |name: String| name.split('/').next().unwrap_or_default().to_owned();
        let planned: BTreeSet<String> = names.map(first).collect();
        if let Some(other) = found.difference(&planned).next() {
            let other = other.escape_debug();
            return Err(unfit(format!(
                "holds '{other}', which is not a part of the output; choose another path, or remove it"
            )));
        }
        if found == planned {
            return Err(unfit(exists.to_owned()));
        }
        Ok(BucketOutput { out, output_plan, directory })
    }

    /// Checks that a worker has room for its share of `needed` bytes until it is uploaded.
    pub(crate) fn check_room(&self, needed: u64) -> Result<(), SaveError> {
        let scratch = std::env::temp_dir();
        match free_bytes(&scratch).context(&scratch)? {
            Some(free) if free < needed => Err(SaveError::NoSpace { out: scratch, needed, free }),
            _ => Ok(()),
        }
    }

    /// Writes a file of tensors from its plan and from `pieces`, in order. `read` returns the bytes
    /// of a piece.
    pub(crate) fn write_file<P, E: From<SaveError>>(
        &self,
        file: &OutFile,
        pieces: Vec<PlacedPiece<P>>,
        mut read: impl FnMut(&P) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        enum Content<'c, P> {
            Plan(&'c [u8]),
            Piece(P),
        }
        let path =
            if file.name.is_empty() { self.out.to_owned() } else { self.out.join(&file.name) };
        let failed = |source| E::from(SaveError::Io { path: path.clone(), source });
        let mut contents = vec![(0, file.head.len() as u64, Content::Plan(&file.head))];
        for (entry, &offset) in file.entries.iter().zip(&file.offsets) {
            if let MadeFrom::Literal(bytes) = &entry.made_from {
                contents.push((offset, bytes.len() as u64, Content::Plan(bytes)));
            }
        }
        let pieces = pieces.into_iter();
        contents.extend(pieces.map(|at| (at.start, at.bytes, Content::Piece(at.piece))));
        contents.sort_by_key(|(start, bytes, _)| (*start, *bytes));

        let name = if file.name.is_empty() {
            self.out.file_name().unwrap_or_default().to_string_lossy().into_owned()
        } else {
            file.name.clone()
        };
        let mut upload = self.directory.upload(&name, file.size());
        let mut at = 0;
        let zeros = [0; 4096];
        let end = (file.size(), 0, Content::Plan(&[]));
        for (start, bytes, content) in contents.into_iter().chain([end]) {
            // What the plan leaves out is zero.
            while at < start {
                let count = (start - at).min(zeros.len() as u64);
                let gap = zeros.get(..count as usize).unwrap_or_default();
                upload.write(gap).map_err(&failed)?;
                at += count;
            }
            match content {
                Content::Plan(bytes) => upload.write(bytes),
                Content::Piece(piece) => upload.write(&read(&piece)?),
            }
            .map_err(&failed)?;
            at += bytes;
        }
        if at != file.size() {
            let why = format!("its parts have {at} bytes, expected {}", file.size());
            return Err(SaveError::FileDiffers { path, why }.into());
        }
        upload.finish().map_err(failed)
    }

    /// Writes the files without tensors, the index and `config.json` last. `copied` is called with
    /// the number of bytes and can stop the copy.
    pub(crate) fn write_others<E: From<SaveError>>(
        &self,
        copied: impl Fn(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        enum Other<'o> {
            Text(&'o str),
            Copy(&'o SidecarFile),
        }
        let OutputPlan { texts, sidecar_files, .. } = self.output_plan;
        let texts = texts.iter().map(|text| (text.name.clone(), Other::Text(&text.text)));
        let copies = sidecar_files.iter().map(|file| (object_name(file), Other::Copy(file)));
        let mut others: Vec<(String, Other)> = texts.chain(copies).collect();
        others.sort_by_key(|(name, _)| (name == "config.json", name.ends_with(".index.json")));
        for (name, other) in others {
            let path = self.out.join(&name);
            let failed = |source| E::from(SaveError::Io { path: path.clone(), source });
            let file = match other {
                Other::Text(text) => {
                    self.directory.write(&name, text.as_bytes()).map_err(failed)?;
                    continue;
                }
                Other::Copy(file) => file,
            };
            let unreadable = |source| E::from(SaveError::Io { path: file.source.clone(), source });
            let mut from = files::open(&file.source).map_err(unreadable)?;
            let mut upload = self.directory.upload(&name, file.bytes);
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let count = from.read(&mut buffer).map_err(unreadable)?;
                if count == 0 {
                    break;
                }
                upload.write(buffer.get(..count).unwrap_or_default()).map_err(failed)?;
                copied(count as u64)?;
            }
            upload.finish().map_err(failed)?;
        }
        Ok(())
    }

    /// The path that opens the output.
    pub(crate) fn entry_point(&self) -> PathBuf {
        match self.output_plan.entry_point() {
            Some(name) => self.out.join(name),
            None => self.out.to_owned(),
        }
    }
}

fn object_name(file: &SidecarFile) -> String {
    let parts = file.name.iter().map(|part| part.to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}
