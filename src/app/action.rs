//! What a person can ask for. Which key asks for it is the key table's affair.

use crate::app::scroll::Motion;
use tui_input::InputRequest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Of the cursor, the choice or the text, whichever has the keys.
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
    NextScheme,
    NextSchemeForAll,
    NextCalibration,
    Undo,
    Redo,

    Filter,
    NextMatch,
    PreviousMatch,
    GoTo,
    SortNext,
    SortPrevious,
    SortReverse,
    /// Which columns the table has.
    Columns,

    NextTab,
    PreviousTab,
    Metadata,
    Legend,
    Help,
    Copy,
    Calibrate,
    /// Ends what runs in the background: a save, the outputs' measuring, the calibration.
    Stop,

    /// The curve of bytes against error.
    Budget,
    WriteRecipe,
    ReadRecipe,
    WriteReport,
    Diff,
    /// Recorded inputs of the layers.
    Activations,

    /// Of the histogram.
    NarrowClip,
    WidenClip,
    KeepClip,
    ToggleLog,
    NextFlag,
    PreviousFlag,

    /// To an element by its index.
    GoToElement,
    PreviousRow,
    NextRow,
    PreviousTensor,
    NextTensor,

    /// Towards fewer bytes.
    Smaller,
    Larger,
    /// Allow a scheme or forbid it, show a column or leave it out.
    Toggle,

    Save,
    Dequantize,

    Accept,
    /// A preset's tensors to the marks there are.
    Add,
    Close,
    /// The save under way.
    Cancel,
    Edit(InputRequest),

    Quit,
    /// Whether the program or the terminal has the mouse.
    ToggleMouse,
    Suspend,
    Redraw,
}
