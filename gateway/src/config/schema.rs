//! Checks a parsed TOML file against the JSON Schema of the raw types, all of it at once: unknown keys with the nearest
//! known one, missing keys, wrong types, words that are no choice. Whatever is wrong is cut out, so that the rest can be
//! read and checked further.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Map, Value as Json};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::show;

/// Words farther apart than this share of their length are not "meant".
const NEAR: f64 = 0.6;

/// Of a value that is wrong so many bytes are shown.
const MAX_SHOWN: usize = 64;

/// A choice of more words is not listed.
const MAX_LISTED: usize = 8;

/// Faults of one file; who has so many reads no more of them.
const MAX_FAULTS: usize = 500;

/// Something that is wrong at a place of one file.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) span: Range<usize>,
    pub(super) key: String,
    pub(super) message: String,
}

/// The JSON Schema of the configuration, as JSON.
pub(super) fn json_schema() -> Json {
    schemars::schema_for!(super::raw::RawConfig).to_value()
}

/// Checks `table`, cuts out what is wrong, and returns what was.
pub(super) fn check(schema: &Json, table: &mut Spanned<DeTable<'_>>) -> Vec<Fault> {
    let mut checker = Checker { root: schema, faults: Vec::new() };
    let span = table.span();
    checker.table(schema, table.get_mut(), &Place { key: String::new(), span });
    checker.faults
}

/// The candidate nearest to `word`, if any is near.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let score = |candidate: &&str| strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase());
    let scored = candidates.into_iter().map(|candidate| (score(&candidate), candidate));
    let (score, candidate) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    // Jaro-Winkler is generous to equal beginnings, so the edits must be few too.
    let edits = strsim::normalized_damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
    (score >= NEAR && edits >= 0.5).then_some(candidate)
}

/// `; did you mean "x"?`, or nothing.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default()
}

/// A key's part of a path, quoted where TOML would.
pub(super) fn key_part(part: &str) -> String {
    let bare =
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare { part.to_owned() } else { format!("\"{}\"", show::shown(part).limit(MAX_SHOWN)) }
}

struct Checker<'s> {
    root: &'s Json,
    faults: Vec<Fault>,
}

struct Place {
    key: String,
    span: Range<usize>,
}

impl Place {
    fn child(&self, part: &str, span: Range<usize>) -> Self {
        let dot = if self.key.is_empty() { "" } else { "." };
        Self { key: format!("{}{dot}{}", self.key, key_part(part)), span }
    }

    /// An item of an array: by its name where it has one.
    fn item(&self, index: usize, value: &Spanned<DeValue<'_>>) -> Self {
        let name = value.get_ref().as_table().and_then(|table| {
            let (_, name) = table.iter().find(|(key, _)| key.get_ref() == "name")?;
            name.get_ref().as_str()
        });
        match name {
            Some(name) => self.child(name, value.span()),
            None => Self { key: format!("{}[{index}]", self.key), span: value.span() },
        }
    }
}

impl<'s> Checker<'s> {
    fn fault(&mut self, place: &Place, message: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault { span: place.span.clone(), key: place.key.clone(), message });
        }
    }

    /// False: the value is wrong itself and must not be used.
    fn value(&mut self, schema: &'s Json, value: &mut Spanned<DeValue<'_>>, place: &Place) -> bool {
        let alternatives = self.alternatives(schema);
        let fitting = |wanted: &str| alternatives.iter().copied().filter(|it| is_type(it, wanted)).collect::<Vec<_>>();
        match value.get_mut() {
            DeValue::String(text) => {
                let strings: Vec<&Json> = alternatives.iter().copied().filter(|it| is_string(it)).collect();
                let words: Vec<&str> = strings.iter().copied().flat_map(words).collect();
                if strings.is_empty() {
                    return self.mismatch(schema, &alternatives, "a string", place);
                }
                if words.is_empty() || words.contains(&text.as_ref()) {
                    return true;
                }
                let shown = show::shown(text.as_bytes()).limit(MAX_SHOWN);
                let near = did_you_mean(text, words.iter().copied());
                let message = if words.len() > MAX_LISTED && !near.is_empty() {
                    format!("\"{shown}\" is no choice{near}")
                } else {
                    format!("\"{shown}\" is not {}{near}", expected(&alternatives))
                };
                self.fault(place, message);
                false
            }
            DeValue::Integer(integer) => {
                let Some(schema) = fitting("integer").first().copied() else {
                    return self.mismatch(schema, &alternatives, "a number", place);
                };
                let number = i128::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok();
                let limit = |key: &str| schema[key].as_f64();
                #[expect(clippy::cast_precision_loss, reason = "compared with limits below 2^53")]
                let outside = number.is_none_or(|number| {
                    limit("minimum").is_some_and(|min| (number as f64) < min)
                        || limit("maximum").is_some_and(|max| (number as f64) > max)
                });
                if outside {
                    let range = match (limit("minimum"), limit("maximum")) {
                        (Some(min), Some(max)) => format!("from {min} to {max}"),
                        (Some(min), None) => format!("from {min}"),
                        _ => "that fits".to_owned(),
                    };
                    self.fault(place, format!("expected a number {range}"));
                }
                !outside
            }
            DeValue::Boolean(_) => {
                !fitting("boolean").is_empty() || self.mismatch(schema, &alternatives, "a boolean", place)
            }
            DeValue::Array(array) => {
                let Some(schema) = fitting("array").first().copied() else {
                    return self.mismatch(schema, &alternatives, "an array", place);
                };
                let items = std::mem::replace(array, DeArray::new());
                for (index, mut item) in items.into_iter().enumerate() {
                    let place = place.item(index, &item);
                    if self.value(&schema["items"], &mut item, &place) {
                        array.push(item);
                    }
                }
                true
            }
            DeValue::Table(table) => {
                let tables = fitting("object");
                match choose(&tables, table) {
                    Some(schema) => self.table(schema, table, place),
                    None => self.mismatch(schema, &alternatives, "a table", place),
                }
            }
            DeValue::Float(_) => self.mismatch(schema, &alternatives, "a fraction", place),
            DeValue::Datetime(_) => self.mismatch(schema, &alternatives, "a date", place),
        }
    }

    /// False: a key that must be there is not, or not right.
    fn table<'i>(&mut self, schema: &'s Json, table: &mut DeTable<'i>, place: &Place) -> bool {
        let known: Vec<&'s str> =
            schema["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
        // Keys that are as good as there: wrong, or misspelt, which has been said.
        let mut said: Vec<Cow<'i, str>> = Vec::new();
        let keys: Vec<(Cow<'i, str>, Range<usize>)> =
            table.keys().map(|key| (key.get_ref().clone(), key.span())).collect();
        for (key, span) in keys {
            let schema = match (schema["properties"].get(key.as_ref()), &schema["additionalProperties"]) {
                (Some(schema), _) => schema,
                (None, others) if others.is_object() => others,
                (None, _) => {
                    let near = nearest(&key, known.iter().copied());
                    said.extend(near.map(|near| Cow::Owned(near.to_owned())));
                    let message = self.unknown_key(&key, near, &known);
                    self.fault(&Place { key: place.key.clone(), span }, message);
                    table.remove(key.as_ref());
                    continue;
                }
            };
            let Some(value) = table.get_mut(key.as_ref()) else { continue };
            let place = place.child(&key, value.span());
            if !self.value(schema, value, &place) {
                table.remove(key.as_ref());
                said.push(key);
            }
        }
        let mut complete = true;
        for key in required(schema).filter(|key| table.get(*key).is_none()).collect::<Vec<_>>() {
            if !said.iter().any(|it| it == key) {
                self.fault(place, format!("the key \"{key}\" is missing"));
            }
            match self.stand_in(&schema["properties"][key]) {
                Some(word) => {
                    let span = place.span.clone();
                    let word = Spanned::new(span.clone(), DeValue::String(Cow::Owned(word.to_owned())));
                    table.insert(Spanned::new(span, Cow::Owned(key.to_owned())), word);
                }
                None => complete = false,
            }
        }
        complete
    }

    /// A word that takes the place of a wrong value, so that the rest of its table is still read: where a value may be one
    /// of some words or a table, as `then` and `with`.
    fn stand_in(&self, schema: &'s Json) -> Option<&'s str> {
        let alternatives = self.alternatives(schema);
        let mixed = alternatives.iter().any(|it| is_type(it, "object"));
        alternatives.into_iter().filter(|_| mixed).find_map(|it| words(it).first().copied())
    }

    fn unknown_key(&self, key: &str, near: Option<&str>, known: &[&str]) -> String {
        let hint = match (self.parent_of(key), near) {
            (Some(parent), _) => format!("it belongs to {parent}"),
            (None, Some(near)) => format!("did you mean \"{near}\"?"),
            (None, None) => format!("known here: {}", known.join(", ")),
        };
        format!("unknown key \"{}\"; {hint}", show::shown(key).limit(MAX_SHOWN))
    }

    fn mismatch(&mut self, schema: &Json, alternatives: &[&Json], found: &str, place: &Place) -> bool {
        let hint = schema["x-hint"].as_str().map(|hint| format!("; {hint}")).unwrap_or_default();
        self.fault(place, format!("expected {}, found {found}{hint}", expected(alternatives)));
        false
    }

    /// The tables of the top level that know this key: it may only stand at a wrong place.
    fn parent_of(&self, key: &str) -> Option<String> {
        let top = self.root["properties"].as_object()?;
        top.iter().find_map(|(name, schema)| {
            let alternatives = self.alternatives(schema);
            let array = alternatives.iter().find(|it| is_type(it, "array"));
            let tables = array.map_or(alternatives.clone(), |array| self.alternatives(&array["items"]));
            let knows = tables.iter().any(|table| table["properties"].get(key).is_some());
            knows.then(|| if array.is_some() { format!("[[{name}]]") } else { format!("[{name}]") })
        })
    }

    /// What a value may be, one by one; null aside, which TOML has not.
    fn alternatives(&self, schema: &'s Json) -> Vec<&'s Json> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return target.map_or(Vec::new(), |target| self.alternatives(target));
        }
        let choices = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
        match choices {
            Some(choices) => choices.iter().flat_map(|choice| self.alternatives(choice)).collect(),
            None if schema["type"] == "null" => Vec::new(),
            None => vec![schema],
        }
    }
}

/// Where a table may be one of several, the key in it tells.
fn choose<'s>(tables: &[&'s Json], table: &DeTable<'_>) -> Option<&'s Json> {
    if let [only] = tables {
        return Some(only);
    }
    let has = |key: &str| table.iter().any(|(it, _)| it.get_ref() == key);
    tables.iter().copied().find(|schema| required(schema).any(has))
}

fn required(schema: &Json) -> impl Iterator<Item = &str> {
    schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str)
}

/// Whether values of the schema are of this type; an optional one is "or null".
fn is_type(schema: &Json, wanted: &str) -> bool {
    match &schema["type"] {
        Json::Array(types) => types.iter().any(|it| it == wanted),
        only => only == wanted,
    }
}

fn is_string(schema: &Json) -> bool {
    is_type(schema, "string") || schema["const"].is_string()
}

/// The words that a string may be; none: any.
fn words(schema: &Json) -> Vec<&str> {
    let listed = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
    listed.filter_map(Json::as_str).collect()
}

/// `"allow", "deny" or { hold = … }`
fn expected(alternatives: &[&Json]) -> String {
    let mut names = Vec::new();
    for schema in alternatives {
        let words = words(schema);
        if !words.is_empty() {
            names.extend(words.iter().map(|word| format!("\"{word}\"")));
        } else if is_type(schema, "string") {
            names.push("a string".to_owned());
        } else if is_type(schema, "integer") {
            names.push("a number".to_owned());
        } else if is_type(schema, "boolean") {
            names.push("true or false".to_owned());
        } else if is_type(schema, "array") {
            names.push("an array".to_owned());
        } else if let Some(key) = required(schema)
            .next()
            .filter(|_| alternatives.len() > 1 || schema["properties"].as_object().is_some_and(|it| it.len() == 1))
        {
            names.push(format!("{{ {key} = … }}"));
        } else {
            names.push("a table".to_owned());
        }
    }
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "something else".to_owned(),
    }
}
