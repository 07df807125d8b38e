//! JSON as Python's `json` module writes it: with the literals `NaN`, `Infinity` and `-Infinity` as
//! numbers.
//!
//! These literals are converted to strings with a prefix that no config contains, so that a
//! document can be edited and written back unchanged.

use std::borrow::Cow;

/// The literals, longest first.
const LITERALS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Marks a string that represents a literal. Private-use characters do not occur in configs.
const LITERAL_MARK: &str = "\u{F8FE}\u{F8FF}";

/// Converts the literals to marked strings, so that the text is standard JSON. Drops a byte-order
/// mark at the start.
pub(crate) fn to_json(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    if !text.contains("NaN") && !text.contains("Infinity") {
        return Cow::Borrowed(text);
    }
    let mut json = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string_length(rest),
            _ => match LITERALS.iter().find(|word| rest.starts_with(**word)) {
                Some(word) => {
                    json.extend(["\"", LITERAL_MARK, word, "\""]);
                    rest = rest.get(word.len()..).unwrap_or_default();
                    continue;
                }
                None => first.len_utf8(),
            },
        };
        let (here, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        json.push_str(here);
        rest = after;
    }
    Cow::Owned(json)
}

/// Returns the length in bytes of the string literal that `text` starts with, including quotation
/// marks.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Converts marked strings in JSON text back to literals.
pub(crate) fn from_json(json: String) -> String {
    if !json.contains(LITERAL_MARK) {
        return json;
    }
    LITERALS
        .iter()
        .fold(json, |json, word| json.replace(&format!("\"{LITERAL_MARK}{word}\""), word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn literals_survive_reading_and_writing() {
        let text = r#"{"a": Infinity, "b": [-Infinity, NaN, 1.0], "NaN \" Infinity": "NaN"}"#;
        let value: Value = serde_json::from_str(&to_json(text)).expect("JSON");
        let again = from_json(serde_json::to_string(&value).expect("text"));
        assert_eq!(again, text.replace(": ", ":").replace(", ", ","));
        assert!(value["a"].as_f64().is_none() && value["NaN \" Infinity"] == "NaN");
    }

    #[test]
    fn other_documents_are_not_copied() {
        let text = r#"{"a": 1}"#;
        assert!(matches!(to_json(text), Cow::Borrowed(same) if same == text));
        assert_eq!(to_json("\u{FEFF}{}"), "{}");
        assert_eq!(from_json(text.to_owned()), text);
    }

    #[test]
    fn invalid_documents_stay_invalid() {
        for text in [r#"{"a": Infinit}"#, r#"{"a": "NaN"#, "NaN NaN", r#"{NaN: 1"#] {
            assert!(serde_json::from_str::<Value>(&to_json(text)).is_err(), "{text}");
        }
    }
}
