//! Parses sizes that users type.

use std::str::FromStr;

/// A limit on the size of a checkpoint: `60MB`, `1.5GiB`, `50%`, `4.5bpw`, `fits:24GB` or a
/// number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SizeLimit {
    /// A number of bytes.
    Bytes(u64),
    /// A share of the checkpoint's size; 1 is all of it.
    Share(f64),
    /// Bits per parameter of the checkpoint, scales included.
    BitsPerWeight(f64),
    /// The size of a memory minus a reserve for the context and for buffers.
    Memory {
        /// The size of the memory.
        bytes: u64,
        /// The bytes that are kept free.
        reserve: u64,
    },
}

/// The share of a memory that is kept in reserve unless the user specifies it.
const DEFAULT_RESERVE_SHARE: f64 = 0.1;

impl SizeLimit {
    /// The limit in bytes for a checkpoint of `total` bytes and this many parameters.
    pub fn bytes(self, total: u64, parameters: u64) -> u64 {
        match self {
            SizeLimit::Bytes(bytes) => bytes,
            SizeLimit::Share(share) => (total as f64 * share) as u64,
            SizeLimit::BitsPerWeight(bits) => (parameters as f64 * bits / 8.0) as u64,
            SizeLimit::Memory { bytes, reserve } => bytes.saturating_sub(reserve),
        }
    }
}

/// Units and their bytes. Units without `i` are decimal.
const UNITS: [(&str, f64); 14] = [
    ("b", 1.0),
    ("k", 1e3),
    ("kb", 1e3),
    ("m", 1e6),
    ("mb", 1e6),
    ("g", 1e9),
    ("gb", 1e9),
    ("t", 1e12),
    ("tb", 1e12),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
    ("", 1.0),
];

impl FromStr for SizeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<SizeLimit, String> {
        let wrong = || {
            let text = text.escape_debug();
            format!(
                "invalid size '{text}': expected a number of bytes, 4.5bpw, 60MB, 1.5GiB, 50% or fits:24GB"
            )
        };
        if let Some(memory) = text.trim().strip_prefix("fits:") {
            let (memory, reserve) = match memory.split_once('-') {
                Some((memory, reserve)) => (memory, Some(reserve)),
                None => (memory, None),
            };
            let bytes = |text: &str| match text.parse() {
                Ok(SizeLimit::Bytes(bytes)) => Ok(bytes),
                _ => Err(wrong()),
            };
            let memory = bytes(memory)?;
            let usual = || Ok((memory as f64 * DEFAULT_RESERVE_SHARE) as u64);
            let reserve = reserve.map_or_else(usual, bytes)?;
            return if reserve < memory {
                Ok(SizeLimit::Memory { bytes: memory, reserve })
            } else {
                Err(wrong())
            };
        }
        let trimmed = text.trim();
        let digits =
            trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%' || c == ' ');
        let unit = trimmed.get(digits.len()..).unwrap_or_default().trim().to_ascii_lowercase();
        if let (Ok(bytes), "") = (digits.parse::<u64>(), unit.as_str()) {
            return Ok(SizeLimit::Bytes(bytes));
        }
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        if !number.is_finite() || number < 0.0 {
            return Err(wrong());
        }
        if unit == "%" {
            return Ok(SizeLimit::Share(number / 100.0));
        }
        if unit == "bpw" {
            return Ok(SizeLimit::BitsPerWeight(number));
        }
        let scale = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        Ok(SizeLimit::Bytes((number * scale).round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_units_and_shares_are_parsed() {
        for (text, bytes) in [
            ("1234", 1234),
            ("60MB", 60_000_000),
            ("60 mb", 60_000_000),
            ("1.5GiB", 1_610_612_736),
            ("2k", 2000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(SizeLimit::Bytes(bytes)), "{text}");
        }
        assert_eq!("50%".parse::<SizeLimit>().map(|limit| limit.bytes(1001, 0)), Ok(500));
        assert_eq!("4.5bpw".parse::<SizeLimit>().map(|limit| limit.bytes(0, 1000)), Ok(562));
        let fits = |text: &str| text.parse::<SizeLimit>().map(|limit| limit.bytes(0, 0));
        assert_eq!(fits("fits:24GB"), Ok(21_600_000_000));
        assert_eq!(fits("fits:24GB-2GB"), Ok(22_000_000_000));
        assert_eq!(fits("fits:8GiB - 0"), Ok(8 << 30));
        for text in
            ["", "MB", "60XB", "-5MB", "nan", "1e", "5%%", "fits:", "fits:50%", "fits:1GB-1GB"]
        {
            assert!(text.parse::<SizeLimit>().is_err(), "{text}");
        }
    }
}
