//! The element window: which elements of a tensor are visible, and what was read of them.

use crate::app::job_answer::JobAnswer;
use crate::app::scroll::{Motion, ScrollList};
use crate::job::element_window::{Quantization, Request, Window};
use crate::tensor::{Shape, TensorId};
use std::ops::Range;

/// Elements read on both sides of the visible ones, so that scrolling rarely waits.
const MARGIN: u64 = 512;

/// The rows of the Values tab: which elements are visible, and what has been read of them.
#[derive(Debug, Default)]
pub struct ValuesView {
    tensor: Option<TensorId>,
    count: u64,
    row_len: u64,
    list: ScrollList,
    window: JobAnswer<Request, Window>,
}

impl ValuesView {
    /// The first visible element.
    pub fn top(&self) -> u64 {
        self.list.top()
    }

    /// Index of the element under the cursor.
    pub fn cursor(&self) -> u64 {
        self.list.cursor()
    }

    /// The visible elements.
    pub fn visible(&self) -> Range<u64> {
        self.list.visible()
    }

    /// The elements that have been read of `tensor`, or why they could not be.
    pub fn window(&self, tensor: TensorId) -> Option<Result<&Window, &str>> {
        self.window.answer(|request| request.tensor == tensor)
    }

    /// Sets the number of visible rows.
    pub fn set_height(&mut self, height: usize) {
        self.list.set_height(height);
    }

    /// Shows a tensor. The one that is shown already keeps its cursor.
    pub fn show(&mut self, id: TensorId, shape: &Shape) {
        if self.tensor == Some(id) {
            return;
        }
        let height = self.list.height() as usize;
        let (count, row_len) = (shape.elements(), shape.row_len().max(1));
        let (list, window) = (ScrollList::new(count), JobAnswer::default());
        *self = ValuesView { tensor: Some(id), count, row_len, list, window };
        self.list.set_height(height);
    }

    /// Drops what was read, but not the cursor.
    pub fn clear(&mut self) {
        self.window.clear();
    }

    /// The elements to read now, if any.
    pub fn request(&mut self, quantization: Option<Quantization>) -> Option<Request> {
        let tensor = self.tensor?;
        let visible = self.visible();
        if visible.is_empty() {
            return None;
        }
        let covers = |request: &Request| {
            let read = &request.elements;
            request.tensor == tensor
                && request.quantization == quantization
                && read.start <= visible.start
                && read.end.min(self.count) >= visible.end
        };
        let elements = visible.start.saturating_sub(MARGIN)..visible.end.saturating_add(MARGIN);
        self.window.request_unless(Request { tensor, elements, quantization }, covers)
    }

    /// Takes the elements that were read.
    pub fn receive(&mut self, request: Request, found: Result<Window, String>) {
        self.window.receive(request, found);
    }

    /// Moves the cursor.
    pub fn move_cursor(&mut self, motion: Motion) {
        self.list.move_cursor(motion);
    }

    /// Moves to the same column of the next row of the last axis, or of the previous one.
    pub fn move_row(&mut self, forward: bool) {
        let cursor = self.cursor();
        let to = if forward {
            cursor.saturating_add(self.row_len)
        } else {
            cursor.saturating_sub(self.row_len)
        };
        if to < self.count {
            self.list.go_to(to);
        }
    }

    /// Puts the cursor on an element, with its neighbours visible.
    pub fn center_on(&mut self, index: u64) {
        self.list.center_on(index);
    }

    /// Puts the cursor on a visible line.
    pub fn click(&mut self, line: usize) {
        self.list.go_to(self.top().saturating_add(line as u64));
    }

    /// Scrolls by a number of rows, down if positive.
    pub fn scroll(&mut self, rows: isize) {
        self.list.scroll(rows);
    }
}

/// Parses an index: `1234`, or one index per axis as in `3, 17`.
///
/// # Errors
/// Fails if the text is invalid or the index is out of range.
pub(crate) fn index_of(text: &str, shape: &Shape) -> Result<u64, String> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    let numbers: Vec<u64> = bare
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|part| !part.is_empty())
        .map(|part| part.replace('_', "").parse().map_err(|_| format!("'{part}' is not a number")))
        .collect::<Result<_, String>>()?;
    let count = shape.elements();
    let index = match numbers[..] {
        [] => return Err("type an index, or one index per axis such as 3, 17".to_owned()),
        [index] => index,
        _ if numbers.len() != shape.rank() => {
            let (found, rank) = (numbers.len(), shape.rank());
            return Err(format!("expected one index or {rank} of them, found {found}"));
        }
        _ => {
            let mut index = 0u64;
            for (axis, (&at, &dim)) in numbers.iter().zip(shape.dims()).enumerate() {
                if at >= dim {
                    return Err(format!("axis {axis}: expected an index below {dim}, found {at}"));
                }
                index = index * dim + at;
            }
            index
        }
    };
    if index < count {
        Ok(index)
    } else {
        Err(format!("expected an index below {count}, found {index}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_parsed_as_one_number_or_one_per_axis() {
        let shape = Shape::new([4, 3, 5]).expect("fits");
        for index in 0..60 {
            let text: Vec<String> = shape.coordinates(index).iter().map(u64::to_string).collect();
            assert_eq!(index_of(&format!("[{}]", text.join(", ")), &shape), Ok(index));
            assert_eq!(index_of(&index.to_string(), &shape), Ok(index));
        }
        assert_eq!(Shape::new([]).expect("a scalar").coordinates(0), Vec::<u64>::new());
        for text in ["", "60", "1, 2", "1 3 0", "x"] {
            assert!(index_of(text, &shape).is_err(), "{text}");
        }
    }

    #[test]
    fn elements_that_were_read_are_not_requested_again() {
        let shape = Shape::new([100, 100]).expect("fits");
        let mut view = ValuesView::default();
        view.set_height(10);
        view.show(TensorId(3), &shape);
        let request = view.request(None).expect("nothing is read yet");
        assert_eq!(view.request(None), None);
        view.receive(request, Ok(Window { start: 0, elements: Vec::new() }));
        view.move_cursor(Motion::PageDown);
        assert_eq!(view.request(None), None);
        view.move_row(true);
        assert_eq!((view.cursor(), view.top()), (109, 100));
        view.move_cursor(Motion::Last);
        assert_eq!(view.visible(), 9990..10_000);
        assert!(view.request(None).is_some_and(|r| r.elements.contains(&9990)));
    }
}
