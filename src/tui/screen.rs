//! What the runner needs of a terminal.

use ratatui::Frame;
use ratatui::layout::Size;
use std::io;

/// A terminal, or what stands for one in tests.
pub trait Screen {
    /// Columns and rows.
    fn size(&self) -> io::Result<Size>;

    /// Draws a frame.
    fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<()>;

    /// Makes the next frame write every cell, not only those that changed.
    fn invalidate(&mut self) -> io::Result<()>;

    /// Gives the terminal back, stops the process, and takes the terminal again when the
    /// process is continued.
    fn suspend(&mut self) -> io::Result<()>;

    /// Copies a text to the user's clipboard.
    fn copy(&mut self, text: &str) -> io::Result<()>;

    /// Takes the mouse, or leaves it to the terminal.
    fn capture_mouse(&mut self, capture: bool) -> io::Result<()>;
}
