//! The cursor and the scroll position of a list that may be longer than the screen.

use std::ops::Range;

/// A movement of the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// One row up.
    Up,
    /// One row down.
    Down,
    /// Half a page up.
    HalfUp,
    /// Half a page down.
    HalfDown,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first row.
    First,
    /// To the last row.
    Last,
}

impl Motion {
    /// Returns the row that the movement leads to from `row`, in a list of `len` rows with `height`
    /// visible rows.
    pub(crate) fn from(self, row: u64, len: u64, height: u64) -> u64 {
        // One row of the last page stays visible.
        let page = height.saturating_sub(1).max(1);
        let half = (height / 2).max(1);
        let last = len.saturating_sub(1);
        let to = match self {
            Motion::Up => row.saturating_sub(1),
            Motion::Down => row.saturating_add(1),
            Motion::HalfUp => row.saturating_sub(half),
            Motion::HalfDown => row.saturating_add(half),
            Motion::PageUp => row.saturating_sub(page),
            Motion::PageDown => row.saturating_add(page),
            Motion::First => 0,
            Motion::Last => last,
        };
        to.min(last)
    }
}

/// The cursor and the first visible row of a list. The cursor is always visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScrollList {
    len: u64,
    height: u64,
    cursor: u64,
    top: u64,
}

impl Default for ScrollList {
    fn default() -> Self {
        ScrollList::new(0)
    }
}

impl ScrollList {
    /// A list of `len` rows with the cursor on the first and one row visible.
    pub(crate) fn new(len: u64) -> ScrollList {
        ScrollList { len, height: 1, cursor: 0, top: 0 }
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The first visible row.
    pub(crate) fn top(&self) -> u64 {
        self.top
    }

    pub(crate) fn height(&self) -> u64 {
        self.height
    }

    pub(crate) fn visible(&self) -> Range<u64> {
        self.top..self.len.min(self.top.saturating_add(self.height))
    }

    /// Changes the number of rows.
    pub(crate) fn set_len(&mut self, len: u64) {
        self.len = len;
        self.keep_visible();
    }

    /// Changes the number of visible rows; at least one is.
    pub(crate) fn set_height(&mut self, height: usize) {
        self.height = (height as u64).max(1);
        self.keep_visible();
    }

    pub(crate) fn move_cursor(&mut self, motion: Motion) {
        self.go_to(motion.from(self.cursor, self.len, self.height));
    }

    /// Puts the cursor on a row, or on the last one.
    pub(crate) fn go_to(&mut self, row: u64) {
        self.cursor = row;
        self.keep_visible();
    }

    /// Puts the cursor on a row and shows the row in the middle.
    pub(crate) fn center_on(&mut self, row: u64) {
        self.put_on_line(row, self.height / 2);
    }

    /// Puts the cursor on a row and shows the row on a visible line.
    pub(crate) fn put_on_line(&mut self, row: u64, line: u64) {
        self.cursor = row.min(self.len.saturating_sub(1));
        self.top = self.cursor.saturating_sub(line);
        self.keep_visible();
    }

    /// Puts the cursor on a visible line. False if there is no row.
    pub(crate) fn click(&mut self, line: usize) -> bool {
        let row = self.top.saturating_add(line as u64);
        let hit = row < self.len && (line as u64) < self.height;
        if hit {
            self.go_to(row);
        }
        hit
    }

    /// Scrolls by rows. The cursor moves only to stay visible.
    pub(crate) fn scroll(&mut self, rows: isize) {
        let top = self.top.saturating_add_signed(rows as i64);
        self.scroll_to_row(top);
    }

    /// Scrolls as far as `motion` would move the cursor, for lists that show no cursor.
    pub(crate) fn scroll_by_motion(&mut self, motion: Motion) {
        self.scroll_to_row(motion.from(self.top, self.len, self.height));
    }

    /// Scrolls to a share of the way, from 0 for the first page to 1 for the last.
    pub(crate) fn scroll_to_share(&mut self, share: f64) {
        let last = self.len.saturating_sub(self.height);
        self.scroll_to_row((share * last as f64).round() as u64);
    }

    fn scroll_to_row(&mut self, top: u64) {
        self.top = top.min(self.len.saturating_sub(self.height));
        self.cursor = self.cursor.clamp(self.top, self.top.saturating_add(self.height - 1));
        self.keep_visible();
    }

    fn keep_visible(&mut self) {
        self.cursor = self.cursor.min(self.len.saturating_sub(1));
        self.top = self.top.min(self.len.saturating_sub(self.height));
        if self.cursor < self.top {
            self.top = self.cursor;
        } else if self.cursor - self.top >= self.height {
            self.top = self.cursor + 1 - self.height;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> ScrollList {
        let mut list = ScrollList::new(100);
        list.set_height(10);
        list
    }

    #[test]
    fn motions_move_the_cursor_and_keep_it_visible() {
        let mut list = list();
        for (motion, cursor, top) in [
            (Motion::Up, 0, 0),
            (Motion::PageDown, 9, 0),
            (Motion::Down, 10, 1),
            (Motion::HalfDown, 15, 6),
            (Motion::Last, 99, 90),
            (Motion::PageUp, 90, 90),
            (Motion::HalfUp, 85, 85),
            (Motion::First, 0, 0),
        ] {
            list.move_cursor(motion);
            assert_eq!((list.cursor(), list.top()), (cursor, top), "{motion:?}");
        }
    }

    #[test]
    fn scrolling_moves_the_cursor_only_to_keep_it_visible() {
        let mut list = list();
        list.scroll(4);
        assert_eq!((list.cursor(), list.visible()), (4, 4..14));
        list.scroll(isize::MAX);
        assert_eq!((list.cursor(), list.visible()), (90, 90..100));
        list.scroll_to_share(0.5);
        assert_eq!((list.cursor(), list.visible()), (54, 45..55));
        list.scroll_by_motion(Motion::First);
        assert_eq!((list.cursor(), list.visible()), (9, 0..10));
    }

    #[test]
    fn shortening_a_list_keeps_the_cursor_inside() {
        let mut list = list();
        list.move_cursor(Motion::Last);
        list.set_len(3);
        assert_eq!((list.cursor(), list.visible()), (2, 0..3));
        list.set_len(0);
        assert_eq!((list.cursor(), list.visible()), (0, 0..0));
        assert!(!list.click(0));
    }
}
