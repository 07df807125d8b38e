//! Whether a tensor may be quantized for a target, and why not.

use crate::plan::eligibility::Obstacle;
use crate::plan::target::Loader;

/// Whether a tensor is quantized for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// By default.
    ByDefault,
    /// Only when it is asked for by its plain name, with a warning.
    ByName(Reason),
    /// Never: the format or the loader cannot hold it.
    Never(Reason),
}

impl Eligibility {
    /// Why the tensor is left as it is by default.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Eligibility::ByDefault => None,
            Eligibility::ByName(reason) | Eligibility::Never(reason) => Some(reason),
        }
    }
}

/// Why a tensor is left as it is by default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its type, its shape or its general role.
    Obstacle(Obstacle),
    /// It is no module's `weight`.
    NotAModuleWeight,
    /// A convolution, or another weight of so many dimensions.
    Convolution(usize),
    /// All experts of a layer in one tensor.
    FusedExperts,
    /// The network's last layer.
    OutputHead,
    /// An output head that loaders replace by the embedding.
    TiedHead,
    /// The layer that chooses experts.
    Router,
    /// A lookup table, told by its name.
    LookupTable,
    /// A lookup table, told by its rows: as many as the vocabulary has entries.
    VocabularyTable(u64),
    /// A layer whose weight is transposed.
    Conv1d,
    /// A layer that transformers splits, joins or renames while loading, and not its scale.
    Converted,
    /// A module of another class, under the name of a Linear layer.
    OtherModule(&'static str),
    /// A part that predicts further tokens.
    MultiTokenPrediction,
    /// The image encoder, which a loader keeps in float.
    VisionPart(Loader),
    /// One of several experts that a loader joins, without their scales.
    JoinedExpert,
    /// Its rows have so many columns, which do not divide into groups of so many.
    Columns { columns: u64, group: u64 },
    /// The image decoder inside a whole checkpoint.
    ImageDecoder,
    /// A text encoder inside a whole checkpoint.
    TextEncoder,
    /// Its name is not that of a known Linear layer.
    UnknownName,
    /// llama.cpp keeps tensors as they are that have this part in their name; empty: those
    /// whose name does not end in `weight`.
    KeptByLlamaCpp(&'static str),
}

impl Reason {
    /// A word or two for a column of a table.
    pub fn word(&self) -> &'static str {
        match self {
            Reason::Obstacle(obstacle) => match obstacle {
                Obstacle::Unreadable(_) => "unreadable",
                Obstacle::OptimizerState => "optimizer",
                Obstacle::NotNetwork => "no weight",
                Obstacle::PartOfTensor => "part",
                Obstacle::Expanded => "expanded",
                Obstacle::Empty => "empty",
                Obstacle::NotFloat(_) => "no float",
                Obstacle::AlreadyQuantized(_) => "quantized",
                Obstacle::FewDimensions => "vector",
                Obstacle::Embedding => "embedding",
                Obstacle::Observer => "observer",
                Obstacle::Norm => "norm",
                Obstacle::NonFinite { .. } => "NaN or Inf",
            },
            Reason::NotAModuleWeight => "no weight",
            Reason::Convolution(_) => "convolution",
            Reason::FusedExperts => "experts",
            Reason::OutputHead => "output head",
            Reason::TiedHead => "tied head",
            Reason::Router => "router",
            Reason::LookupTable | Reason::VocabularyTable(_) => "embedding",
            Reason::Conv1d => "Conv1D",
            Reason::Converted => "converted",
            Reason::OtherModule(_) => "no Linear",
            Reason::MultiTokenPrediction => "extra tokens",
            Reason::VisionPart(_) => "image part",
            Reason::JoinedExpert => "expert",
            Reason::Columns { .. } => "columns",
            Reason::ImageDecoder => "image decoder",
            Reason::TextEncoder => "text encoder",
            Reason::UnknownName => "unknown name",
            Reason::KeptByLlamaCpp(_) => "llama.cpp",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::Obstacle(obstacle) => write!(f, "{obstacle}"),
            Reason::NotAModuleWeight => {
                f.write_str("it is not the weight of a module: its name does not end in .weight")
            }
            Reason::Convolution(3) => {
                f.write_str("it has three dimensions: a convolution, or experts in one tensor")
            }
            Reason::Convolution(n) => write!(f, "it has {n} dimensions: a convolution"),
            Reason::FusedExperts => {
                f.write_str("it holds several experts in one tensor of three dimensions")
            }
            Reason::OutputHead => f.write_str(
                "it is the output head, which loses most and which some loaders keep in float",
            ),
            Reason::TiedHead => f.write_str(
                "it is the output head and tied to the embedding, which loaders put in its place",
            ),
            Reason::Router => f.write_str("it is the router of a mixture of experts"),
            Reason::LookupTable => {
                f.write_str("it is an embedding: a table that is looked up by row")
            }
            Reason::VocabularyTable(rows) => write!(
                f,
                "it is an embedding: its {rows} rows are as many as the vocabulary has entries"
            ),
            Reason::Conv1d => f.write_str("its layer is a Conv1D, whose weight is transposed"),
            Reason::Converted => f.write_str(
                "transformers splits, joins or renames it while loading, and does not find its scale",
            ),
            Reason::OtherModule(class) => {
                write!(f, "its module is a {class}, not a plain Linear layer")
            }
            Reason::MultiTokenPrediction => {
                f.write_str("it predicts further tokens, a part that loaders keep in float")
            }
            Reason::VisionPart(loader) => {
                write!(
                    f,
                    "it belongs to the image encoder, which {} keeps in float",
                    loader.title()
                )
            }
            Reason::JoinedExpert => f.write_str(
                "it is one of several experts, which are joined while loading, and their scales are not",
            ),
            Reason::Columns { columns, group } => {
                write!(f, "its {columns} columns do not divide into groups of {group}")
            }
            Reason::ImageDecoder => {
                f.write_str("it belongs to the image decoder, which ComfyUI loads as floats")
            }
            Reason::TextEncoder => f.write_str(
                "it belongs to a text encoder inside the checkpoint, of which ComfyUI reads only some quantized",
            ),
            Reason::UnknownName => f.write_str("its name is not that of a known Linear layer"),
            Reason::KeptByLlamaCpp("") => f.write_str(
                "its name does not end in weight, and llama.cpp keeps such tensors as they are",
            ),
            Reason::KeptByLlamaCpp(part) => {
                write!(f, "llama.cpp keeps '{part}' tensors as they are")
            }
        }
    }
}
