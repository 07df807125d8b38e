//! Messages to the user: the status line, and windows for errors.

use crate::app::overlay::{Overlay, Tone};
use crate::app::pager::{Line, Pager};
use crate::app::state::{App, Status};

impl App {
    pub(in crate::app) fn say(&mut self, text: impl Into<String>) {
        self.status = Some(Status { text: text.into(), warning: false });
    }

    pub(in crate::app) fn warn(&mut self, text: impl Into<String>) {
        self.status = Some(Status { text: text.into(), warning: true });
    }

    pub(in crate::app) fn show_error(&mut self, title: &str, what: String, then: &str) {
        let lines = vec![Line::text(what), Line::Blank, Line::text(then)];
        self.cover(Overlay::Text(Tone::Bad, Pager::new(title, lines)));
    }
}
