//! PL/pgSQL, as far as it tells what SQL a body runs.
//!
//! [`parts`] reads the language's own words ("PL/pgSQL", sections "Structure" to "Errors and Messages"; the server's
//! `pl_gram.y`), of which there are few, with the lexer of the server, and hands out the statements and expressions between
//! them, cut where the server cuts them. They are understood as any other text is. `parse_plpgsql` of libpg_query would
//! find them too, but its answer leaves out expressions (the default of a variable whose type it does not know: any
//! user's), and it has no bound on its time. Names are not looked up, so that a body which the server does not take may be
//! read; one that is not read as the server would is an error here.

use std::ops::Range;

use super::{Lexed, MAX_TOKENS};

/// What of a body runs SQL, and where: on which of the body's lines its statement of PL/pgSQL begins, counted as the server does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) line: usize,
    pub(super) runs: Runs,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Runs {
    Statement(String),
    /// What stands behind SELECT, which PL/pgSQL puts before it.
    Expression(String),
    /// A text that is put together as it runs, or a cursor that somebody may have opened elsewhere: in words.
    Unknown(&'static str),
}

/// What has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Block,
    /// A block, in its EXCEPTION section.
    Handlers,
    If,
    Case,
    Loop,
}

/// The parts of a body, in their order. An error says what is not understood of it, and where.
pub(super) fn parts(body: &str) -> Result<Vec<Part>, String> {
    let lexed = Lexed::new(body)?;
    if lexed.tokens.len() > MAX_TOKENS {
        return Err(format!("a body has {} tokens, the limit is {MAX_TOKENS}", lexed.tokens.len()));
    }
    let words = super::inner::words(&lexed.tokens)
        .map(|it| Some(usize::try_from(it.start).ok()?..usize::try_from(it.end).ok()?))
        .collect::<Option<Vec<_>>>()
        .ok_or("a body's words are not where they should be")?;
    let mut reader = Reader { body, words, at: 0, begun: 0, lines: (0, 1), open: Vec::new(), parts: Vec::new() };
    match reader.read() {
        Ok(()) => Ok(reader.parts),
        Err(what) => Err(format!("line {}: {what}", reader.line())),
    }
}

struct Reader<'a> {
    body: &'a str,
    /// Where its words are: all tokens but comments.
    words: Vec<Range<usize>>,
    /// The next one.
    at: usize,
    /// The first one of the statement, or the declaration, at hand.
    begun: usize,
    /// A place in the body, and its line: where lines were last counted up to.
    lines: (usize, usize),
    open: Vec<Open>,
    parts: Vec<Part>,
}

type Read<T = ()> = Result<T, &'static str>;
/// Words, by their numbers.
type Span = Range<usize>;

/// Words of which no variable has the name.
const RESERVED: &[&str] = &[
    "all", "begin", "by", "case", "declare", "else", "end", "execute", "for", "foreach", "from", "if", "in", "into",
    "loop", "not", "null", "or", "strict", "then", "to", "using", "when", "while",
];

impl Reader<'_> {
    fn read(&mut self) -> Read {
        while self.is("#") {
            if !["option", "print_strict_params", "variable_conflict"].iter().any(|it| self.is_at(self.at + 1, it)) {
                return Err("an option that is not known");
            }
            self.at += 3;
        }
        loop {
            if self.open.is_empty() && !["<<", "declare", "begin"].iter().any(|it| self.is(it)) {
                return Err("it has no block");
            }
            self.begun = self.at;
            self.statement()?;
            if self.open.is_empty() && self.at > 0 && self.ended() {
                return Ok(());
            }
        }
    }

    /// Whether the outermost block has ended, and nothing is behind it.
    fn ended(&self) -> bool {
        self.at == self.words.len()
    }

    fn statement(&mut self) -> Read {
        let word = self.word(self.at).to_ascii_lowercase();
        let assigns = [":=", "=", "[", "."].iter().any(|it| self.is_at(self.at + 1, it));
        if assigns && !self.is_reserved(self.at) {
            return self.assignment();
        }
        match word.as_str() {
            "<<" => {
                self.at += 2;
                self.expect(">>")
            }
            "declare" => self.declarations(),
            "begin" => {
                self.begin(Open::Block);
                Ok(())
            }
            "loop" => {
                self.begin(Open::Loop);
                Ok(())
            }
            "if" => {
                self.begin(Open::If);
                self.expression_until("then")
            }
            "elsif" | "elseif" if self.open.last() == Some(&Open::If) => {
                self.at += 1;
                self.expression_until("then")
            }
            "else" if matches!(self.open.last(), Some(Open::If | Open::Case)) => self.expect("else"),
            "case" => {
                self.begin(Open::Case);
                // Without a value between them the conditions stand for themselves.
                if self.is("when") {
                    return Ok(());
                }
                self.expression_until("when")?;
                self.at -= 1;
                Ok(())
            }
            "when" if self.open.last() == Some(&Open::Case) => {
                self.at += 1;
                self.expression_until("then")
            }
            "when" if self.open.last() == Some(&Open::Handlers) => {
                // Names of conditions, and SQLSTATEs.
                let conditions = self.take_until("then")?;
                self.plain(conditions)
            }
            "exception" if self.open.last() == Some(&Open::Block) => {
                self.open.pop();
                self.begin(Open::Handlers);
                Ok(())
            }
            "end" => self.end(),
            "while" => {
                self.begin(Open::Loop);
                self.expression_until("loop")
            }
            "for" => self.for_loop(),
            "foreach" => {
                self.begin(Open::Loop);
                let variables = self.take_until("in")?;
                self.plain(variables)?;
                self.expect("array")?;
                self.expression_until("loop")
            }
            _ => self.simple(&word),
        }
    }

    fn begin(&mut self, open: Open) {
        self.at += 1;
        self.open.push(open);
    }

    fn end(&mut self) -> Read {
        self.at += 1;
        let is_label = |reader: &Self| reader.is_word(reader.at) && !reader.is_reserved(reader.at);
        match self.open.pop().ok_or("an END of nothing")? {
            Open::If => self.expect("if")?,
            Open::Case => self.expect("case")?,
            Open::Loop => {
                self.expect("loop")?;
                self.at += usize::from(is_label(self));
            }
            Open::Block | Open::Handlers => {
                self.at += usize::from(is_label(self));
                if self.open.is_empty() {
                    self.at += usize::from(self.is(";"));
                    return if self.ended() { Ok(()) } else { Err("something behind its end") };
                }
            }
        }
        self.expect(";")
    }

    /// Variables and cursors, up to the BEGIN.
    fn declarations(&mut self) -> Read {
        loop {
            if self.is("declare") {
                self.at += 1;
                continue;
            }
            if self.is("begin") {
                return Ok(());
            }
            self.begun = self.at;
            let span = self.take_until(";")?;
            let kind = span.start + 1;
            let cursor = (kind..span.end.min(kind + 3)).find(|at| self.is_at(*at, "cursor"));
            let scrolls = |at| (kind..at).all(|it| self.is_at(it, "no") || self.is_at(it, "scroll"));
            if self.is_at(kind, "alias") {
                self.plain(span)?;
            } else if let Some(cursor) = cursor.filter(|at| scrolls(*at)) {
                let mut query = cursor + 1;
                if self.is_at(query, "(") {
                    query = self.closing(query, span.end)? + 1;
                }
                if !self.is_at(query, "is") && !self.is_at(query, "for") {
                    return Err("a cursor without a query");
                }
                self.sql(query + 1..span.end)?;
            } else {
                let value = self.find(&span, &[":=", "=", "default"]);
                self.plain(span.start..value.unwrap_or(span.end))?;
                if let Some(value) = value {
                    self.expression(value + 1..span.end)?;
                }
            }
        }
    }

    fn assignment(&mut self) -> Read {
        let span = self.take_until(";")?;
        let sign = self.find(&span, &[":=", "="]).ok_or("an assignment without its sign")?;
        if (span.start..sign).any(|at| self.is_at(at, "[")) {
            self.expression(span.start..sign)?;
        }
        self.expression(sign + 1..span.end)
    }

    fn for_loop(&mut self) -> Read {
        self.begin(Open::Loop);
        let variables = self.take_until("in")?;
        self.plain(variables)?;
        if self.is("reverse") {
            self.at += 1;
        }
        let span = self.take_until("loop")?;
        if self.is_at(span.start, "execute") {
            return self.dynamic(span.start + 1..span.end);
        }
        if let Some(dots) = self.find(&span, &[".."]) {
            self.expression(span.start..dots)?;
            let by = self.find(&(dots + 1..span.end), &["by"]);
            self.expression(dots + 1..by.unwrap_or(span.end))?;
            return by.map_or(Ok(()), |by| self.expression(by + 1..span.end));
        }
        // One that is declared with its query opens it anew.
        let brackets = span.clone().find(|at| self.is_at(*at, "("));
        let name = span.start..brackets.unwrap_or(span.end);
        let is_cursor = match name.len() {
            1 => !["select", "values", "table", "with"].iter().any(|it| self.is_at(name.start, it)),
            3 => self.is_at(name.start + 1, "."),
            _ => false,
        };
        match brackets {
            _ if !is_cursor => self.sql(span),
            Some(bracket) => self.arguments(bracket, span.end),
            None => Ok(()),
        }
    }

    /// What is no structure.
    fn simple(&mut self, word: &str) -> Read {
        let span = self.take_until(";")?;
        let rest = span.start + 1..span.end;
        match word {
            "null" | "close" => self.plain(rest),
            "perform" | "assert" => self.expression(rest),
            "execute" => self.dynamic(rest),
            "return" if rest.is_empty() => Ok(()),
            "return" => match self.word(rest.start).to_ascii_lowercase().as_str() {
                "next" => self.expression(rest.start + 1..rest.end),
                "query" if self.is_at(rest.start + 1, "execute") => self.dynamic(rest.start + 2..rest.end),
                "query" => self.sql(rest.start + 1..rest.end),
                _ => self.expression(rest),
            },
            "raise" => self.raise(rest),
            // What is counted or told goes to variables.
            "get" => self.assigned_plainly(rest),
            "open" => self.open(rest),
            // By a name that may be anybody's portal.
            "fetch" | "move" => {
                self.runs(Runs::Unknown("a cursor is named, which may be one that was opened elsewhere"));
                Ok(())
            }
            "exit" | "continue" => match self.find(&rest, &["when"]) {
                Some(when) => {
                    self.plain(rest.start..when)?;
                    self.expression(when + 1..rest.end)
                }
                None => self.plain(rest),
            },
            _ => self.sql(span),
        }
    }

    fn raise(&mut self, span: Span) -> Read {
        let using = self.find(&span, &["using"]);
        let head = span.start..using.unwrap_or(span.end);
        let comma = self.find(&head, &[","]);
        let what = head.start..comma.unwrap_or(head.end);
        // A level, and a format, a condition's name or an SQLSTATE.
        if what.len() > 3 || what.clone().any(|at| !(self.is_word(at) || self.is_string(at))) {
            return Err("a RAISE of another form");
        }
        if let Some(comma) = comma {
            self.expression(comma + 1..head.end)?;
        }
        let Some(using) = using else { return Ok(()) };
        for option in self.split(using + 1..span.end) {
            if !self.is_at(option.start + 1, "=") && !self.is_at(option.start + 1, ":=") {
                return Err("an option of RAISE without its value");
            }
            self.expression(option.start + 2..option.end)?;
        }
        Ok(())
    }

    fn open(&mut self, span: Span) -> Read {
        if let Some(query) = self.find(&span, &["for"]) {
            self.plain(span.start..query)?;
            return if self.is_at(query + 1, "execute") {
                self.dynamic(query + 2..span.end)
            } else {
                self.sql(query + 1..span.end)
            };
        }
        match span.clone().find(|at| self.is_at(*at, "(")) {
            Some(bracket) => {
                self.plain(span.start..bracket)?;
                self.arguments(bracket, span.end)
            }
            None => self.plain(span),
        }
    }

    /// A text that is put together, what it is put together of, and its parameters.
    fn dynamic(&mut self, span: Span) -> Read {
        self.runs(Runs::Unknown("EXECUTE runs a text that is put together as it runs"));
        let mut at = span.start;
        let mut is_target = false;
        while at <= span.end {
            let next = self.find(&(at..span.end), &["into", "using"]).unwrap_or(span.end);
            if !is_target {
                self.expression(at..next)?;
            }
            is_target = self.is_at(next, "into") && next < span.end;
            at = next + 1;
        }
        Ok(())
    }

    /// A cursor's arguments, in the brackets that open there.
    fn arguments(&mut self, bracket: usize, end: usize) -> Read {
        if self.closing(bracket, end)? + 1 != end {
            return Err("something behind a cursor's arguments");
        }
        for argument in self.split(bracket + 1..end - 1) {
            let is_named = self.is_at(argument.start + 1, ":=") || self.is_at(argument.start + 1, "=>");
            self.expression(argument.start + if is_named { 2 } else { 0 }..argument.end)?;
        }
        Ok(())
    }

    /// A statement of SQL, without the variables that it writes to.
    fn sql(&mut self, span: Span) -> Read {
        let is_atomic = |at: usize| self.is_at(at, "begin") && self.is_at(at + 1, "atomic");
        if span.is_empty() || span.clone().any(is_atomic) {
            return Err("a statement within another one, or none");
        }
        let is_target = |at: &usize| {
            let is_tables = ["insert", "merge"].iter().any(|it| at.checked_sub(1).is_some_and(|at| self.is_at(at, it)));
            self.is_at(*at, "into") && !is_tables && !self.is_at(span.start, "import")
        };
        let mut targets = span.clone().filter(is_target);
        let text = match (targets.next(), targets.next()) {
            (None, _) => self.text(span)?.to_owned(),
            (Some(into), None) if into > span.start => {
                let mut end = into + 1;
                end += usize::from(self.is_at(end, "strict"));
                loop {
                    end += 1;
                    if !self.is_at(end, ".") && !self.is_at(end, ",") {
                        break;
                    }
                    end += 1;
                }
                let behind = if end < span.end { self.text(end..span.end)? } else { "" };
                [self.text(span.start..into)?, behind].join(" ")
            }
            _ => return Err("INTO more than once"),
        };
        self.runs(Runs::Statement(text));
        Ok(())
    }

    fn expression(&mut self, span: Span) -> Read {
        let text = self.text(span)?.to_owned();
        self.runs(Runs::Expression(text));
        Ok(())
    }

    /// The expression before this word, and the word.
    fn expression_until(&mut self, word: &str) -> Read {
        let span = self.take_until(word)?;
        self.expression(span)
    }

    /// Nothing in it is computed: names, types, literals.
    fn plain(&self, span: Span) -> Read {
        let is_plain = |at: usize| {
            let marks = ["(", ")", "[", "]", ",", ".", "%"];
            let is_number = self.word(at).bytes().all(|it| it.is_ascii_digit());
            self.is_word(at) || self.is_string(at) || is_number || marks.contains(&self.word(at))
        };
        if span.into_iter().all(is_plain) { Ok(()) } else { Err("an expression where none should be") }
    }

    /// `variable = WORD` and so on.
    fn assigned_plainly(&self, span: Span) -> Read {
        let is_plain = |at: usize| self.is_word(at) || ["=", ":=", ",", "."].contains(&self.word(at));
        if span.into_iter().all(is_plain) { Ok(()) } else { Err("a GET of another form") }
    }

    fn runs(&mut self, runs: Runs) {
        let line = self.line();
        self.parts.push(Part { line, runs });
    }

    /// Of the statement at hand.
    fn line(&mut self) -> usize {
        let (counted, line) = self.lines;
        let start = self.words.get(self.begun).map_or(self.body.len(), |it| it.start);
        let between = self.body.get(counted..start).unwrap_or_default();
        self.lines = (start.max(counted), line + between.matches('\n').count());
        self.lines.1
    }

    // Words.

    fn word(&self, at: usize) -> &str {
        self.words.get(at).and_then(|it| self.body.get(it.clone())).unwrap_or_default()
    }

    fn is_at(&self, at: usize, word: &str) -> bool {
        self.word(at).eq_ignore_ascii_case(word)
    }

    fn is(&self, word: &str) -> bool {
        self.is_at(self.at, word)
    }

    fn is_word(&self, at: usize) -> bool {
        let first = self.word(at).chars().next();
        first.is_some_and(|it| it.is_alphabetic() || matches!(it, '_' | '"') || !it.is_ascii()) && !self.is_string(at)
    }

    fn is_reserved(&self, at: usize) -> bool {
        RESERVED.iter().any(|it| self.is_at(at, it))
    }

    fn is_string(&self, at: usize) -> bool {
        let word = self.word(at);
        word.starts_with(['\'', '$']) || word.ends_with('\'')
    }

    fn expect(&mut self, word: &str) -> Read {
        if !self.is(word) {
            return Err("a word is missing");
        }
        self.at += 1;
        Ok(())
    }

    fn text(&self, span: Span) -> Read<&str> {
        let (first, last) = (self.words.get(span.start), span.end.checked_sub(1).and_then(|at| self.words.get(at)));
        match (first, last) {
            (Some(first), Some(last)) if !span.is_empty() => {
                self.body.get(first.start..last.end).ok_or("a word in the middle of a letter")
            }
            _ => Err("something is missing"),
        }
    }

    /// What is before the next of this word outside of brackets, which comes before the statement's end. The word is taken.
    fn take_until(&mut self, word: &str) -> Read<Span> {
        let mut depth = 0_usize;
        for at in self.at..self.words.len() {
            if depth == 0 && self.is_at(at, word) {
                let span = self.at..at;
                self.at = at + 1;
                return Ok(span);
            }
            match self.word(at) {
                ";" => break,
                "(" | "[" => depth += 1,
                ")" | "]" => depth = depth.checked_sub(1).ok_or("a bracket that was not opened")?,
                _ => {}
            }
        }
        Err("a statement without its end")
    }

    /// The first of these words there, outside of brackets.
    fn find(&self, span: &Span, words: &[&str]) -> Option<usize> {
        let mut depth = 0_usize;
        span.clone().find(|&at| match self.word(at) {
            "(" | "[" => {
                depth += 1;
                false
            }
            ")" | "]" => {
                depth = depth.saturating_sub(1);
                false
            }
            _ => depth == 0 && words.iter().any(|it| self.is_at(at, it)),
        })
    }

    /// The bracket that closes this one.
    fn closing(&self, bracket: usize, end: usize) -> Read<usize> {
        let mut depth = 0_usize;
        for at in bracket..end {
            match self.word(at) {
                "(" | "[" => depth += 1,
                ")" | "]" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return Ok(at);
            }
        }
        Err("a bracket that is not closed")
    }

    /// What is between commas outside of brackets.
    fn split(&self, span: Span) -> Vec<Span> {
        let mut all = Vec::new();
        let mut start = span.start;
        while let Some(comma) = self.find(&(start..span.end), &[","]) {
            all.push(start..comma);
            start = comma + 1;
        }
        all.push(start..span.end);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn shown(body: &str) -> Result<Vec<String>, String> {
        let one = |part: Part| match part.runs {
            Runs::Statement(text) => text,
            Runs::Expression(text) => format!("={text}"),
            Runs::Unknown(_) => "?".to_owned(),
        };
        parts(body).map(|it| it.into_iter().map(one).collect())
    }

    #[test]
    fn each_construct_gives_up_its_sql() {
        for (body, expected) in BODIES {
            assert_eq!(shown(body).map(|it| it.join(" | ")), Ok((*expected).to_owned()), "{body}");
        }
    }

    /// libpg_query finds nothing that is not found here.
    #[test]
    fn nothing_is_missed_that_libpg_query_finds() {
        fn texts(value: &Value, to: &mut Vec<String>) {
            match value {
                Value::Object(fields) => fields.iter().for_each(|(name, value)| match value {
                    Value::String(text) if name == "query" => to.push(text.clone()),
                    other => texts(other, to),
                }),
                Value::Array(all) => all.iter().for_each(|it| texts(it, to)),
                _ => {}
            }
        }
        let packed = |text: &str| text.chars().filter(|it| !it.is_whitespace()).collect::<String>().to_lowercase();
        let mut compared = 0;
        for (body, _) in BODIES.iter().filter(|(body, _)| !body.contains("FETCH")) {
            // What the server refuses in a DO, it does too.
            let Ok(found) = pg_query::parse_plpgsql(&format!("DO $weir${body}$weir$")) else { continue };
            let mut queries = Vec::new();
            texts(&found, &mut queries);
            let ours = packed(
                &parts(body).map(|it| format!("{it:?}")).unwrap_or_default().replace("\\\"", "\"").replace("\\n", ""),
            );
            for query in queries {
                compared += 1;
                // An assignment is one text there, its variable and its sign included.
                let value = query.split_once(":=").map_or(query.as_str(), |(_, value)| value);
                let value = packed(value.strip_prefix("SELECT ").unwrap_or(value));
                assert!(ours.contains(&value) || query.contains("__Case__"), "{body}: {query}: {ours}");
            }
        }
        assert!(compared > 40, "{compared}");
    }

    #[test]
    fn each_part_has_the_line_of_its_statement() {
        let lines = |body| parts(body).unwrap().into_iter().map(|it| it.line).collect::<Vec<_>>();
        assert_eq!(lines("BEGIN a := 1; b := 2; END"), [1, 1]);
        assert_eq!(
            lines(
                "\nDECLARE\n a int;\n b int :=\n f();\nBEGIN\n -- x\n IF a\n THEN DELETE\n FROM t; END IF;\n\nCOMMIT; END"
            ),
            [4, 8, 9, 12]
        );
        let error = |body| parts(body).unwrap_err();
        assert_eq!(error("BEGIN\n NULL;\n x := (1;\nEND"), "line 3: a statement without its end");
        assert_eq!(error("BEGIN\n NULL;\n"), "line 3: a statement without its end");
        assert_eq!(error(""), "line 1: it has no block");
    }

    #[test]
    fn what_is_not_read_as_the_server_would_is_not_understood() {
        for body in [
            "",
            "NULL",
            "BEGIN",
            "BEGIN NULL END",
            "BEGIN END; DELETE FROM t",
            "BEGIN END END",
            "BEGIN NULL; END; END",
            "BEGIN IF a THEN NULL; END LOOP; END",
            "BEGIN IF a; END IF; END",
            "BEGIN x := (1; END",
            "BEGIN x := 1); END",
            "BEGIN ; END",
            "BEGIN RAISE NOTICE 'x' || f(); END",
            "BEGIN GET DIAGNOSTICS a[f()] = ROW_COUNT; END",
            "BEGIN SELECT 1 INTO a INTO b; END",
            "BEGIN CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; END",
            "BEGIN CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b); END",
            "DECLARE x int =@ f(); BEGIN END",
            "DECLARE x int f(); y int BEGIN END",
            "#dump\nBEGIN END",
            "BEGIN EXCEPTION WHEN f(1) + 1 THEN NULL; END",
            "BEGIN 'unfinished; END",
            "BEGIN EXECUTE; END",
            "BEGIN FOR i IN 1.. LOOP END LOOP; END",
        ] {
            assert!(parts(body).is_err(), "{body}: {:?}", parts(body));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_order_of_words_is_too_much(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..40)) {
            let _ = parts(&words.join(" "));
            let _ = parts(&format!("DECLARE {}; BEGIN {}; END", words.join(" "), words.join(" ")));
        }
    }

    const WORDS: &[&str] = &[
        "BEGIN",
        "END",
        "DECLARE",
        ";",
        ";",
        "<<",
        ">>",
        "a",
        "b",
        ".",
        ",",
        "(",
        ")",
        "[",
        "]",
        ":=",
        "=",
        "IF",
        "THEN",
        "ELSIF",
        "ELSE",
        "CASE",
        "WHEN",
        "LOOP",
        "WHILE",
        "FOR",
        "FOREACH",
        "IN",
        "ARRAY",
        "REVERSE",
        "..",
        "BY",
        "EXECUTE",
        "USING",
        "INTO",
        "STRICT",
        "CURSOR",
        "IS",
        "ALIAS",
        "DEFAULT",
        "RAISE",
        "'x'",
        "GET",
        "DIAGNOSTICS",
        "OPEN",
        "FETCH",
        "CLOSE",
        "RETURN",
        "QUERY",
        "NEXT",
        "EXIT",
        "EXCEPTION",
        "SELECT",
        "INSERT",
        "CREATE",
        "ATOMIC",
        "#",
        "option",
        "1",
        "%",
        "NULL",
        "PERFORM",
    ];

    const BODIES: &[(&str, &str)] = &[
        ("BEGIN END", ""),
        ("begin null; end;", ""),
        ("<<a>> DECLARE BEGIN <<b>> BEGIN NULL; END b; END a", ""),
        ("#variable_conflict use_column\nBEGIN DELETE FROM t; END", "DELETE FROM t"),
        ("BEGIN DELETE -- ; END\n FROM /* ; */ t; END -- ;", "DELETE -- ; END\n FROM /* ; */ t"),
        (
            "DECLARE a int; b text := f(); c CONSTANT numeric(10, 2) NOT NULL = 3; d t.c%TYPE DEFAULT g(1, 2); e text[]; BEGIN END",
            "=f() | =3 | =g(1, 2)",
        ),
        (
            "DECLARE a mood := f(); DECLARE b public.t%ROWTYPE := (SELECT t FROM t); c ALIAS FOR a; BEGIN END",
            "=f() | =(SELECT t FROM t)",
        ),
        (
            "DECLARE a CURSOR FOR SELECT 1; b NO SCROLL CURSOR (x int, y int) IS SELECT x FROM t; c refcursor; BEGIN END",
            "SELECT 1 | SELECT x FROM t",
        ),
        ("DECLARE cursor int := 1; BEGIN END", "=1"),
        (
            "BEGIN a := f(); a.b.c = 2; a[g()].x := 3; perform := 4; \"if\" := 5; a := b = c; END",
            "=f() | =2 | =a[g()].x | =3 | =4 | =5 | =b = c",
        ),
        ("BEGIN x := count(*) FROM t WHERE a = 1; END", "=count(*) FROM t WHERE a = 1"),
        (
            "BEGIN IF a > 1 THEN DELETE FROM t; ELSIF b THEN NULL; ELSEIF c THEN f := 1; ELSE UPDATE t SET x = 1; END IF; END",
            "=a > 1 | DELETE FROM t | =b | =c | =1 | UPDATE t SET x = 1",
        ),
        ("BEGIN IF (CASE WHEN a THEN b ELSE c END) THEN NULL; END IF; END", "=(CASE WHEN a THEN b ELSE c END)"),
        (
            "BEGIN CASE WHEN a THEN DELETE FROM t; ELSE NULL; END CASE; CASE f(x) WHEN 1, 2 THEN NULL; WHEN g() THEN NULL; END CASE; END",
            "=a | DELETE FROM t | =f(x) | =1, 2 | =g()",
        ),
        (
            "BEGIN LOOP EXIT; END LOOP; <<l>> WHILE f() LOOP CONTINUE l WHEN g(); EXIT l; EXIT WHEN a; END LOOP l; END",
            "=f() | =g() | =a",
        ),
        (
            "BEGIN FOR i IN 1..10 LOOP NULL; END LOOP; FOR i IN REVERSE f()..g() BY h() LOOP NULL; END LOOP; END",
            "=1 | =10 | =f() | =g() | =h()",
        ),
        (
            "DECLARE r record; BEGIN FOR r IN SELECT * FROM t LOOP DELETE FROM u WHERE id = r.id; END LOOP; END",
            "SELECT * FROM t | DELETE FROM u WHERE id = r.id",
        ),
        (
            "DECLARE a int; b int; BEGIN FOR a, b IN WITH d AS (DELETE FROM t RETURNING 1) SELECT 1, 2 FROM d LOOP END LOOP; END",
            "WITH d AS (DELETE FROM t RETURNING 1) SELECT 1, 2 FROM d",
        ),
        (
            "DECLARE c CURSOR (k int) FOR SELECT k; BEGIN FOR r IN c(f()) LOOP NULL; END LOOP; FOR r IN c(k := g()) LOOP END LOOP; FOR r IN c LOOP END LOOP; END",
            "SELECT k | =f() | =g()",
        ),
        (
            "DECLARE r record; BEGIN FOR r IN (SELECT 1) LOOP END LOOP; FOR r IN VALUES (f()) LOOP END LOOP; END",
            "(SELECT 1) | VALUES (f())",
        ),
        ("DECLARE r record; BEGIN FOR r IN EXECUTE f(a) USING g(), 2 LOOP NULL; END LOOP; END", "? | =f(a) | =g(), 2"),
        ("DECLARE x int; BEGIN FOREACH x SLICE 1 IN ARRAY f() LOOP NULL; END LOOP; END", "=f()"),
        (
            "BEGIN PERFORM f(1), g(2) FROM t; ASSERT a > f(), 'x' || g(); CALL p(f()); DO $x$ BEGIN END $x$; END",
            "=f(1), g(2) FROM t | =a > f(), 'x' || g() | CALL p(f()) | DO $x$ BEGIN END $x$",
        ),
        (
            "BEGIN EXECUTE 'a' || f(); EXECUTE format('x') INTO STRICT a, b USING g(), h(); EXECUTE 'b' USING i() INTO c; END",
            "? | ='a' || f() | ? | =format('x') | =g(), h() | ? | ='b' | =i()",
        ),
        (
            "DECLARE a int; b int; BEGIN SELECT 1, 2 INTO STRICT a, b FROM t WHERE c; SELECT 1 INTO a; SELECT INTO a 1; INSERT INTO t VALUES (1) RETURNING id INTO a; END",
            "SELECT 1, 2 FROM t WHERE c | SELECT 1  | SELECT 1 | INSERT INTO t VALUES (1) RETURNING id ",
        ),
        (
            "BEGIN WITH x AS (INSERT INTO t SELECT 1 RETURNING *) SELECT * FROM x; MERGE INTO t USING u ON a = b WHEN MATCHED THEN DELETE; END",
            "WITH x AS (INSERT INTO t SELECT 1 RETURNING *) SELECT * FROM x | MERGE INTO t USING u ON a = b WHEN MATCHED THEN DELETE",
        ),
        (
            "BEGIN RAISE; RAISE NOTICE 'a % %', f(), g(); RAISE EXCEPTION USING MESSAGE = h(), ERRCODE := '22012'; RAISE SQLSTATE '22012'; RAISE division_by_zero USING detail = i(); RAISE INFO $$x$$; RAISE 'y' USING hint = 'z'; END",
            "=f(), g() | =h() | ='22012' | =i() | ='z'",
        ),
        ("BEGIN RETURN; END", ""),
        (
            "BEGIN RETURN QUERY SELECT 1; RETURN QUERY EXECUTE 'x' USING f(); RETURN NEXT g(); RETURN h(); END",
            "SELECT 1 | ? | ='x' | =f() | =g() | =h()",
        ),
        (
            "DECLARE c CURSOR (k int) FOR SELECT k; d refcursor; BEGIN OPEN c(f()); OPEN d FOR SELECT 1; OPEN d NO SCROLL FOR DELETE FROM t RETURNING 1; OPEN d FOR EXECUTE 'x' || g() USING h(); CLOSE c; OPEN d; END",
            "SELECT k | =f() | SELECT 1 | DELETE FROM t RETURNING 1 | ? | ='x' || g() | =h()",
        ),
        (
            "DECLARE c refcursor := 'portal'; r record; BEGIN FETCH c INTO r; MOVE ABSOLUTE f() FROM c; END",
            "='portal' | ? | ?",
        ),
        (
            "BEGIN GET DIAGNOSTICS n = ROW_COUNT, m := PG_CONTEXT; EXCEPTION WHEN unique_violation OR SQLSTATE '22012' THEN GET STACKED DIAGNOSTICS t = MESSAGE_TEXT; DELETE FROM t; WHEN OTHERS THEN RAISE; END",
            "DELETE FROM t",
        ),
        (
            "BEGIN COMMIT; ROLLBACK AND CHAIN; SET LOCAL work_mem = '1MB'; SET ROLE x; END",
            "COMMIT | ROLLBACK AND CHAIN | SET LOCAL work_mem = '1MB' | SET ROLE x",
        ),
        (
            "BEGIN BEGIN BEGIN DELETE FROM t; END; EXCEPTION WHEN OTHERS THEN TRUNCATE t; END; END",
            "DELETE FROM t | TRUNCATE t",
        ),
    ];
}
