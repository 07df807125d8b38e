//! Formats names from files: escapes control characters, shortens long names in the middle, and
//! sorts names in natural order.

use std::borrow::Cow;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Escapes control characters, invisible characters and those that change the text direction.
pub fn visible(text: &str) -> Cow<'_, str> {
    if is_printable_ascii(text) || !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Whether all characters are printable ASCII, as in most names.
pub fn is_printable_ascii(text: &str) -> bool {
    // Without an early exit, several bytes are compared at a time.
    text.bytes().fold(true, |all, byte| all & matches!(byte, b' '..=b'~'))
}

/// Whether a terminal would not show the character as it is: control characters, invisible
/// characters and those that change the text direction.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// The width of the text in terminal columns.
pub fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// Shortens the text to at most `columns`, replacing its middle with `…`: the ends of a name
/// are the most informative.
pub fn shorten(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    match columns {
        0 => return Cow::Borrowed(""),
        1 => return Cow::Borrowed("…"),
        _ => {}
    }
    // The end is more informative than the beginning, so it gets the odd column.
    let head = (columns - 1) / 2;
    let tail = columns - 1 - head;
    let start = prefix(text.chars(), head);
    let end = prefix(text.chars().rev(), tail);
    let (start, end) = (&text[..start], &text[text.len() - end..]);
    Cow::Owned(format!("{start}…{end}"))
}

/// Shortens the text to at most `columns`, replacing its end with `…`.
pub fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    match columns.checked_sub(1) {
        None => Cow::Borrowed(""),
        Some(room) => Cow::Owned(format!("{}…", &text[..prefix(text.chars(), room)])),
    }
}

/// The length in bytes of the longest prefix of `chars` that fits in `columns`.
fn prefix(chars: impl Iterator<Item = char>, columns: usize) -> usize {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= columns
        })
        .map(char::len_utf8)
        .sum()
}

/// Appends a sort key for natural order: components in order and numbers by value, so that
/// `layers.2` comes before `layers.10`, and `a.b` before `a_b`.
pub fn natural_key(name: &str, key: &mut Vec<u8>) {
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if !first.is_ascii_digit() {
            key.push(if first == b'.' { 0 } else { first });
            rest = after;
            continue;
        }
        let (number, after) = rest.split_at(digits(rest));
        let number = significant(number);
        // A longer number is a larger one. Only hostile names have more than 254 digits.
        key.push(b'0');
        match u8::try_from(number.len()) {
            Ok(length) if length < u8::MAX => key.push(length),
            _ => {
                key.push(u8::MAX);
                key.extend((number.len() as u64).to_be_bytes());
            }
        }
        key.extend(number);
        rest = after;
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|c| c.is_ascii_digit()).count()
}

fn significant(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|&&c| c == b'0').count();
    &digits[zeros.min(digits.len() - 1)..]
}

/// The name on the Hub of a directory in the Hugging Face cache: `org/name` for
/// `models--org--name`. `None` for other names.
pub fn on_the_hub(directory: &str) -> Option<String> {
    let name = directory.strip_prefix("models--").filter(|rest| !rest.is_empty())?;
    Some(name.replacen("--", "/", 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Ordering;

    #[test]
    fn control_and_invisible_characters_are_escaped() {
        assert_eq!(visible("a.b\n\u{1b}[31m"), "a.b\\n\\u{1b}[31m");
        assert_eq!(visible("a\u{202e}b\u{200b}"), "a\\u{202e}b\\u{200b}");
        assert_eq!(visible("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(visible("layers.0.größe"), "layers.0.größe");
        assert!(matches!(visible("层.权重"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_names_are_shortened_in_the_middle() {
        assert_eq!(shorten("encoder.weight", 20), "encoder.weight");
        assert_eq!(shorten("encoder.weight", 9), "enco…ight");
        assert_eq!(shorten("层层层层", 5), "层…层");
        for columns in 0..12 {
            assert!(width(&shorten("层a层b层c", columns)) <= columns);
            assert!(width(&cut("层a层b层c", columns)) <= columns);
        }
        assert_eq!(cut("a reason", 5), "a re…");
    }

    /// The order that keys must have, computed directly.
    fn natural_order(a: &str, b: &str) -> Ordering {
        let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
        loop {
            let (Some(&x), Some(&y)) = (a.first(), b.first()) else { return a.len().cmp(&b.len()) };
            if x.is_ascii_digit() && y.is_ascii_digit() {
                let (m, n) = (digits(a), digits(b));
                let (p, q) = (significant(&a[..m]), significant(&b[..n]));
                let by_value = p.len().cmp(&q.len()).then_with(|| p.cmp(q));
                if by_value.is_ne() {
                    return by_value;
                }
                (a, b) = (&a[m..], &b[n..]);
                continue;
            }
            let rank = |c: u8| if c == b'.' { 0 } else { c };
            if x != y {
                return rank(x).cmp(&rank(y));
            }
            (a, b) = (&a[1..], &b[1..]);
        }
    }

    fn key(name: &str) -> Vec<u8> {
        let mut key = Vec::new();
        natural_key(name, &mut key);
        key
    }

    #[test]
    fn names_are_sorted_in_natural_order() {
        let mut names = ["l.10.w", "l.2.w", "l_x", "l.02.w", "l", "l.2"];
        names.sort_by_key(|name| key(name));
        assert_eq!(names, ["l", "l.2", "l.2.w", "l.02.w", "l.10.w", "l_x"]);
    }

    proptest! {
        #[test]
        fn keys_have_the_natural_order_of_names(
            a in "([a.]{0,3}|0{0,2}[0-9]{1,3}|[1-9]{250,260}|[/:Zé_]){0,5}",
            b in "([a.]{0,3}|0{0,2}[0-9]{1,3}|[1-9]{250,260}|[/:Zé_]){0,5}",
        ) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), natural_order(&a, &b));
        }
    }
}
