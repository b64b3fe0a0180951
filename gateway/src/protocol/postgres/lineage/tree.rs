//! The text in which the server prints its trees, read back by the rules of its own reader (`src/backend/nodes/read.c`): words
//! end at white space and brackets, a backslash takes the meaning of what follows it, quotes mean nothing.
//!
//! The server reads fields by their order, which differs between versions. Here they are read by name, and since a name in a
//! statement may look like a field's (`AS ":varattno"`), the word behind a field's name is its value, whatever it looks like.

use std::iter::Peekable;

/// Longer texts are not read: a statement of a hundred columns over nested views takes some 100 KiB.
pub(in crate::protocol::postgres) const MAX_BYTES: usize = 1 << 20;
/// Deeper trees are not read.
const MAX_DEPTH: usize = 400;
/// Bytes of a constant that are kept.
const MAX_DATUM: usize = 64;
/// The server breaks the text into lines of this many bytes, at a space where there is one.
const LINE: usize = 78;

/// Why a text is no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TreeError {
    #[error("the tree is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the tree is deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the tree has a name that is cut")]
    Cut,
    #[error("the tree ends too early")]
    End,
    #[error("the tree has something in a place where it does not belong")]
    Misplaced,
    #[error("a field of the tree stands twice")]
    Twice,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value<'t> {
    /// `<>`
    Nothing,
    /// A number, a truth value or a name, as it is written.
    Word(&'t str),
    /// The bytes of a constant, as far as anybody looks at them.
    Datum(Vec<u8>),
    Node(Node<'t>),
    List(Vec<Value<'t>>),
}

/// `{KIND :field value ...}`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node<'t> {
    pub(super) kind: &'t str,
    pub(super) fields: Vec<(&'t str, Value<'t>)>,
}

impl<'t> Node<'t> {
    pub(super) fn field(&self, name: &str) -> Option<&Value<'t>> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    pub(super) fn word(&self, name: &str) -> Option<&'t str> {
        match self.field(name) {
            Some(Value::Word(word)) => Some(word),
            _ => None,
        }
    }

    pub(super) fn node(&self, name: &str) -> Option<&Node<'t>> {
        self.field(name).and_then(Value::as_node)
    }

    /// The items of a list; none where the field is empty or missing.
    pub(super) fn list(&self, name: &str) -> &[Value<'t>] {
        match self.field(name) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    pub(super) fn is_empty(&self, name: &str) -> bool {
        matches!(self.field(name), None | Some(Value::Nothing))
    }
}

impl<'t> Value<'t> {
    pub(super) fn as_node(&self) -> Option<&Node<'t>> {
        if let Self::Node(node) = self { Some(node) } else { None }
    }
}

/// A name as it is, without what protects it in the text. Where the server has broken a line at a space in it, the space is back.
pub(super) fn unescaped(word: &str) -> String {
    let mut name = String::with_capacity(word.len());
    let mut characters = word.chars();
    while let Some(character) = characters.next() {
        name.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
    }
    name.replace('\n', " ")
}

/// Reads a text that is one value and nothing else.
pub(super) fn read(text: &str) -> Result<Value<'_>, TreeError> {
    if text.len() > MAX_BYTES {
        return Err(TreeError::TooLong);
    }
    // A line without a space may have been broken within a word.
    if text.split('\n').any(|line| line.len() >= LINE && !line.as_bytes().iter().skip(1).any(|byte| *byte == b' ')) {
        return Err(TreeError::Cut);
    }
    let mut reader = Reader { words: Words(text).peekable(), depth: 0 };
    let value = reader.value(false)?;
    if reader.words.next().is_some() { Err(TreeError::Misplaced) } else { Ok(value) }
}

struct Reader<'t> {
    words: Peekable<Words<'t>>,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<&'t str, TreeError> {
        self.words.next().ok_or(TreeError::End)
    }

    /// `is_datum`: the value's bytes follow its length, in brackets.
    fn value(&mut self, is_datum: bool) -> Result<Value<'t>, TreeError> {
        match self.next()? {
            "<>" => Ok(Value::Nothing),
            "{" => self.deeper(Self::node).map(Value::Node),
            "(" => self.deeper(Self::list).map(Value::List),
            ")" | "}" => Err(TreeError::Misplaced),
            word => {
                if is_datum && self.words.next_if_eq(&"[").is_some() {
                    return self.datum().map(Value::Datum);
                }
                Ok(Value::Word(word))
            }
        }
    }

    /// The numbers of a constant's bytes (those beyond 127 are negative), behind the bracket.
    fn datum(&mut self) -> Result<Vec<u8>, TreeError> {
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                "]" => return Ok(bytes),
                _ if bytes.len() == MAX_DATUM => {}
                word => {
                    let byte: i16 = word.parse().map_err(|_| TreeError::Misplaced)?;
                    bytes.push(byte.to_le_bytes()[0]);
                }
            }
        }
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, TreeError>) -> Result<T, TreeError> {
        if self.depth == MAX_DEPTH {
            return Err(TreeError::TooDeep);
        }
        self.depth += 1;
        let inner = read(self);
        self.depth -= 1;
        inner
    }

    fn list(&mut self) -> Result<Vec<Value<'t>>, TreeError> {
        let mut items = Vec::new();
        while self.words.next_if_eq(&")").is_none() {
            items.push(self.value(false)?);
        }
        Ok(items)
    }

    fn node(&mut self) -> Result<Node<'t>, TreeError> {
        let kind = self.next()?;
        if matches!(kind, "(" | ")" | "{" | "}") {
            return Err(TreeError::Misplaced);
        }
        let mut fields: Vec<(&str, Value<'_>)> = Vec::new();
        loop {
            let field = match self.next()? {
                "}" => return Ok(Node { kind, fields }),
                word => word.strip_prefix(':').ok_or(TreeError::Misplaced)?,
            };
            if fields.iter().any(|(name, _)| *name == field) {
                return Err(TreeError::Twice);
            }
            let value = self.value(field == "constvalue")?;
            fields.push((field, value));
        }
    }
}

/// The words of a text, brackets being words of their own.
struct Words<'t>(&'t str);

impl<'t> Iterator for Words<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let text = self.0.trim_start_matches([' ', '\n', '\t']);
        let bytes = text.as_bytes();
        let mut end = usize::from(matches!(bytes.first()?, b'(' | b')' | b'{' | b'}'));
        if end == 0 {
            while let Some(byte) = bytes.get(end) {
                match byte {
                    b' ' | b'\n' | b'\t' | b'(' | b')' | b'{' | b'}' => break,
                    b'\\' if end + 1 < bytes.len() => end += 2,
                    _ => end += 1,
                }
            }
        }
        // A backslash may stand before a character of several bytes.
        while !text.is_char_boundary(end) {
            end += 1;
        }
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> Node<'_> {
        match read(text) {
            Ok(Value::Node(node)) => node,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_are_read_by_name() {
        let read =
            node("{VAR :varno 1\n:varattno 2 :args ({CONST :constvalue 4 [ 1 0 0 -1 ] :location -1} <> (i 1 2))}");
        assert_eq!((read.kind, read.word("varno"), read.word("varattno")), ("VAR", Some("1"), Some("2")));
        let [Value::Node(constant), Value::Nothing, Value::List(numbers)] = read.list("args") else { panic!() };
        assert_eq!(constant.field("constvalue"), Some(&Value::Datum(vec![1, 0, 0, 255])));
        assert_eq!(constant.word("location"), Some("-1"));
        assert_eq!(numbers.len(), 3);
        assert!(read.is_empty("other") && read.list("other").is_empty());
    }

    #[test]
    fn a_name_cannot_forge_a_field() {
        let read = node(r"{TARGETENTRY :resname :resno :resno 7 :other :a\ :resno\ 8 :last \<>}");
        assert_eq!((read.word("resname"), read.word("resno")), (Some(":resno"), Some("7")));
        assert_eq!(read.word("other").map(unescaped).as_deref(), Some(":a :resno 8"));
        assert_eq!(read.word("last").map(unescaped).as_deref(), Some("<>"));
        let braces = node(r"{A :n \{VAR\ \}\) :m [ }");
        assert_eq!((braces.word("n").map(unescaped).as_deref(), braces.word("m")), (Some("{VAR })"), Some("[")));
        assert_eq!(super::read("{A :x 1 :x 2}"), Err(TreeError::Twice));
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        for (text, why) in [
            ("", TreeError::End),
            ("{A", TreeError::End),
            ("{A :x", TreeError::End),
            ("{A :x }", TreeError::Misplaced),
            ("{A x 1}", TreeError::Misplaced),
            ("{A :x 1} {", TreeError::Misplaced),
            ("{A :constvalue 4 [ 1 2", TreeError::End),
            ("(1 2", TreeError::End),
            (")", TreeError::Misplaced),
        ] {
            assert_eq!(read(text), Err(why), "{text}");
        }
        let deep = "(".repeat(MAX_DEPTH + 1);
        assert_eq!(read(&deep), Err(TreeError::Cut));
        assert_eq!(read(&"( ".repeat(MAX_DEPTH + 1)), Err(TreeError::TooDeep));
        assert_eq!(read(&format!("{{A :x {}}}", "x".repeat(LINE))).map(|_| ()), Ok(()));
        assert_eq!(read(&format!("{{A :x\n{}\n}}", "x".repeat(LINE))), Err(TreeError::Cut));
        assert_eq!(read(&" ".repeat(MAX_BYTES + 1)), Err(TreeError::TooLong));
        assert_eq!(read("{A :x \\é}").map(|_| ()), Ok(()));
    }
}
