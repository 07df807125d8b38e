//! An open checkpoint: the index of its tensors. Reads no data.

use crate::checkpoint::access::Role;
use crate::checkpoint::config::{self, Config};
use crate::checkpoint::discovery::Index;
use crate::checkpoint::error::Result;
use crate::checkpoint::formats::format::Format;
use crate::checkpoint::packed::format::PackedFormat;
use crate::checkpoint::qat::{Observers, Unplaced, Watched};
use crate::checkpoint::stored::{Shard, Stored, StoredId};
use crate::quantization::QatScales;
use crate::tensor::{FloatType, TensorId, TensorInfo};
use std::path::{Path, PathBuf};

/// Where a tensor's elements come from.
#[derive(Debug)]
pub enum Content {
    /// One stored tensor, unchanged.
    Plain(StoredId),
    /// The stored tensors of a packed format.
    Packed(Box<dyn PackedFormat>),
}

/// An open checkpoint: its index. Data is read through [`Checkpoint::reader`].
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) shards: Vec<Shard>,
    pub(super) index: Option<Index>,
    pub(super) directory: Option<PathBuf>,
    pub(super) joins_parts: bool,
    pub(super) keeps_training_state: bool,
    pub(super) notes: Vec<String>,
    pub(super) stored: Vec<Stored>,
    pub(super) total_bytes: u64,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) contents: Vec<Content>,
    pub(super) observers: Observers,
}

impl Checkpoint {
    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a person calls it: the name of its directory or file.
    pub fn name(&self) -> String {
        let named = match (&self.directory, self.path.is_dir()) {
            (_, true) => std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()),
            _ => self.path.clone(),
        };
        named.file_name().unwrap_or(named.as_os_str()).to_string_lossy().into_owned()
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Whether it is read from a server.
    pub(crate) fn is_remote(&self) -> bool {
        self.shards.iter().any(|shard| shard.source.is_remote())
    }

    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// The model's directory, with its config and tokenizer, if it has one.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The same checkpoint, of which the optimizer state and everything else that a training
    /// checkpoint carries is saved with the network.
    pub fn keeping_training_state(self) -> Checkpoint {
        Checkpoint { keeps_training_state: true, ..self }
    }

    /// Whether what is not the network is saved with it.
    pub fn keeps_training_state(&self) -> bool {
        self.keeps_training_state
    }

    /// Whether its files hold parts of tensors, which are joined on reading. Such a file means
    /// nothing by itself.
    pub fn joins_parts(&self) -> bool {
        self.joins_parts
    }

    /// What the user should know about the choice of files, one sentence each: what else is in
    /// the directory, a stale or incomplete index. Empty in the ordinary case.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The text of the model's `config.json`, if there is one.
    pub fn config(&self) -> Option<std::io::Result<String>> {
        config::text(&self.directory.as_ref()?.join("config.json"))
    }

    /// What it says, if there is one; an error if it is not JSON.
    pub fn model_config(&self) -> Result<Option<Config>> {
        self.directory.as_deref().map_or(Ok(None), Config::read)
    }

    /// Tensors as a person thinks of them, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn ids(&self) -> impl ExactSizeIterator<Item = TensorId> + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// # Panics
    /// If `id` is of another checkpoint.
    pub fn tensor(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.index()]
    }

    pub fn content(&self, id: TensorId) -> &Content {
        &self.contents[id.index()]
    }

    /// The stored tensor that a tensor is the whole of; `None` for a packed one.
    pub fn plain(&self, id: TensorId) -> Option<&Stored> {
        match self.content(id) {
            Content::Plain(stored) => Some(self.stored(*stored)),
            Content::Packed(_) => None,
        }
    }

    /// Why a plain tensor's elements cannot be read; `None` if they can.
    pub fn unreadable(&self, id: TensorId) -> Option<&str> {
        self.plain(id)?.unreadable()
    }

    /// What a tensor is to the model.
    pub fn role(&self, id: TensorId) -> Role {
        self.plain(id).map_or(Role::Network, |stored| stored.role)
    }

    /// The packed format of a tensor; `None` for one that is not packed.
    pub fn packed_format(&self, id: TensorId) -> Option<&dyn PackedFormat> {
        match self.content(id) {
            Content::Plain(_) => None,
            Content::Packed(format) => Some(format.as_ref()),
        }
    }

    /// What training with fake quantization left beside a weight.
    pub fn learned(&self, id: TensorId) -> Option<&QatScales> {
        self.observers.learned.get(&id)
    }

    /// Whether any weight was trained with fake quantization.
    pub fn has_learned(&self) -> bool {
        !self.observers.learned.is_empty()
    }

    /// What observers saw of the activations of a weight's layer.
    pub fn watched(&self, id: TensorId) -> Option<&Watched> {
        self.observers.watched.get(&id)
    }

    /// Observers of activations whose layer is not known, in the order of their names.
    pub fn unplaced(&self) -> &[Unplaced] {
        &self.observers.unplaced
    }

    /// Whether observers of a training or a calibration lie beside the network.
    pub fn has_observers(&self) -> bool {
        let Observers { learned, watched, unplaced } = &self.observers;
        !(learned.is_empty() && watched.is_empty() && unplaced.is_empty())
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.ids().find(|&id| self.tensor(id).name == name)
    }

    /// # Panics
    /// If `id` belongs to another checkpoint.
    pub fn stored(&self, id: StoredId) -> &Stored {
        &self.stored[id.index()]
    }

    pub(crate) fn stored_list(&self) -> &[Stored] {
        &self.stored
    }

    /// Stored tensors, in the order of the files and of the data in them.
    pub fn all_stored(&self) -> impl ExactSizeIterator<Item = (StoredId, &Stored)> {
        self.stored.iter().enumerate().map(|(i, s)| (StoredId(i as u32), s))
    }

    /// The type in which [`Reader::elements`] gives a tensor; `None` if it has no float
    /// elements that can be read.
    ///
    /// [`Reader::elements`]: crate::checkpoint::Reader::elements
    pub fn float_type(&self, id: TensorId) -> Option<FloatType> {
        match self.content(id) {
            Content::Plain(_) if self.unreadable(id).is_some() => None,
            Content::Plain(_) => self.tensor(id).dtype.float(),
            Content::Packed(format) => format.decoded(),
        }
    }

    /// Bytes that reading all elements of a tensor reads.
    pub fn bytes(&self, id: TensorId) -> u64 {
        self.tensor(id).bytes
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::parameters).fold(0, u64::saturating_add)
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}
