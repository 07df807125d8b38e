//! Parses the Python literals of NPY headers.

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Text(String),
    /// A non-negative integer.
    Number(u64),
    Flag(bool),
    None,
    Tuple(Vec<Literal>),
    List(Vec<Literal>),
    Dict(Vec<(Literal, Literal)>),
}

/// Maximum nesting depth.
const DEPTH_LIMIT: usize = 16;

/// Parses one literal; `None` unless it is the whole text.
pub(super) fn parse(text: &str) -> Option<Literal> {
    let mut parser = Parser { rest: text };
    let literal = parser.literal(0)?;
    parser.rest.trim().is_empty().then_some(literal)
}

struct Parser<'t> {
    rest: &'t str,
}

impl Parser<'_> {
    fn literal(&mut self, depth: usize) -> Option<Literal> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            '\'' | '"' => self.text().map(Literal::Text),
            '(' => self.items(depth, "(", ")"),
            '[' => self.items(depth, "[", "]"),
            '{' => self.dict(depth),
            '0'..='9' => self.number().map(Literal::Number),
            _ if self.eat("True") => Some(Literal::Flag(true)),
            _ if self.eat("False") => Some(Literal::Flag(false)),
            _ if self.eat("None") => Some(Literal::None),
            // Prefixes that Python 2 writes.
            'u' | 'b' => {
                self.rest = self.rest.get(1..)?;
                self.text().map(Literal::Text)
            }
            _ => None,
        }
    }

    /// Consumes a token if it comes next.
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut text = String::new();
        let mut letters = self.rest.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => text.push(letters.next()?.1),
                _ if letter == quote => {
                    self.rest = self.rest.get(at + quote.len_utf8()..)?;
                    return Some(text);
                }
                _ => text.push(letter),
            }
        }
        None
    }

    fn number(&mut self) -> Option<u64> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at_checked(end)?;
        // Python 2 writes long integers with an L.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        digits.parse().ok()
    }

    fn items(&mut self, depth: usize, open: &str, close: &str) -> Option<Literal> {
        self.eat(open);
        let mut items = Vec::new();
        let mut comma = false;
        while !self.eat(close) {
            items.push(self.literal(depth + 1)?);
            comma = self.eat(",");
            if !comma {
                if !self.eat(close) {
                    return None;
                }
                break;
            }
        }
        match (open, items.as_slice()) {
            ("(", [_]) if !comma => items.pop(),
            ("(", _) => Some(Literal::Tuple(items)),
            _ => Some(Literal::List(items)),
        }
    }

    fn dict(&mut self, depth: usize) -> Option<Literal> {
        self.eat("{");
        let mut pairs = Vec::new();
        while !self.eat("}") {
            let key = self.literal(depth + 1)?;
            if !self.eat(":") {
                return None;
            }
            pairs.push((key, self.literal(depth + 1)?));
            if !self.eat(",") {
                if !self.eat("}") {
                    return None;
                }
                break;
            }
        }
        Some(Literal::Dict(pairs))
    }
}
