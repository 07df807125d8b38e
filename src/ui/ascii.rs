//! The screen in ASCII, for terminals without box drawing. Names from files stay as they are.

use ratatui::buffer::Buffer;

/// Replaces each drawn symbol with its nearest ASCII character.
pub(super) fn translate(buf: &mut Buffer) {
    for cell in &mut buf.content {
        if cell.symbol() == "x\u{302}" {
            cell.set_symbol("X");
        }
        let mut chars = cell.symbol().chars();
        if let Some(sign) = chars.next().and_then(sign) {
            cell.set_symbol(sign);
        }
    }
}

fn sign(stroke: char) -> Option<&'static str> {
    Some(match stroke {
        '─' | '−' | '–' | '—' => "-",
        '━' => "=",
        '│' | '┊' | '┃' => "|",
        '╭' | '╮' | '╰' | '╯' | '┌' | '┐' | '└' | '┘' | '┬' | '┴' | '┼' => {
            "+"
        }
        '▌' | '▸' | '→' => ">",
        '←' => "<",
        '▾' | '▼' | '↓' => "v",
        '▲' | '↑' => "^",
        '●' => "*",
        '◐' => "o",
        '◆' => "#",
        '◇' => "%",
        '…' => "~",
        '≈' => "~",
        '×' => "x",
        '±' => "+",
        '≥' => ">",
        '≤' => "<",
        '·' => ".",
        '‖' => "|",
        'Σ' => "S",
        '√' => "v",
        '²' => "2",
        '₁' => "1",
        '₀' => "0",
        '\u{a0}' => " ",
        '▁' | '▂' => ".",
        '▃' | '▄' => ":",
        '▅' | '▆' => "|",
        '▇' | '█' => "#",
        'Ŵ' => "W",
        '•' => "*",
        '\u{2801}'..='\u{28ff}' => ".",
        '\u{2800}' => " ",
        _ => return None,
    })
}
