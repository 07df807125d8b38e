//! The tabs of the detail pane.

/// A tab of the detail pane: a view of the tensor under the cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    #[default]
    Overview,
    Histogram,
    Channels,
    Schemes,
    Values,
}

impl Tab {
    pub const ALL: [Tab; 5] =
        [Tab::Overview, Tab::Histogram, Tab::Channels, Tab::Schemes, Tab::Values];

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
