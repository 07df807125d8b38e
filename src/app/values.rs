//! The window into a tensor's values: which elements are seen, and what is known of them.

use super::table::Motion;
use crate::job::element_window::{Quantization, Request, Window};
use crate::tensor::{Shape, TensorId};
use std::ops::Range;

/// Elements read beyond what is seen, so that scrolling rarely waits.
const MARGIN: u64 = 512;

#[derive(Debug, Default)]
pub struct ValuesView {
    of: Option<TensorId>,
    count: u64,
    row: u64,
    top: u64,
    cursor: u64,
    height: usize,
    /// What was read last, or why it could not be.
    read: Option<(Request, Result<Window, String>)>,
    /// What is being read.
    asked: Option<Request>,
}

impl ValuesView {
    /// The first element that is seen.
    pub fn top(&self) -> u64 {
        self.top
    }

    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The elements that are seen.
    pub fn visible(&self) -> Range<u64> {
        self.top..self.count.min(self.top.saturating_add(self.height as u64))
    }

    /// What is known of the tensor `of`, as far as it has been read.
    pub fn window(&self, of: TensorId) -> Option<Result<&Window, &str>> {
        let (request, found) = self.read.as_ref()?;
        (request.tensor == of).then(|| found.as_ref().map_err(String::as_str))
    }

    pub fn set_height(&mut self, height: usize) {
        self.height = height.max(1);
        self.keep_in_view();
    }

    /// Looks at a tensor; the one looked at already stays where it is.
    pub fn look_at(&mut self, id: TensorId, shape: &Shape) {
        if self.of != Some(id) {
            let height = self.height;
            *self = ValuesView { of: Some(id), height, ..ValuesView::default() };
            (self.count, self.row) = (shape.elements(), shape.row_len().max(1));
        }
    }

    /// Forgets what was read, but not the place.
    pub fn forget(&mut self) {
        (self.read, self.asked) = (None, None);
    }

    /// What has to be read now, if anything.
    pub fn wants(&mut self, how: Option<Quantization>) -> Option<Request> {
        let tensor = self.of?;
        let seen = self.visible();
        if seen.is_empty() {
            return None;
        }
        let covers = |request: &Request| {
            let held = &request.elements;
            request.tensor == tensor
                && request.how == how
                && held.start <= seen.start
                && held.end.min(self.count) >= seen.end
        };
        let read = self.read.as_ref().map(|(request, _)| request);
        if read.into_iter().chain(&self.asked).any(covers) {
            return None;
        }
        let elements = seen.start.saturating_sub(MARGIN)..seen.end.saturating_add(MARGIN);
        let request = Request { tensor, elements, how };
        self.asked = Some(request.clone());
        Some(request)
    }

    /// Takes over what was read, if it is still what was asked for.
    pub fn take(&mut self, request: Request, found: Result<Window, String>) {
        if self.asked.as_ref() == Some(&request) {
            self.asked = None;
            self.read = Some((request, found));
        }
    }

    pub fn move_cursor(&mut self, motion: Motion) {
        let page = (self.height as u64).saturating_sub(1).max(1);
        let half = (self.height as u64 / 2).max(1);
        let last = self.count.saturating_sub(1);
        let at = match motion {
            Motion::Up => self.cursor.saturating_sub(1),
            Motion::Down => self.cursor.saturating_add(1),
            Motion::HalfUp => self.cursor.saturating_sub(half),
            Motion::HalfDown => self.cursor.saturating_add(half),
            Motion::PageUp => self.cursor.saturating_sub(page),
            Motion::PageDown => self.cursor.saturating_add(page),
            Motion::First => 0,
            Motion::Last => last,
        };
        self.go_to(at);
    }

    /// To the same column of the next row of the last axis, or of the one before.
    pub fn move_row(&mut self, forward: bool) {
        let at = match forward {
            true => self.cursor.saturating_add(self.row),
            false => self.cursor.saturating_sub(self.row),
        };
        if at < self.count {
            self.go_to(at);
        }
    }

    pub fn go_to(&mut self, index: u64) {
        self.cursor = index.min(self.count.saturating_sub(1));
        self.keep_in_view();
    }

    /// The same, with what is around it in sight.
    pub fn jump_to(&mut self, index: u64) {
        self.go_to(index);
        self.top = self.cursor.saturating_sub(self.height as u64 / 2);
        self.keep_in_view();
    }

    /// Puts the cursor on a line that is seen.
    pub fn click(&mut self, line: usize) {
        self.go_to(self.top.saturating_add(line as u64));
    }

    /// Scrolls; the cursor follows where it must.
    pub fn scroll(&mut self, rows: isize) {
        let height = self.height as u64;
        let last = self.count.saturating_sub(height);
        self.top = self.top.saturating_add_signed(rows as i64).min(last);
        self.cursor = self.cursor.clamp(self.top, self.top.saturating_add(height - 1));
        self.keep_in_view();
    }

    fn keep_in_view(&mut self) {
        let height = self.height.max(1) as u64;
        self.cursor = self.cursor.min(self.count.saturating_sub(1));
        self.top = self.top.min(self.count.saturating_sub(height));
        if self.cursor < self.top {
            self.top = self.cursor;
        } else if self.cursor - self.top >= height {
            self.top = self.cursor + 1 - height;
        }
    }
}

/// The index that a text names: `1234`, or a place along every axis, `3, 17`.
///
/// # Errors
/// A sentence on what is wrong with it.
pub(crate) fn index_of(text: &str, shape: &Shape) -> Result<u64, String> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    let numbers: Vec<u64> = bare
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|part| !part.is_empty())
        .map(|part| part.replace('_', "").parse().map_err(|_| format!("'{part}' is not a number")))
        .collect::<Result<_, String>>()?;
    let count = shape.elements();
    let index = match numbers[..] {
        [] => return Err("an index, or a place along every axis such as 3, 17".to_owned()),
        [index] => index,
        _ if numbers.len() != shape.rank() => {
            let (found, rank) = (numbers.len(), shape.rank());
            return Err(format!("{found} numbers, but the tensor has {rank} axes"));
        }
        _ => {
            let mut index = 0u64;
            for (axis, (&at, &dim)) in numbers.iter().zip(shape.dims()).enumerate() {
                if at >= dim {
                    return Err(format!("axis {axis} has {dim} places, from 0 on"));
                }
                index = index * dim + at;
            }
            index
        }
    };
    match index < count {
        true => Ok(index),
        false => Err(format!("the tensor has {count} elements, from 0 on")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_and_places_lead_to_each_other() {
        let shape = Shape::new([4, 3, 5]).expect("fits");
        for index in 0..60 {
            let text: Vec<String> = shape.place(index).iter().map(u64::to_string).collect();
            assert_eq!(index_of(&format!("[{}]", text.join(", ")), &shape), Ok(index));
            assert_eq!(index_of(&index.to_string(), &shape), Ok(index));
        }
        assert_eq!(Shape::new([]).expect("a scalar").place(0), Vec::<u64>::new());
        for text in ["", "60", "1, 2", "1 3 0", "x"] {
            assert!(index_of(text, &shape).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_read_is_not_asked_for_again() {
        let shape = Shape::new([100, 100]).expect("fits");
        let mut view = ValuesView::default();
        view.set_height(10);
        view.look_at(TensorId(3), &shape);
        let request = view.wants(None).expect("nothing is read yet");
        assert_eq!(view.wants(None), None);
        view.take(request, Ok(Window { start: 0, elements: Vec::new() }));
        view.move_cursor(Motion::PageDown);
        assert_eq!(view.wants(None), None);
        view.move_row(true);
        assert_eq!((view.cursor(), view.top()), (109, 100));
        view.move_cursor(Motion::Last);
        assert_eq!(view.visible(), 9990..10_000);
        assert!(view.wants(None).is_some_and(|r| r.elements.contains(&9990)));
    }
}
