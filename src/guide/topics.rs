//! The table of manual pages.

/// A page of the manual.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Topic {
    /// The word after `quantscope help`.
    pub name: &'static str,
    /// The page as Markdown. Its first line is `# name: summary`.
    pub text: &'static str,
}

impl Topic {
    /// The page's subject in a few words, from its first line.
    pub(crate) fn summary(&self) -> &'static str {
        let title = self.text.lines().next().unwrap_or_default();
        title.split_once(": ").map_or(title, |(_, summary)| summary)
    }
}

macro_rules! topics {
    ($($name:ident),* $(,)?) => {
        /// All pages, in the order in which `quantscope help` lists them.
        pub(crate) const TOPICS: &[Topic] = &[$(Topic {
            name: stringify!($name),
            text: include_str!(concat!(stringify!($name), ".md")),
        }),*];

        $(
            #[doc = include_str!(concat!(stringify!($name), ".md"))]
            pub mod $name {}
        )*
    };
}

topics![
    screen,
    keys,
    filters,
    commands,
    selection,
    loaders,
    formats,
    gguf,
    remote,
    distributed,
    numerics,
    activations,
    qat,
    recipes,
    json,
    settings,
    performance,
    reliability,
    interoperability,
    limits,
];

#[cfg(test)]
mod tests {
    use super::TOPICS;

    #[test]
    fn first_line_names_the_page() {
        for topic in TOPICS {
            let title = format!("# {}: ", topic.name);
            assert!(topic.text.starts_with(&title), "{}.md must start with '{title}'", topic.name);
        }
    }
}
