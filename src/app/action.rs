//! The actions of the user. The key table assigns keys to them.

use crate::app::scroll::Motion;
use tui_input::InputRequest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Moves the cursor, the selection or the scroll position, whichever is active.
    Move(Motion),
    FoldOrLeave,
    UnfoldOrEnter,
    FoldAll,
    UnfoldAll,
    ToggleTree,
    Open,
    Back,

    Mark,
    MarkShown,
    Invert,
    Presets,
    /// Opens the list of schemes for the row.
    Schemes,
    /// Opens the list of schemes for the whole table.
    SchemesForAll,
    /// Says which marks a scheme is for.
    NextScope,
    PreviousScope,
    /// Gives the tensor the scheme under the cursor of the Schemes tab.
    TakeScheme,
    NextCalibration,
    Undo,
    Redo,

    Filter,
    /// Begins a range of rows, or ends it.
    Range,
    /// Marks by a pattern.
    MarkBy,
    /// Unmarks what the pattern matches.
    UnmarkBy,
    /// An older or a newer filter.
    OlderFilter,
    NewerFilter,
    /// Shows only tensors that are quantized by default, or all.
    QuantizableOnly,
    NextMatch,
    PreviousMatch,
    GoTo,
    SortNext,
    SortPrevious,
    SortReverse,
    /// Opens the list of columns.
    Columns,

    NextTab,
    PreviousTab,
    Metadata,
    Legend,
    Help,
    Copy,
    Calibrate,
    /// Stops what runs in the background: a save, the output measurements or the calibration.
    Stop,

    /// Opens the curve of bytes against error.
    Budget,
    /// Asks for a size or an error.
    TypeSize,
    WriteRecipe,
    ReadRecipe,
    WriteReport,
    Diff,
    /// Opens recorded layer inputs.
    Activations,

    /// Moves the clip of the histogram.
    NarrowClip,
    WidenClip,
    KeepClip,
    ToggleLog,
    NextFlag,
    PreviousFlag,

    /// Asks for an element by its index.
    GoToElement,
    PreviousRow,
    NextRow,
    PreviousTensor,
    NextTensor,

    /// Towards fewer bytes.
    Smaller,
    Larger,
    /// Allows or forbids a scheme, shows or hides a column.
    Toggle,

    /// Opens another model.
    OpenModel,
    /// Opens the model that was saved, compares it, or copies the command that writes it.
    OpenResult,
    CompareResult,
    CopyCommand,
    /// Completes the path that is being typed.
    Complete,
    /// Creates the directory that a path needs.
    CreateDirectory,

    /// Opens the list of targets.
    Target,
    /// Shows the next or the previous scheme of a format.
    NextTargetScheme,
    PreviousTargetScheme,
    /// Changes the marks as a refusal suggests.
    Fix,
    Save,
    Dequantize,

    Accept,
    /// Marks a preset's tensors in addition to those that are marked.
    Add,
    Close,
    /// Cancels the save that is running.
    Cancel,
    Edit(InputRequest),

    Quit,
    /// Takes the mouse, or leaves it to the terminal.
    ToggleMouse,
    Suspend,
    Redraw,
}
