//! The output channels of one tensor: which are outliers, and how much precision each loses by
//! sharing one scale.

use crate::app::job_answer::JobAnswer;
use crate::app::scroll::{Motion, ScrollList};
use crate::job::channels::{Channel, Request};
use crate::tensor::TensorId;

/// The rows of the Channels tab.
#[derive(Debug, Default)]
pub struct ChannelsView {
    tensor: Option<TensorId>,
    list: ScrollList,
    channels: JobAnswer<Request, Channels>,
}

/// The measured channels of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    /// All channels.
    pub all: Vec<Channel>,
    /// Channel numbers, largest absmax first.
    pub ranked: Vec<u32>,
    /// The median absmax.
    pub median: f64,
}

impl Channels {
    /// Ranks channels by their absmax.
    pub fn new(all: Vec<Channel>) -> Channels {
        let mut ranked: Vec<u32> = (0..all.len() as u32).collect();
        let absmax = |n: &u32| all.get(*n as usize).map_or(0.0, |channel| channel.absmax);
        ranked.sort_by(|a, b| absmax(b).total_cmp(&absmax(a)).then(a.cmp(b)));
        let median = ranked.get(ranked.len() / 2).map_or(0.0, absmax);
        Channels { all, ranked, median }
    }
}

impl ChannelsView {
    /// The first visible row.
    pub fn top(&self) -> usize {
        self.list.top() as usize
    }

    /// Shows a tensor. The one that is shown already keeps its scroll position.
    pub fn show(&mut self, id: TensorId) {
        if self.tensor != Some(id) {
            let height = self.list.height() as usize;
            *self = ChannelsView { tensor: Some(id), ..ChannelsView::default() };
            self.list.set_height(height);
        }
    }

    /// Forgets the tensor.
    pub fn clear(&mut self) {
        self.channels.clear();
    }

    /// The channels of `tensor`, or why they could not be read.
    pub fn channels(&self, tensor: TensorId) -> Option<Result<&Channels, &str>> {
        self.channels.answer(|request| request.tensor == tensor)
    }

    /// The request to send now, if any.
    pub fn request(&mut self, request: Request) -> Option<Request> {
        self.channels.request(request)
    }

    /// Takes the channels that were read.
    pub fn receive(&mut self, request: Request, found: Result<Vec<Channel>, String>) {
        self.channels.receive(request, found.map(Channels::new));
        let channels = self.channels.answer(|_| true);
        let count = channels.and_then(Result::ok).map_or(0, |channels| channels.ranked.len());
        self.list.set_len(count as u64);
    }

    /// Sets the number of visible rows.
    pub fn set_height(&mut self, height: usize) {
        self.list.set_height(height);
    }

    /// Scrolls by a number of rows, down if positive.
    pub fn scroll(&mut self, rows: isize) {
        self.list.scroll(rows);
    }

    /// Scrolls by a motion.
    pub fn scroll_by_motion(&mut self, motion: Motion) {
        self.list.scroll_by_motion(motion);
    }
}
