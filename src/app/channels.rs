//! The output channels of one tensor: which of them stand out, and what sharing a scale
//! costs each.

use super::table::Motion;
use crate::job::channels::{Channel, Request};
use crate::tensor::TensorId;

#[derive(Debug, Default)]
pub struct ChannelsView {
    of: Option<TensorId>,
    top: usize,
    height: usize,
    read: Option<(Request, Result<Channels, String>)>,
    asked: Option<Request>,
}

/// What was found out about the channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    pub all: Vec<Channel>,
    /// Their numbers, the widest range first.
    pub ranked: Vec<u32>,
    /// The range that half of them do not reach.
    pub median: f64,
}

impl Channels {
    pub fn new(all: Vec<Channel>) -> Channels {
        let mut ranked: Vec<u32> = (0..all.len() as u32).collect();
        let absmax = |n: &u32| all.get(*n as usize).map_or(0.0, |channel| channel.absmax);
        ranked.sort_by(|a, b| absmax(b).total_cmp(&absmax(a)).then(a.cmp(b)));
        let median = ranked.get(ranked.len() / 2).map_or(0.0, absmax);
        Channels { all, ranked, median }
    }
}

impl ChannelsView {
    pub fn top(&self) -> usize {
        self.top
    }

    pub fn look_at(&mut self, id: TensorId) {
        if self.of != Some(id) {
            *self = ChannelsView { of: Some(id), height: self.height, ..ChannelsView::default() };
        }
    }

    pub fn forget(&mut self) {
        (self.read, self.asked) = (None, None);
    }

    /// What is known of the channels of `id`.
    pub fn found(&self, id: TensorId) -> Option<Result<&Channels, &str>> {
        let (request, found) = self.read.as_ref()?;
        (request.tensor == id).then(|| found.as_ref().map_err(String::as_str))
    }

    /// Whether `request` has to be carried out; said once.
    pub fn wants(&mut self, request: Request) -> Option<Request> {
        let read = self.read.as_ref().map(|(request, _)| request);
        if read.into_iter().chain(&self.asked).any(|known| *known == request) {
            return None;
        }
        self.asked = Some(request.clone());
        Some(request)
    }

    pub fn take(&mut self, request: Request, found: Result<Vec<Channel>, String>) {
        if self.asked.as_ref() == Some(&request) {
            self.asked = None;
            self.read = Some((request, found.map(Channels::new)));
        }
    }

    pub fn set_height(&mut self, height: usize) {
        self.height = height.max(1);
        self.scroll(0);
    }

    pub fn scroll(&mut self, rows: isize) {
        let count = match &self.read {
            Some((_, Ok(channels))) => channels.ranked.len(),
            _ => 0,
        };
        let last = count.saturating_sub(self.height);
        self.top = self.top.saturating_add_signed(rows).min(last);
    }

    pub fn move_by(&mut self, motion: Motion) {
        let page = self.height.saturating_sub(1).max(1) as isize;
        self.scroll(match motion {
            Motion::Up => -1,
            Motion::Down => 1,
            Motion::HalfUp => -(page / 2).max(1),
            Motion::HalfDown => (page / 2).max(1),
            Motion::PageUp => -page,
            Motion::PageDown => page,
            Motion::First => isize::MIN,
            Motion::Last => isize::MAX,
        });
    }
}
