//! The actions of the user. The key table assigns keys to them.

use crate::app::scroll::Motion;
use tui_input::InputRequest;

/// An action of the user. The key table says what each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Moves the cursor, the selection or the scroll position, whichever is active.
    Move(Motion),
    /// Folds the module, or goes to the module around the row.
    FoldOrLeave,
    /// Unfolds the module, or goes to its first row.
    UnfoldOrEnter,
    /// Folds every module.
    FoldAll,
    /// Unfolds every module.
    UnfoldAll,
    /// Shows modules as a tree, or a flat list of tensors.
    ToggleTree,
    /// Unfolds the module, or gives the tensor the whole screen.
    Open,
    /// Leaves the whole-screen view, or clears the filter.
    Back,

    /// Marks the tensor or all of the module, or unmarks it.
    Mark,
    /// Marks all quantizable tensors in the table, or unmarks them.
    MarkShown,
    /// Inverts the marks of the tensors in the table.
    Invert,
    /// Opens the list of presets.
    Presets,
    /// Opens the list of schemes for the row.
    Schemes,
    /// Opens the list of schemes for the whole table.
    SchemesForAll,
    /// Selects the next scope: which marks the chosen scheme changes.
    NextScope,
    /// Selects the previous scope.
    PreviousScope,
    /// Gives the tensor the scheme under the cursor of the Schemes tab.
    TakeScheme,
    /// Changes the calibration of the row's marks to the next one.
    NextCalibration,
    /// Undoes the last change of the marks.
    Undo,
    /// Repeats the change that was undone last.
    Redo,

    /// Opens the filter.
    Filter,
    /// Begins a range of rows, or ends it.
    Range,
    /// Marks by a pattern.
    MarkBy,
    /// Unmarks what the pattern matches.
    UnmarkBy,
    /// Replaces the typed filter by an older one.
    OlderFilter,
    /// Replaces the typed filter by a newer one.
    NewerFilter,
    /// Shows only tensors that are quantized by default, or all.
    QuantizableOnly,
    /// Goes to the next match.
    NextMatch,
    /// Goes to the previous match.
    PreviousMatch,
    /// Searches for a tensor by name.
    GoTo,
    /// Sorts by the next column.
    SortNext,
    /// Sorts by the previous column.
    SortPrevious,
    /// Reverses the order.
    SortReverse,
    /// Opens the list of columns.
    Columns,

    /// Shows the next tab.
    NextTab,
    /// Shows the previous tab.
    PreviousTab,
    /// Shows the file, its shards, metadata and `config.json`.
    Metadata,
    /// Explains SQNR and the other figures.
    Legend,
    /// Shows the keys.
    Help,
    /// Copies the name of the row.
    Copy,
    /// Stops measuring, or measures all tensors again.
    Calibrate,
    /// Stops what runs in the background: a save, the output measurements or the calibration.
    Stop,

    /// Opens the curve of bytes against error.
    Budget,
    /// Asks for a size or an error.
    TypeSize,
    /// Writes the plan to a recipe.
    WriteRecipe,
    /// Reads the plan from a recipe.
    ReadRecipe,
    /// Writes a report.
    WriteReport,
    /// Compares with another checkpoint.
    Diff,
    /// Opens recorded layer inputs.
    Activations,

    /// Moves the clip of the histogram inwards.
    NarrowClip,
    /// Moves the clip of the histogram outwards.
    WidenClip,
    /// Marks the tensor with the selected clip.
    KeepClip,
    /// Switches the histogram between counts and their logarithms.
    ToggleLog,
    /// Goes to the next tensor with a diagnostic.
    NextFlag,
    /// Goes to the previous tensor with a diagnostic.
    PreviousFlag,

    /// Asks for an element by its index.
    GoToElement,
    /// Goes to the same column of the previous row of the tensor.
    PreviousRow,
    /// Goes to the same column of the next row of the tensor.
    NextRow,
    /// Shows the previous tensor.
    PreviousTensor,
    /// Shows the next tensor.
    NextTensor,

    /// Moves along the budget's curve towards fewer bytes.
    Smaller,
    /// Moves along the budget's curve towards more bytes.
    Larger,
    /// Allows or forbids a scheme, shows or hides a column.
    Toggle,

    /// Reads the shares of an output again.
    Refresh,
    /// Opens another model.
    OpenModel,
    /// Opens the model that was saved.
    OpenResult,
    /// Compares the model that was saved with its source.
    CompareResult,
    /// Copies the command that writes the saved model.
    CopyCommand,
    /// Completes the path that is being typed.
    Complete,
    /// Creates the directory that a path needs.
    CreateDirectory,

    /// Opens the list of targets.
    Target,
    /// Shows the next scheme of a format.
    NextTargetScheme,
    /// Shows the previous scheme of a format.
    PreviousTargetScheme,
    /// Changes the marks as a refusal suggests.
    Fix,
    /// Rounds for recorded inputs with error compensation, or no longer.
    ErrorCompensation,
    /// Chooses clips for recorded inputs, or no longer.
    ClipSearch,
    /// Opens the dialog that saves quantized.
    Save,
    /// Opens the dialog that saves floats.
    Dequantize,

    /// Confirms a dialog or a choice.
    Accept,
    /// Marks a preset's tensors in addition to those that are marked.
    Add,
    /// Closes the topmost window.
    Close,
    /// Cancels the save that is running.
    Cancel,
    /// Edits the text that is being typed.
    Edit(InputRequest),

    /// Leaves the program.
    Quit,
    /// Captures the mouse, or releases it to the terminal.
    ToggleMouse,
    /// Stops the program until the shell continues it.
    Suspend,
    /// Draws the whole screen again.
    Redraw,
}
