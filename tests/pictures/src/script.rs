//! Scripts of keys and pictures. Shared with `tests/screens/demo_pictures.rs`, which plays the
//! same scripts to check that the pictures still equal the screen.
//!
//! A line is a command and its argument:
//!
//! ```text
//! wait TEXT         wait until the screen shows it
//! gone TEXT         wait until the screen does not show it
//! press KEY KEY …   Enter, Esc, Tab, Up …, or characters; `3*Right` three times
//! type TEXT         type character by character
//! picture NAME      take a picture of the current screen
//! hold SECONDS      how long the film shows the current screen
//! ```

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Wait(String),
    Gone(String),
    /// The bytes that a terminal sends for one key.
    Press(String),
    Picture(String),
    /// Hundredths of a second.
    Hold(u16),
}

/// Parses the steps of a script.
///
/// # Errors
/// Names the invalid line.
pub(crate) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let (word, rest) = line.split_once(' ').ok_or_else(|| format!("{line}: a word alone"))?;
        match word {
            "wait" => steps.push(Step::Wait(rest.to_owned())),
            "gone" => steps.push(Step::Gone(rest.to_owned())),
            "picture" => steps.push(Step::Picture(rest.to_owned())),
            "type" => steps.extend(rest.chars().map(|c| Step::Press(c.to_string()))),
            "hold" => {
                let seconds: f32 = rest.parse().map_err(|_| format!("{line}: not a time"))?;
                steps.push(Step::Hold((seconds * 100.0) as u16));
            }
            "press" => {
                for key in rest.split_whitespace() {
                    let (times, key) = match key.split_once('*') {
                        Some((times, key)) if !key.is_empty() => {
                            (times.parse().map_err(|_| format!("{line}: how often?"))?, key)
                        }
                        _ => (1, key),
                    };
                    let sent = sent(key).ok_or_else(|| format!("{line}: no key is {key}"))?;
                    steps.extend(std::iter::repeat_n(Step::Press(sent), times));
                }
            }
            _ => return Err(format!("{line}: {word} is no step")),
        }
    }
    Ok(steps)
}

fn sent(key: &str) -> Option<String> {
    Some(match key {
        "Enter" => "\r".to_owned(),
        "Esc" => "\x1b".to_owned(),
        "Tab" => "\t".to_owned(),
        "Space" => " ".to_owned(),
        "Up" => "\x1b[A".to_owned(),
        "Down" => "\x1b[B".to_owned(),
        "Right" => "\x1b[C".to_owned(),
        "Left" => "\x1b[D".to_owned(),
        "Home" => "\x1b[H".to_owned(),
        "End" => "\x1b[F".to_owned(),
        "Ctrl-u" => "\x15".to_owned(),
        key if key.chars().count() == 1 => key.to_owned(),
        _ => return None,
    })
}

/// Removes durations from a screen, because they differ between runs. In such a row the spaces
/// between words are also removed, since the text after the duration may have moved.
pub(crate) fn lasting(screen: &str) -> String {
    let rows = screen.lines().map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let is_time = |place: usize| {
            let unit = words.get(place + 1).map(|unit| unit.trim_end_matches(','));
            words[place].parse::<f64>().is_ok() && matches!(unit, Some("ms" | "s" | "min"))
        };
        match (0..words.len()).find(|&place| is_time(place)) {
            Some(place) => {
                let words = [&words[..place], &["(a time)"], &words[place + 2..]].concat();
                words.join(" ")
            }
            None => row.trim_end().to_owned(),
        }
    });
    let rows: Vec<String> = rows.collect();
    rows.join("\n").trim_end().to_owned() + "\n"
}
