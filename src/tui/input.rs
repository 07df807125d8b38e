//! Translates events of the terminal into events of the application.

use crate::app::keys::Key;
use crate::app::{App, Event};
use crate::ui::mouse;
use crossterm::event::{
    Event as TerminalEvent, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent,
    MouseEventKind,
};
use ratatui::layout::{Position, Size};

/// Rows that one notch of the wheel scrolls.
const ROWS_PER_NOTCH: isize = 3;

/// Translates an event of the terminal; `None` if the application has no such event.
pub(super) fn translate(event: TerminalEvent, app: &App, size: Size) -> Option<Event> {
    match event {
        TerminalEvent::Key(key) => key_of(key).map(Event::Key),
        TerminalEvent::Paste(text) => Some(Event::Paste(text)),
        TerminalEvent::Mouse(mouse) => translate_mouse(mouse, app, size),
        _ => None,
    }
}

fn translate_mouse(mouse: MouseEvent, app: &App, size: Size) -> Option<Event> {
    let at = Position::new(mouse.column, mouse.row);
    match mouse.kind {
        MouseEventKind::ScrollUp => Some(Event::Wheel(-ROWS_PER_NOTCH)),
        MouseEventKind::ScrollDown => Some(Event::Wheel(ROWS_PER_NOTCH)),
        MouseEventKind::Down(MouseButton::Left) => mouse::hit(size, app, at).map(Event::Click),
        MouseEventKind::Drag(MouseButton::Left) => mouse::drag(size, app, at).map(Event::Drag),
        _ => None,
    }
}

/// The pressed key; `None` for releases and for keys without a counterpart.
pub(super) fn key_of(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    Some(match event.code {
        KeyCode::Char(c) if control => Key::Ctrl(c.to_ascii_lowercase()),
        KeyCode::Char(_) if event.modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Delete => Key::Delete,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::F(1) => Key::F1,
        _ => return None,
    })
}
