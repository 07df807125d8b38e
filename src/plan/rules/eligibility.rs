//! Whether a tensor may be quantized for a target, and why not.

use crate::plan::eligibility::Obstacle;
use crate::plan::target::Loader;

/// Whether a tensor is quantized for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// By default.
    ByDefault,
    /// Only if it is selected by its plain name, with a warning.
    ByName(Reason),
    /// Never: the format or the loader cannot hold it.
    Never(Reason),
}

impl Eligibility {
    /// Returns why the tensor is not quantized by default; `None` if it is.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Eligibility::ByDefault => None,
            Eligibility::ByName(reason) | Eligibility::Never(reason) => Some(reason),
        }
    }
}

/// Why a tensor is not quantized by default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Reason {
    /// Its type, its shape or its general role.
    Obstacle(Obstacle),
    /// It is not the `weight` of a module.
    NotAModuleWeight,
    /// A convolution, or another weight with this number of dimensions.
    Convolution(usize),
    /// All experts of a layer in one tensor.
    FusedExperts,
    /// The network's last layer.
    OutputHead,
    /// An output head that loaders replace with the embedding.
    TiedHead,
    /// The layer that chooses experts.
    Router,
    /// A lookup table, recognised by its name.
    LookupTable,
    /// A lookup table, recognised by its number of rows, which is the size of the vocabulary.
    VocabularyTable(u64),
    /// A layer whose weight is transposed.
    Conv1d,
    /// A layer that transformers splits, joins or renames while loading, without doing the same
    /// to its scale.
    Converted,
    /// A module of another class that has the name of a Linear layer.
    OtherModule(&'static str),
    /// A part that predicts further tokens.
    MultiTokenPrediction,
    /// The image encoder, which a loader keeps in float.
    VisionPart(Loader),
    /// One of several experts that a loader joins without joining their scales.
    JoinedExpert,
    /// Its number of columns is not a multiple of the group size.
    Columns { columns: u64, group: u64 },
    /// The image decoder inside a whole checkpoint.
    ImageDecoder,
    /// A text encoder inside a whole checkpoint.
    TextEncoder,
    /// Its name is not that of a known Linear layer.
    UnknownName,
    /// llama.cpp does not quantize tensors with this part in their name. It is empty for names
    /// that do not end in `weight`.
    KeptByLlamaCpp(&'static str),
}

impl Reason {
    /// Returns one or two words for a table column.
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
                Obstacle::Bias => "bias",
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
                "it is the output head: it loses most, and some loaders keep it in float",
            ),
            Reason::TiedHead => f.write_str(
                "it is the output head and tied to the embedding: loaders use the embedding instead",
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
                "it is one of several experts that are joined while loading, without their scales",
            ),
            Reason::Columns { columns, group } => {
                write!(f, "its {columns} columns do not divide into groups of {group}")
            }
            Reason::ImageDecoder => {
                f.write_str("it belongs to the image decoder, which ComfyUI loads as floats")
            }
            Reason::TextEncoder => f.write_str(
                "it belongs to a text encoder inside the checkpoint; ComfyUI reads only some of these quantized",
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
