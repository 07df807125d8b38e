//! Text and numbers as protocol 0 spells them.

use std::borrow::Cow;

/// Decodes a line; invalid UTF-8 is replaced.
pub(super) fn of_line(line: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(line)
}

/// Decodes Python's raw-unicode-escape: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode_escape(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let [byte, tail @ ..] = rest {
        let digits = match (byte, tail.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => 0,
        };
        match tail.get(1..=digits).filter(|_| digits > 0).and_then(hexadecimal) {
            Some(code) => {
                text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = tail.get(1 + digits..).unwrap_or_default();
            }
            None => {
                text.push(char::from(*byte));
                rest = tail;
            }
        }
    }
    text
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Decodes a quoted string written by Python's `repr`; `None` if it has no quotes.
pub(super) fn quoted(line: &[u8]) -> Option<Vec<u8>> {
    let line = line.trim_ascii();
    let inside = match line {
        [b'\'', inside @ .., b'\''] | [b'"', inside @ .., b'"'] => inside,
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let [escape, tail @ ..] = rest else { break };
        rest = tail;
        match escape {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'a' => bytes.push(7),
            b'b' => bytes.push(8),
            b'f' => bytes.push(12),
            b'v' => bytes.push(11),
            b'\\' | b'\'' | b'"' => bytes.push(*escape),
            b'x' => {
                let code = rest.get(..2).and_then(hexadecimal);
                bytes.push(u8::try_from(code?).ok()?);
                rest = rest.get(2..).unwrap_or_default();
            }
            b'0'..=b'7' => {
                let mut code = u32::from(escape - b'0');
                for _ in 0..2 {
                    if let [digit @ b'0'..=b'7', tail @ ..] = rest {
                        code = code * 8 + u32::from(digit - b'0');
                        rest = tail;
                    }
                }
                bytes.push(code as u8);
            }
            other => bytes.extend([b'\\', *other]),
        }
    }
    Some(bytes)
}

/// Encodes text as Latin-1; `None` if it has a character outside Latin-1.
pub(super) fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Parses a decimal integer of up to 4,000 digits to little-endian two's complement.
pub(super) fn decimal(digits: &str) -> Option<Vec<u8>> {
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, digits),
    };
    if digits.is_empty() || digits.len() > 4000 {
        return None;
    }
    let mut bytes: Vec<u8> = vec![0];
    for digit in digits.chars() {
        let mut carry = digit.to_digit(10)?;
        for byte in &mut bytes {
            carry += u32::from(*byte) * 10;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry > 0 {
            bytes.push(carry as u8);
        }
    }
    if negative {
        let mut carry = true;
        for byte in &mut bytes {
            let (sum, overflow) = (!*byte).overflowing_add(u8::from(carry));
            *byte = sum;
            carry = overflow;
        }
    }
    // The highest bit is the sign.
    let sign = bytes.last().is_some_and(|&byte| byte >= 0x80);
    if sign != negative && bytes.iter().any(|&byte| byte != 0) {
        bytes.push(if negative { 0xff } else { 0 });
    }
    Some(bytes)
}

/// Formats a little-endian two's complement integer as decimal.
pub(super) fn integer(bytes: &[u8]) -> String {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut rest: Vec<u8> = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in &mut rest {
            let (sum, overflow) = (!*byte).overflowing_add(u8::from(carry));
            *byte = sum;
            carry = overflow;
        }
    }
    let mut digits = Vec::new();
    while rest.iter().any(|&byte| byte != 0) {
        let mut remainder = 0u32;
        for byte in rest.iter_mut().rev() {
            remainder = remainder << 8 | u32::from(*byte);
            *byte = (remainder / 10) as u8;
            remainder %= 10;
        }
        digits.push(char::from_digit(remainder, 10).unwrap_or('0'));
    }
    if digits.is_empty() {
        digits.push('0');
    }
    if negative {
        digits.push('-');
    }
    digits.into_iter().rev().collect()
}

/// Formats a float as Python does: the shortest digits that parse to the same value.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_size_are_read_and_written() {
        for digits in [
            "0",
            "127",
            "128",
            "-128",
            "-129",
            "1180591620717411303424",
            "-1180591620717411303424",
            "119547037146038801333356",
        ] {
            assert_eq!(integer(&decimal(digits).expect("digits")), digits);
        }
        assert_eq!(decimal("12x"), None);
        assert_eq!(decimal(""), None);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(raw_unicode_escape(br"a\u0431\U0001f600\x"), "aб😀\\x");
        assert_eq!(raw_unicode_escape(b"\xe9\\u00"), "é\\u00");
        assert_eq!(quoted(br"'a\x00\n\'\101'").as_deref(), Some(&b"a\0\n'A"[..]));
        assert_eq!(quoted(b"'a"), None);
        assert_eq!(latin1("aé").as_deref(), Some(&b"a\xe9"[..]));
        assert_eq!(latin1("б"), None);
    }

    #[test]
    fn floats_are_written_as_python_does() {
        for (value, text) in [
            (0.5, "0.5"),
            (1.0, "1.0"),
            (1e100, "1e+100"),
            (1e-7, "1e-07"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float(value), text);
        }
    }
}
