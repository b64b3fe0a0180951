//! Secrets in command lines: hidden before they leave the witness. What looks like the name of a secret hides its value,
//! passwords inside URLs go, and so do the values in what looks like SQL: whether they touch tagged columns only the
//! protocol knows, and its record has the statement itself. It errs on the side of hiding.

/// What stands in a secret's place.
const HIDDEN: &str = "[redacted]";

/// Parts of names (of options, variables, keywords, headers) whose values are secrets.
const NAMES: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api-key",
    "api_key",
    "credential",
    "authorization",
    "private-key",
];

/// Words that SQL with values in it has.
const SQL: [&str; 9] = ["select", "insert", "update", "delete", "merge", "values", "copy", "execute", "where"];
/// Numbers of fewer digits are limits and the like.
const SHORT_NUMBER: usize = 3;

/// Hides the values of `--token=x`, `--token x`, `PGPASSWORD=x`, `host=h password=x`, `Authorization: Bearer x` and
/// `scheme://user:x@host`.
pub(super) fn redact(arguments: Vec<String>) -> Vec<String> {
    let mut hide_next = false;
    arguments
        .into_iter()
        .map(|argument| {
            if std::mem::take(&mut hide_next) && !argument.starts_with('-') {
                return HIDDEN.to_owned();
            }
            hide_next = argument.starts_with('-') && !argument.contains('=') && is_secret_name(&argument);
            redact_sql(redact_url(&redact_pairs(&argument)))
        })
        .collect()
}

/// `name=value` anywhere in the argument, and `Name: value` up to its end.
fn redact_pairs(argument: &str) -> String {
    if let Some((name, _)) = argument.split_once(':')
        && !name.contains(char::is_whitespace)
        && !name.contains('/')
        && is_secret_name(name)
    {
        return format!("{name}: {HIDDEN}");
    }
    let mut text = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(equals) = rest.find('=') {
        let (before, value) = (&rest[..equals], &rest[equals + 1..]);
        let name = before.rsplit(|c: char| c.is_whitespace() || "?&;,".contains(c)).find(|part| !part.is_empty());
        text.push_str(before);
        text.push('=');
        rest = value;
        if name.is_some_and(is_secret_name) {
            text.push_str(HIDDEN);
            rest = &value[value_length(value)..];
        }
    }
    text + rest
}

/// Up to the next separator, quotes honoured.
fn value_length(value: &str) -> usize {
    let value_body = value.trim_start();
    let skipped = value.len() - value_body.len();
    match value_body.chars().next() {
        Some(quote @ ('\'' | '"')) => value_body[1..].find(quote).map_or(value.len(), |end| skipped + end + 2),
        _ => value_body.find(|c: char| c.is_whitespace() || "&;,".contains(c)).map_or(value.len(), |end| skipped + end),
    }
}

/// The password of `scheme://user:password@host`, wherever it stands.
fn redact_url(argument: &str) -> String {
    let mut text = String::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(scheme) = rest.find("://") {
        let (before, authority) = rest.split_at(scheme + 3);
        text.push_str(before);
        let end = authority.find(|c: char| c == '/' || c == '?' || c.is_whitespace()).unwrap_or(authority.len());
        // A password may itself hold an unescaped slash: then the last @ before the next blank ends it.
        let end = if authority[..end].contains('@') {
            end
        } else {
            authority.find(char::is_whitespace).unwrap_or(authority.len())
        };
        match (authority[..end].rfind('@'), authority.find(':')) {
            (Some(at), Some(colon)) if colon < at => {
                text.push_str(&authority[..=colon]);
                text.push_str(HIDDEN);
                rest = &authority[at..];
            }
            _ => {
                text.push_str(&authority[..end]);
                rest = &authority[end..];
            }
        }
    }
    text + rest
}

/// Quoted literals and numbers, where a word of SQL is among several.
fn redact_sql(argument: String) -> String {
    let words = argument.split(|c: char| !c.is_ascii_alphabetic());
    let is_sql = words.clone().any(|word| SQL.iter().any(|sql| word.eq_ignore_ascii_case(sql)));
    if !is_sql || !argument.contains(char::is_whitespace) {
        return argument;
    }
    let mut text = String::with_capacity(argument.len());
    let mut rest = &argument[..];
    while let Some(start) = rest.find(|c: char| c == '\'' || c == '$' || c.is_ascii_digit()) {
        let (before, literal) = rest.split_at(start);
        text.push_str(before);
        let continues_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = literal_length(literal);
        let is_short = length <= SHORT_NUMBER && literal.starts_with(|c: char| c.is_ascii_digit());
        let is_placeholder = literal.starts_with('$') && length == 1;
        let is_name = continues_word && !literal.starts_with('\'');
        text.push_str(if is_short || is_placeholder || is_name { &literal[..length] } else { HIDDEN });
        rest = &literal[length..];
    }
    text + rest
}

/// Bytes of the literal that `text` begins with: up to the closing quote, or all where there is none; the digits, dots
/// and dashes of a number; the `$` alone where no dollar quote begins.
fn literal_length(text: &str) -> usize {
    if let Some(body) = text.strip_prefix('\'') {
        // After a backslash it may go on, or not: then too much is hidden.
        let ends = |&(at, _): &(usize, &str)| !body[..at].ends_with('\\');
        return body.match_indices('\'').find(ends).map_or(text.len(), |(end, _)| end + 2);
    }
    if let Some((name, body)) = text.strip_prefix('$').map(|rest| rest.split_once('$').unwrap_or((" ", rest))) {
        if !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return 1;
        }
        let tag = &text[..name.len() + 2];
        return body.find(tag).map_or(text.len(), |end| end + 2 * tag.len());
    }
    text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').unwrap_or(text.len())
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|secret| name.contains(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (argument, expected) in [
            ("--token=abc", "--token=[redacted]"),
            ("PGPASSWORD=abc", "PGPASSWORD=[redacted]"),
            ("host=db password=abc user=me", "host=db password=[redacted] user=me"),
            ("host=db password='a b' user=me", "host=db password=[redacted] user=me"),
            (
                "postgres://me:abc@db:5432/orders?sslmode=require",
                "postgres://me:[redacted]@db:5432/orders?sslmode=require",
            ),
            ("postgres://me:a/b@db/orders", "postgres://me:[redacted]@db/orders"),
            ("postgres://db/orders?password=abc&x=1", "postgres://db/orders?password=[redacted]&x=1"),
            ("Authorization: Bearer abc", "Authorization: [redacted]"),
            ("SELECT 1 WHERE a = 'b'", "SELECT 1 WHERE a = [redacted]"),
            ("update c set ssn='900-11-1002' where id=7", "update c set ssn=[redacted] where id=7"),
            ("update c set ssn=E'9\\'00' where x", "update c set ssn=E[redacted] where x"),
            ("select * from c where ssn = 900111002", "select * from c where ssn = [redacted]"),
            ("select $a$ x'y $a$, $1, t1.c2, 'unclosed", "select [redacted], $1, t1.c2, [redacted]"),
            ("select", "select"),
            ("it's a value", "it's a value"),
            ("http://host/path", "http://host/path"),
            ("--file=x", "--file=x"),
        ] {
            assert_eq!(redact(vec![argument.to_owned()]), [expected], "{argument}");
        }
    }

    #[test]
    fn an_option_hides_its_next_argument() {
        let arguments = ["mytool", "--password", "abc", "--verbose", "def"].map(str::to_owned).to_vec();
        assert_eq!(redact(arguments), ["mytool", "--password", "[redacted]", "--verbose", "def"]);
    }
}
