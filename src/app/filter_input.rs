//! A filter that is being typed, with the filters that were typed before.

use crate::app::filter::{Filter, Vocabulary};
use tui_input::Input;

/// The filters that were kept, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterHistory {
    texts: Vec<String>,
}

impl FilterHistory {
    const MAX_FILTERS: usize = 100;

    /// Adds a filter.
    pub fn record(&mut self, text: &str) {
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        self.texts.retain(|other| other != text);
        self.texts.push(text.to_owned());
        if self.texts.len() > Self::MAX_FILTERS {
            self.texts.remove(0);
        }
    }
}

/// A filter that is being typed, with completion and history.
#[derive(Clone, Debug, Default)]
pub struct FilterInput {
    /// The typed text.
    pub input: Input,
    /// Why the text is not a valid filter.
    pub problem: Option<String>,
    /// How far back in the history the text is, and what was typed before going there.
    recalled: Option<(usize, String)>,
}

impl FilterInput {
    /// Starts with a text.
    pub fn new(text: &str) -> FilterInput {
        FilterInput { input: Input::new(text.to_owned()), ..FilterInput::default() }
    }

    /// The typed text.
    pub fn text(&self) -> &str {
        self.input.value()
    }

    /// The filter as far as it is valid; records the problem otherwise.
    pub(crate) fn parse(&mut self, vocabulary: &Vocabulary) -> Option<Filter> {
        match Filter::parse_for(self.input.value(), vocabulary) {
            Ok(filter) => {
                self.problem = None;
                Some(filter)
            }
            Err(why) => {
                self.problem = Some(why);
                None
            }
        }
    }

    /// Replaces the text by an older or a newer one of the history; past the newest, by what was
    /// typed. False if there is none.
    pub fn recall(&mut self, history: &FilterHistory, older: bool) -> bool {
        let (back, typed) = match self.recalled.take() {
            Some(recalled) => recalled,
            None => (0, self.input.value().to_owned()),
        };
        let to = if older { back + 1 } else { back.saturating_sub(1) };
        let text = match to {
            0 => Some(typed.as_str()),
            n => history
                .texts
                .len()
                .checked_sub(n)
                .and_then(|at| history.texts.get(at))
                .map(String::as_str),
        };
        let (to, found) = match text {
            Some(text) => {
                self.input = Input::new(text.to_owned());
                (to, to != back)
            }
            None => (back, false),
        };
        self.recalled = Some((to, typed));
        found
    }

    /// Forgets the position in the history, because the text was edited.
    pub fn edited(&mut self) {
        self.recalled = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_filters_come_back_and_what_was_typed_is_not_lost() {
        let mut history = FilterHistory::default();
        ["mlp", "attn", "", "mlp"].iter().for_each(|text| history.record(text));
        let mut input = FilterInput::new("no");
        let recall = |input: &mut FilterInput, older| {
            (input.recall(&history, older), input.text().to_owned())
        };
        assert_eq!(recall(&mut input, true), (true, "mlp".to_owned()));
        assert_eq!(recall(&mut input, true), (true, "attn".to_owned()));
        assert_eq!(recall(&mut input, true), (false, "attn".to_owned()));
        assert_eq!(recall(&mut input, false), (true, "mlp".to_owned()));
        assert_eq!(recall(&mut input, false), (true, "no".to_owned()));
        assert_eq!(recall(&mut input, false), (false, "no".to_owned()));
    }
}
