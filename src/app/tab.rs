//! The tabs of the detail pane.

/// A tab of the detail pane: a view of the tensor under the cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// What the tensor is, and its figures.
    #[default]
    Overview,
    /// The distribution of its values.
    Histogram,
    /// Its output channels.
    Channels,
    /// Its error in each scheme.
    Schemes,
    /// Its elements.
    Values,
}

impl Tab {
    /// All tabs, from left to right.
    pub const ALL: [Tab; 5] =
        [Tab::Overview, Tab::Histogram, Tab::Channels, Tab::Schemes, Tab::Values];

    /// The title.
    pub fn title(self) -> &'static str {
        match self {
            Tab::Overview => "Overview",
            Tab::Histogram => "Histogram",
            Tab::Channels => "Channels",
            Tab::Schemes => "Schemes",
            Tab::Values => "Values",
        }
    }
}
