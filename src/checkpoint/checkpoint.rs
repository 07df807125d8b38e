//! An open checkpoint: the list of its tensors, without data.

use crate::checkpoint::access::Role;
use crate::checkpoint::config::{self, Config};
use crate::checkpoint::discovery::Index;
use crate::checkpoint::error::Result;
use crate::checkpoint::formats::format::Format;
use crate::checkpoint::io::files;
use crate::checkpoint::packed::format::PackedFormat;
use crate::checkpoint::qat::{ObservedActivations, Observers, UnmatchedObserver};
use crate::checkpoint::stored::{Shard, Stored, StoredId};
use crate::quantization::QatScales;
use crate::tensor::{FloatType, Shape, TensorId, TensorInfo};
use std::path::{Path, PathBuf};

/// The stored form of a tensor.
#[derive(Debug)]
pub enum Content {
    /// One stored tensor, unchanged.
    Plain(StoredId),
    /// The stored tensors of a packed format.
    Packed(Box<dyn PackedFormat>),
}

/// An open checkpoint: the list of its tensors. Data is read through [`Checkpoint::reader`].
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
    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name to show: the file name of the directory or file.
    pub fn name(&self) -> String {
        let named = match (&self.directory, self.path.is_dir()) {
            (_, true) => std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()),
            _ => self.path.clone(),
        };
        named.file_name().unwrap_or(named.as_os_str()).to_string_lossy().into_owned()
    }

    /// The shape of a tensor with the axes of its output channels first, and the order of the axes
    /// that produces it. `None` if they are first already, or if the tensor is packed.
    pub(crate) fn channel_major(&self, id: TensorId) -> Option<(Shape, Vec<usize>)> {
        self.plain(id).and_then(|_| self.tensor(id).shape.channel_major())
    }

    /// The format of the files.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Returns whether any of its files is read from a server.
    pub(crate) fn is_remote(&self) -> bool {
        self.shards.iter().any(|shard| shard.source.is_remote())
    }

    /// The index, if the checkpoint was opened by one.
    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// The directory that was opened; `None` if it was a file.
    pub(crate) fn opened_directory(&self) -> Option<&Path> {
        self.directory().filter(|_| files::is_directory(&self.path))
    }

    /// The model's directory, with its config and tokenizer, if it has one.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Returns the checkpoint with the setting that optimizer state and other training state are
    /// saved with the network.
    pub fn keeping_training_state(self) -> Checkpoint {
        Checkpoint { keeps_training_state: true, ..self }
    }

    /// Returns whether training state is saved with the network.
    pub fn keeps_training_state(&self) -> bool {
        self.keeps_training_state
    }

    /// Returns whether the files hold parts of tensors, which are joined on reading. Such a file is
    /// incomplete by itself.
    pub fn joins_parts(&self) -> bool {
        self.joins_parts
    }

    /// Notes for the user about the choice of files, one sentence each: other files in the
    /// directory, or an outdated or incomplete index. Usually empty.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The text of the model's `config.json`, if there is one.
    pub fn config(&self) -> Option<std::io::Result<String>> {
        config::text(&self.directory.as_ref()?.join("config.json"))
    }

    /// Parses the model's `config.json`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not JSON.
    pub fn model_config(&self) -> Result<Option<Config>> {
        self.directory.as_deref().map_or(Ok(None), Config::read)
    }

    /// The tensors in file order: packed weights are one tensor each.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The ids of all tensors, in order.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = TensorId> + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// The tensor with this id.
    ///
    /// # Panics
    /// If `id` belongs to another checkpoint.
    pub fn tensor(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.index()]
    }

    /// The stored form of a tensor.
    pub fn content(&self, id: TensorId) -> &Content {
        &self.contents[id.index()]
    }

    /// Returns the stored tensor that holds a tensor; `None` for a packed tensor.
    pub fn plain(&self, id: TensorId) -> Option<&Stored> {
        match self.content(id) {
            Content::Plain(stored) => Some(self.stored(*stored)),
            Content::Packed(_) => None,
        }
    }

    /// Returns why a plain tensor's elements cannot be read; `None` if they can.
    pub fn unreadable(&self, id: TensorId) -> Option<&str> {
        self.plain(id)?.unreadable()
    }

    /// The role of a tensor in the model.
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

    /// The scales that quantization-aware training stored for a weight.
    pub fn learned(&self, id: TensorId) -> Option<&QatScales> {
        self.observers.learned.get(&id)
    }

    /// Returns whether any weight has learned scales.
    pub fn has_learned(&self) -> bool {
        !self.observers.learned.is_empty()
    }

    /// The recorded ranges of the activations of a weight's layer.
    pub fn observed(&self, id: TensorId) -> Option<&ObservedActivations> {
        self.observers.observed.get(&id)
    }

    /// Observers of activations that cannot be assigned to a layer, sorted by name.
    pub fn unmatched_observers(&self) -> &[UnmatchedObserver] {
        &self.observers.unmatched
    }

    /// Returns whether the checkpoint contains observers of a training or calibration.
    pub fn has_observers(&self) -> bool {
        let Observers { learned, observed, unmatched } = &self.observers;
        !(learned.is_empty() && observed.is_empty() && unmatched.is_empty())
    }

    /// Returns the tensor with the given name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.ids().find(|&id| self.tensor(id).name == name)
    }

    /// The stored tensor with this id.
    ///
    /// # Panics
    /// If `id` belongs to another checkpoint.
    pub fn stored(&self, id: StoredId) -> &Stored {
        &self.stored[id.index()]
    }

    pub(crate) fn stored_list(&self) -> &[Stored] {
        &self.stored
    }

    /// Stored tensors in file order.
    pub fn all_stored(&self) -> impl ExactSizeIterator<Item = (StoredId, &Stored)> {
        self.stored.iter().enumerate().map(|(i, s)| (StoredId(i as u32), s))
    }

    /// Returns the type in which [`Reader::elements`] returns a tensor; `None` if it has no float
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

    /// Number of stored bytes of a tensor, including all parts.
    pub fn bytes(&self, id: TensorId) -> u64 {
        self.tensor(id).bytes
    }

    /// Total number of elements.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::parameters).fold(0, u64::saturating_add)
    }

    /// Total number of bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}
