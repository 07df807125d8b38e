//! The key table with the user's own keys.

use crate::app::action::Action;
use crate::app::keys::{BINDINGS, Binding, Context, Key};
use std::fmt::Debug;

/// The keys of each row of [`BINDINGS`].
#[derive(Clone, Debug)]
pub struct KeyMap {
    keys: Vec<Vec<Key>>,
}

impl Default for KeyMap {
    fn default() -> Self {
        KeyMap { keys: BINDINGS.iter().map(|binding| binding.keys.to_vec()).collect() }
    }
}

impl KeyMap {
    /// Every binding with its current keys.
    pub fn bindings(&self) -> impl Iterator<Item = (&'static Binding, &[Key])> {
        BINDINGS.iter().zip(self.keys.iter().map(Vec::as_slice))
    }

    /// The action of `key` in a context.
    pub fn action(&self, context: Context, key: Key) -> Option<Action> {
        context.layers().iter().find_map(|layer| {
            let mut here = self.bindings().filter(|(binding, _)| binding.context == *layer);
            here.find(|(_, keys)| keys.contains(&key)).map(|(binding, _)| binding.action)
        })
    }

    /// The first key of an action in a context.
    pub fn key_of(&self, context: Context, action: Action) -> Option<Key> {
        let mut bindings = self.bindings();
        let found = bindings.find(|(binding, _)| {
            binding.action == action && context.layers().contains(&binding.context)
        });
        found.and_then(|(_, keys)| keys.first().copied())
    }

    /// The name of that key, for use in a sentence.
    pub fn name(&self, context: Context, action: Action) -> String {
        self.key_of(context, action).map_or_else(|| "no key".to_owned(), |key| key.to_string())
    }

    /// Replaces the keys of an action.
    ///
    /// # Errors
    /// Fails if there is no such context, action or key.
    pub fn rebind(&mut self, context: &str, action: &str, keys: &[String]) -> Result<(), String> {
        let in_context = |binding: &Binding| name_of(binding.context) == context;
        if !BINDINGS.iter().any(in_context) {
            return Err(format!("unknown key context '{context}'"));
        }
        let place = BINDINGS
            .iter()
            .position(|binding| in_context(binding) && name_of(binding.action) == action)
            .ok_or_else(|| format!("keys.{context}: unknown action '{action}'"))?;
        let keys: Vec<Key> = keys
            .iter()
            .map(|key| {
                Key::named(key).ok_or_else(|| format!("keys.{context}: unknown key '{key}'"))
            })
            .collect::<Result<_, String>>()?;
        if let Some(own) = self.keys.get_mut(place) {
            *own = keys;
        }
        Ok(())
    }

    /// Checks that no key has two meanings in one context.
    ///
    /// # Errors
    /// Fails if a key does; the message names both actions.
    pub fn check(&self) -> Result<(), String> {
        for (number, (binding, keys)) in self.bindings().enumerate() {
            for (other, others) in self.bindings().skip(number + 1) {
                let together = can_be_active_together(binding.context, other.context);
                if let Some(key) = keys.iter().find(|key| together && others.contains(key)) {
                    return Err(format!(
                        "keys: {} is both {}.{} and {}.{}",
                        key.name(),
                        name_of(binding.context),
                        name_of(binding.action),
                        name_of(other.context),
                        name_of(other.action)
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Whether bindings of two contexts can be active at the same time.
fn can_be_active_together(a: Context, b: Context) -> bool {
    Context::ACTIVE.iter().any(|place| {
        let layers = place.layers();
        layers.contains(&a) && layers.contains(&b)
    })
}

/// The name in the configuration: `Move(PageDown)` is `move-page-down`.
pub(crate) fn name_of(named: impl Debug) -> String {
    let mut name = String::new();
    for c in format!("{named:?}").chars() {
        match c {
            '(' => name.push('-'),
            c if c.is_ascii_uppercase() => {
                if !name.is_empty() && !name.ends_with('-') {
                    name.push('-');
                }
                name.push(c.to_ascii_lowercase());
            }
            c if c.is_ascii_alphanumeric() => name.push(c),
            _ => {}
        }
    }
    name
}

impl Key {
    const NAMED: [(&'static str, Key); 17] = [
        ("Space", Key::Char(' ')),
        ("Enter", Key::Enter),
        ("Esc", Key::Esc),
        ("Tab", Key::Tab),
        ("Shift-Tab", Key::BackTab),
        ("Backspace", Key::Backspace),
        ("Delete", Key::Delete),
        ("Up", Key::Up),
        ("Down", Key::Down),
        ("Left", Key::Left),
        ("Right", Key::Right),
        ("Home", Key::Home),
        ("End", Key::End),
        ("PgUp", Key::PageUp),
        ("PgDn", Key::PageDown),
        ("F1", Key::F1),
        ("Quote", Key::Char('"')),
    ];

    /// The name in the configuration.
    pub fn name(self) -> String {
        if let Some((name, _)) = Key::NAMED.into_iter().find(|(_, key)| *key == self) {
            return name.to_owned();
        }
        match self {
            Key::Char(c) => c.to_string(),
            Key::Ctrl(c) => format!("Ctrl-{c}"),
            other => format!("{other:?}"),
        }
    }

    /// The key with a name of the configuration.
    pub fn named(name: &str) -> Option<Key> {
        let same = |(known, _): &(&str, Key)| known.eq_ignore_ascii_case(name);
        if let Some((_, key)) = Key::NAMED.into_iter().find(same) {
            return Some(key);
        }
        let single = |text: &str| {
            let mut chars = text.chars();
            chars.next().filter(|_| chars.next().is_none())
        };
        match name.strip_prefix("Ctrl-").or_else(|| name.strip_prefix("ctrl-")) {
            Some(letter) => single(letter).map(|c| Key::Ctrl(c.to_ascii_lowercase())),
            None => single(name).map(Key::Char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_can_be_parsed_from_its_name() {
        for binding in BINDINGS {
            for &key in binding.keys {
                assert_eq!(Key::named(&key.name()), Some(key));
            }
        }
        assert_eq!(Key::named("Hyper"), None);
    }

    #[test]
    fn actions_of_a_context_have_different_names() {
        for (number, binding) in BINDINGS.iter().enumerate() {
            for other in &BINDINGS[number + 1..] {
                let same = binding.context == other.context;
                assert!(!same || name_of(binding.action) != name_of(other.action), "{other:?}");
            }
        }
        assert_eq!(name_of(Action::Move(crate::app::scroll::Motion::PageDown)), "move-page-down");
    }

    #[test]
    fn keys_can_be_rebound_and_conflicts_are_errors() {
        let mut keys = KeyMap::default();
        assert_eq!(keys.check(), Ok(()));
        let rebind =
            |keys: &mut KeyMap, action, key: &str| keys.rebind("main", action, &[key.to_owned()]);
        assert_eq!(rebind(&mut keys, "mark", "V"), Ok(()));
        assert_eq!(keys.action(Context::Table, Key::Char('V')), Some(Action::Mark));
        assert_eq!(keys.action(Context::Table, Key::Char(' ')), None);
        assert_eq!(keys.key_of(Context::Table, Action::Mark), Some(Key::Char('V')));
        assert_eq!(rebind(&mut keys, "mark", "j"), Ok(()));
        let why = keys.check().expect_err("j moves the cursor");
        assert!(why.contains("j is both table.move-down and main.mark"), "{why}");
        assert!(rebind(&mut keys, "fly", "j").is_err());
        assert!(rebind(&mut keys, "mark", "Hyper").is_err());
        assert!(keys.rebind("nowhere", "mark", &[]).is_err());
    }
}
