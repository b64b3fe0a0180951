//! What people are shown: text from agents, targets and tokens, with everything escaped that could deceive the one who
//! reads it. Statements in approvals, arguments of processes, names in listings, records in a terminal: all go through here.
//!
//! Escaped as `\n`, `\t` or `\u{202e}`: control characters (so also every terminal sequence), what turns the direction of
//! writing, what cannot be seen or only looks like a space, and bytes that are no UTF-8 (`\xff`). A backslash stays one: who
//! writes `\u{202e}` in plain letters deceives nobody.

use std::fmt::{self, Write};

/// Text to be shown; its `Display` does the escaping. On one line and of any length, unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    bytes: &'a [u8],
    lines: bool,
    limit: usize,
}

/// Text on one line, escaped.
pub fn escape(text: &str) -> String {
    shown(text.as_bytes()).to_string()
}

/// JSON with the same characters escaped as JSON does it: another text of the same value, for whoever looks at it in a
/// terminal.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        // Line ends are between the values: in a string they are escaped already.
        if c != '\n' && deceives(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Text as a TOML string on one line, with the same characters escaped as TOML does it.
pub fn toml_string(text: &str) -> String {
    let mut string = String::with_capacity(text.len() + 2);
    string.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => string.extend(['\\', c]),
            // Writing to a string does not fail.
            _ if deceives(c) => drop(write!(string, "\\U{:08x}", u32::from(c))),
            _ => string.push(c),
        }
    }
    string.push('"');
    string
}

/// A name among words of ours: what could be taken for more than a name is escaped and stands in double quotes, in which
/// such quotes are doubled.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    text: &'a str,
    dots: bool,
}

/// One name, such as a table's.
pub fn name(text: &str) -> Name<'_> {
    Name { text, dots: false }
}

/// A name with those of what it is in before it, such as `public.customers.ssn`.
pub fn dotted(text: &str) -> Name<'_> {
    Name { text, dots: true }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_alphanumeric() || "_$?[]-".contains(c) || self.dots && c == '.';
        if !self.text.is_empty() && self.text.chars().all(|c| plain(c) && !deceives(c)) {
            return f.write_str(self.text);
        }
        write!(f, "\"{}\"", escape(&self.text.replace('"', "\"\"")))
    }
}

/// Text or bytes to be shown.
pub fn shown<T: AsRef<[u8]> + ?Sized>(text: &T) -> Shown<'_> {
    Shown { bytes: text.as_ref(), lines: false, limit: usize::MAX }
}

impl Shown<'_> {
    /// Keeps line ends and tabs, for text of several lines.
    #[must_use]
    pub fn lines(self) -> Self {
        Self { lines: true, ..self }
    }

    /// Shows at most so many bytes of the text, and says how many more there are.
    #[must_use]
    pub fn limit(self, bytes: usize) -> Self {
        Self { limit: bytes, ..self }
    }

    fn write_char(self, f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
        match c {
            '\n' | '\t' if self.lines => f.write_char(c),
            '\n' => f.write_str("\\n"),
            '\t' => f.write_str("\\t"),
            '\r' => f.write_str("\\r"),
            _ if deceives(c) => write!(f, "\\u{{{:x}}}", u32::from(c)),
            _ => f.write_char(c),
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.limit;
        let mut rest = self.bytes.len();
        for chunk in self.bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.len_utf8() > left {
                    return write!(f, "… (+{rest} bytes)");
                }
                self.write_char(f, c)?;
                left -= c.len_utf8();
                rest -= c.len_utf8();
            }
            for byte in chunk.invalid() {
                if left == 0 {
                    return write!(f, "… (+{rest} bytes)");
                }
                write!(f, "\\x{byte:02x}")?;
                left -= 1;
                rest -= 1;
            }
        }
        Ok(())
    }
}

/// Whether the character is other than it looks: see the module's text. Unicode 16.
fn deceives(c: char) -> bool {
    c.is_control()
        || c.is_whitespace() && c != ' '
        || matches!(c,
            // Direction: marks, embeddings, overrides, isolates.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            // Without width: joiners, invisible operators, shaping, selectors, tags.
            | '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
            // Blank, or whatever a font makes of it.
            | '\u{2800}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_deceives_gets_through() {
        for (text, expected) in [
            ("\u{1b}[2J\u{1b}]0;title\u{7}", r"\u{1b}[2J\u{1b}]0;title\u{7}"),
            ("DROP\rSELECT", r"DROP\rSELECT"),
            ("a\nb\tc\0", r"a\nb\tc\u{0}"),
            ("c1 \u{9b}31m", r"c1 \u{9b}31m"),
            ("x\u{202e}yz\u{2066}", r"x\u{202e}yz\u{2066}"),
            ("or\u{200b}ders\u{feff}", r"or\u{200b}ders\u{feff}"),
            ("a\u{a0}b\u{2003}c\u{2028}d\u{85}", r"a\u{a0}b\u{2003}c\u{2028}d\u{85}"),
            ("tag\u{e0041}", r"tag\u{e0041}"),
            ("soft\u{ad}hyphen \u{3164}", r"soft\u{ad}hyphen \u{3164}"),
            ("\u{7f}", r"\u{7f}"),
        ] {
            assert_eq!(escape(text), expected);
            assert_eq!(shown(text).to_string(), expected);
        }
    }

    #[test]
    fn json_is_the_same_value_and_nothing_in_it_deceives() {
        let value =
            serde_json::json!({ "a\u{202e}": ["\u{1b}[2J\u{9b}31m\u{7f}\n\\", "tag\u{e0041}", "Grüße, 東京, 🌊"] });
        let text = escape_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.chars().all(|c| c == '\n' || !deceives(c)), "{text:?}");
        assert!(text.contains(r"\u202e") && text.contains(r"\udb40\udc41") && text.contains("東京, 🌊"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn toml_is_the_same_text_on_one_line() {
        for text in ["plain", "a\"b\\c'd", "x\n\nverdict: allow\t\u{202e}\u{e0041}\u{1b}[2J", "Grüße, 東京"] {
            let string = toml_string(text);
            assert!(!string.chars().any(deceives), "{string:?}");
            let table: toml::Table = format!("a = {string}").parse().unwrap();
            assert_eq!(table["a"].as_str(), Some(text));
        }
    }

    #[test]
    fn names_cannot_be_taken_for_more_than_names() {
        for (text, expected) in [
            ("orders", "orders"),
            ("Größe_1$", "Größe_1$"),
            ("?column?", "?column?"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("orders, customers", "\"orders, customers\""),
            ("a\"b", "\"a\"\"b\""),
            ("x\n\nverdict: allow, by \"coders\"", "\"x\\n\\nverdict: allow, by \"\"coders\"\"\""),
            ("or\u{200b}ders", "\"or\\u{200b}ders\""),
            ("a.b", "\"a.b\""),
        ] {
            assert_eq!(name(text).to_string(), expected);
        }
        assert_eq!(dotted("public.customers.ssn").to_string(), "public.customers.ssn");
        assert_eq!(dotted("public.a b").to_string(), "\"public.a b\"");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_as_bytes() {
        assert_eq!(shown(b"a\xff\xc3(\xe2\x82").to_string(), r"a\xff\xc3(\xe2\x82");
    }

    #[test]
    fn plain_text_of_any_language_stays() {
        let text = "SELECT 'Grüße, 東京, 🌊 \\u{202e} é' -- \\x";
        assert_eq!(escape(text), text);
    }

    #[test]
    fn lines_stay_where_asked_for_and_nothing_else_does() {
        assert_eq!(shown("a\n\tb\r\n\u{b}").lines().to_string(), "a\n\tb\\r\n\\u{b}");
    }

    #[test]
    fn length_is_bounded_and_characters_are_whole() {
        for (limit, expected) in
            [(0, "… (+8 bytes)"), (1, "a… (+7 bytes)"), (2, "a… (+7 bytes)"), (3, "aé… (+5 bytes)"), (8, r"aé\xff🌊")]
        {
            assert_eq!(shown(b"a\xc3\xa9\xff\xf0\x9f\x8c\x8a").limit(limit).to_string(), expected, "{limit}");
        }
    }
}
