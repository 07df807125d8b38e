//! What quantizing loses, output channel by output channel.

use crate::quantization::Loss;
use serde::{Deserialize, Serialize};

/// What is asked about the output channels of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelQuestion {
    #[default]
    Nothing,
    /// Which of them loses most.
    Worst,
    /// What each of them loses.
    Each,
}

/// The losses of a tensor's channels, which come in order and in pieces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelErrors {
    keep: bool,
    /// The channel that may go on.
    open: Option<(u64, Loss)>,
    worst: Option<(u64, Loss)>,
    each: Vec<Loss>,
}

impl ChannelErrors {
    pub(super) fn new(question: ChannelQuestion) -> Option<ChannelErrors> {
        let keep = question == ChannelQuestion::Each;
        (question != ChannelQuestion::Nothing)
            .then(|| ChannelErrors { keep, ..ChannelErrors::default() })
    }

    /// Adds the next piece of a channel, the same or the next.
    pub(super) fn add(&mut self, channel: u64, piece: Loss) {
        match &mut self.open {
            Some((open, sum)) if *open == channel => {
                sum.signal += piece.signal;
                sum.noise += piece.noise;
            }
            _ => {
                self.close();
                self.open = Some((channel, piece));
            }
        }
    }

    /// Nothing more is to come of the last channel.
    pub(super) fn close(&mut self) {
        let Some((channel, error)) = self.open.take() else { return };
        if self.worst.is_none_or(|(_, worst)| error.sqnr() < worst.sqnr()) {
            self.worst = Some((channel, error));
        }
        if self.keep {
            self.each.push(error);
        }
    }

    /// The channel that loses most, the first of equals, and its SQNR in dB.
    pub fn worst(&self) -> Option<(u64, f64)> {
        self.worst.map(|(channel, loss)| (channel, loss.sqnr_db()))
    }

    /// What each loses, where that was asked.
    pub fn each(&self) -> &[Loss] {
        &self.each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_channel_is_found_in_pieces() {
        let mut errors = ChannelErrors::new(ChannelQuestion::Each).expect("asked");
        let piece = |signal, noise| Loss { signal, noise };
        errors.add(0, piece(100.0, 1.0));
        errors.add(1, piece(50.0, 1.0));
        errors.add(1, piece(50.0, 9.0));
        errors.add(2, piece(5.0, 0.0));
        errors.close();
        assert_eq!(errors.worst(), Some((1, 10.0)));
        assert_eq!(errors.each(), [piece(100.0, 1.0), piece(100.0, 10.0), piece(5.0, 0.0)]);
        assert_eq!(ChannelErrors::new(ChannelQuestion::Nothing), None);
    }
}
