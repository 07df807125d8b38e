//! Tensor names as slices of one shared text per file.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

/// A tensor's name. All names of a file share one allocation, so cloning only increments a
/// reference count.
#[derive(Clone)]
pub struct Name {
    all: Arc<OnceLock<String>>,
    /// The byte range in `all`, on character boundaries.
    own: Range<usize>,
}

/// Collects the names of one file. They can be read once the collection is finished.
#[derive(Debug, Default)]
pub struct Names {
    text: String,
    all: Arc<OnceLock<String>>,
}

impl Names {
    /// Creates a collection with capacity for the given number of bytes.
    pub fn with_capacity(bytes: usize) -> Names {
        Names { text: String::with_capacity(bytes), ..Names::default() }
    }

    /// Appends a name.
    pub fn push(&mut self, name: &str) -> Name {
        let start = self.text.len();
        self.text.push_str(name);
        Name { all: self.all.clone(), own: start..self.text.len() }
    }

    /// Makes the names readable.
    pub fn finish(mut self) {
        self.text.shrink_to_fit();
        self.all.get_or_init(|| self.text);
    }
}

impl Name {
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        self.all.get().and_then(|all| all.get(self.own.clone())).unwrap_or_default()
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<String> for Name {
    fn from(name: String) -> Name {
        Name { own: 0..name.len(), all: Arc::new(name.into()) }
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Name {
        name.to_owned().into()
    }
}

impl From<&Name> for String {
    fn from(name: &Name) -> String {
        name.as_str().to_owned()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<Name> for &str {
    fn eq(&self, other: &Name) -> bool {
        *self == other.as_str()
    }
}

impl PartialEq<String> for Name {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_share_one_text() {
        let mut names = Names::default();
        let [first, empty, third, same] = ["größe", "", "a.b", "a.b"].map(|name| names.push(name));
        names.finish();
        assert_eq!((first.as_str(), &*empty, format!("{third:>4}")), ("größe", "", " a.b".into()));
        assert!(third == same && third == "a.b" && third != first && third < first);
        assert_eq!(Name::from("a.b"), third);
    }
}
