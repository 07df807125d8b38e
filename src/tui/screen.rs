//! The interface between the runner and a terminal.

use ratatui::Frame;
use ratatui::layout::Size;
use std::io;

/// A terminal, or a screen in memory for tests.
pub trait Screen {
    /// Columns and rows.
    fn size(&self) -> io::Result<Size>;

    /// Draws a frame.
    fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<()>;

    /// Makes the next frame write every cell, not only those that changed.
    fn invalidate(&mut self) -> io::Result<()>;

    /// Restores the terminal, stops the process, and enters the terminal again when the process
    /// continues.
    fn suspend(&mut self) -> io::Result<()>;

    /// Copies a text to the user's clipboard.
    fn copy(&mut self, text: &str) -> io::Result<()>;

    /// Captures the mouse, or releases it to the terminal.
    fn capture_mouse(&mut self, capture: bool) -> io::Result<()>;
}
