//! From files to a [`Config`], or to everything that is wrong with them.
//!
//! Files are read with bounds, parsed (all syntax errors), checked against the schema (all shape errors), and resolved (all
//! errors of meaning). Each step works on what the one before left whole, so one run reports as much as can be known.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::de::{DeTable, Deserializer};

use super::raw::RawConfig;
use super::resolve::Resolver;
use super::{Config, schema};
use crate::show;

/// The largest configuration file.
const MAX_FILE: u64 = 1 << 20;

/// Files in `conf.d`.
const MAX_FILES: usize = 256;
/// What is in `conf.d`, with what is no part of the configuration.
const MAX_ENTRIES: usize = 4 * MAX_FILES;

/// Problems that are reported; more are counted.
const MAX_PROBLEMS: usize = 200;

/// Characters of one problem's text: a file's own words may be in it.
const MAX_MESSAGE: usize = 1_000;

/// Of the hash that names a configuration.
const VERSION_DIGITS: usize = 16;

/// One file of the configuration.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// Something that is wrong, or odd, and where.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub file: PathBuf,
    /// From 1; 0 where it is about the whole file.
    pub line: usize,
    /// Characters, from 1; 0 where it is about the whole file.
    pub column: usize,
    /// Such as `target.orders.address[0]`.
    pub key: String,
    pub message: String,
}

/// All that is wrong. Its text has one line for each problem.
#[derive(Debug)]
pub struct ConfigErrors {
    pub problems: Vec<Problem>,
}

/// Reads, checks and resolves a configuration file and `conf.d/*.toml` next to it.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    check(path).map(|(config, _)| config)
}

/// As [`load`], with what is odd about a configuration that is right: rules that do nothing, addresses used twice.
pub fn check(path: &Path) -> Result<(Config, Vec<Problem>), ConfigErrors> {
    let mut problems = Vec::new();
    let sources: Vec<Source> = files(path, &mut problems)
        .into_iter()
        .filter_map(|path| match read(&path) {
            Ok(text) => Some(Source { path, text }),
            Err(problem) => {
                problems.push(problem);
                None
            }
        })
        .collect();
    match parse(&sources, &uid_of) {
        Ok(checked) if problems.is_empty() => Ok(checked),
        Ok(_) => Err(ConfigErrors { problems }),
        // Without its main file a configuration lacks everything: say only why it cannot be read.
        Err(_) if !sources.iter().any(|source| source.path == path) => Err(ConfigErrors { problems }),
        Err(errors) => {
            problems.extend(errors.problems);
            Err(ConfigErrors { problems })
        }
    }
}

/// As [`check`], from texts. `uid_of` knows the host's users by name. Does no I/O.
pub fn parse(sources: &[Source], uid_of: &dyn Fn(&str) -> Option<u32>) -> Result<(Config, Vec<Problem>), ConfigErrors> {
    let schema = schema::json_schema();
    let mut reports = Reports { sources, problems: Vec::new() };
    let mut resolver = Resolver::new(uid_of);
    for (file, source) in sources.iter().enumerate() {
        let (mut table, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            reports.add(file, error.span().unwrap_or(0..0), "", error.message());
        }
        resolver.note_names(table.get_ref());
        // What a broken line left may look wrong without being so.
        let faults = schema::check(&schema, &mut table);
        resolver.note_faults(file, &faults);
        if errors.is_empty() {
            for fault in faults {
                reports.add(file, fault.span, &fault.key, &fault.message);
            }
        }
        match RawConfig::deserialize(Deserializer::from(table)) {
            Ok(raw) => resolver.add(file, raw),
            Err(error) if reports.problems.is_empty() => {
                reports.add(file, error.span().unwrap_or(0..0), "", error.message());
            }
            Err(_) => {}
        }
    }
    let (config, faults, warnings) = resolver.finish(version(sources));
    for (file, fault) in faults {
        reports.add(file, fault.span, &fault.key, &fault.message);
    }
    if !reports.problems.is_empty() {
        return Err(ConfigErrors { problems: reports.sorted() });
    }
    let mut warned = Reports { sources, problems: Vec::new() };
    for (file, fault) in warnings {
        warned.add(file, fault.span, &fault.key, &fault.message);
    }
    Ok((config, warned.sorted()))
}

/// The JSON Schema of the configuration, for editors.
pub fn json_schema() -> String {
    let schema = schema::json_schema();
    serde_json::to_string_pretty(&schema).unwrap_or_else(|_| schema.to_string())
}

fn version(sources: &[Source]) -> String {
    let mut hasher = Sha256::new();
    for source in sources {
        hasher.update((source.text.len() as u64).to_le_bytes());
        hasher.update(source.text.as_bytes());
    }
    let mut version = format!("{:x}", hasher.finalize());
    version.truncate(VERSION_DIGITS);
    version
}

/// The main file, and those of `conf.d` by name.
fn files(path: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let directory = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let mut more = Vec::new();
    match fs::read_dir(&directory) {
        Ok(entries) => {
            for (number, entry) in entries.enumerate() {
                if number >= MAX_ENTRIES {
                    // The rest may have a rule that denies.
                    problems.push(Problem::of_file(&directory, format!("has more than {MAX_ENTRIES} entries")));
                    break;
                }
                match entry {
                    Ok(entry) => more.push(entry.path()),
                    Err(error) => problems.push(Problem::of_file(&directory, format!("cannot be listed: {error}"))),
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => problems.push(Problem::of_file(&directory, format!("cannot be listed: {error}"))),
    }
    let hidden = |path: &PathBuf| path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    more.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && !hidden(path));
    if more.len() > MAX_FILES {
        problems.push(Problem::of_file(&directory, format!("has more than {MAX_FILES} files")));
        more.clear();
    }
    more.sort();
    let mut files = vec![path.to_owned()];
    files.extend(more);
    files
}

/// A regular file of bounded size. A FIFO or a device is not waited for.
fn read(path: &Path) -> Result<String, Problem> {
    let problem = |message: String| Problem::of_file(path, message);
    let open = |path: &Path| -> io::Result<(File, fs::Metadata)> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    let (file, metadata) = open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => problem("there is no such file; `weir init` writes a first one".to_owned()),
        _ => problem(format!("cannot be read: {error}")),
    })?;
    if !metadata.is_file() {
        return Err(problem("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| problem(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(problem(format!("is larger than {} KiB", MAX_FILE >> 10)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        let (line, column) = position(&text, valid);
        Problem { line, column, ..problem("is not UTF-8 text from here on".to_owned()) }
    })
}

fn uid_of(name: &str) -> Option<u32> {
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

struct Reports<'a> {
    sources: &'a [Source],
    problems: Vec<Problem>,
}

impl Reports<'_> {
    fn add(&mut self, file: usize, span: Range<usize>, key: &str, message: &str) {
        if self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let Some(source) = self.sources.get(file) else { return };
        let (line, column) = position(&source.text, span.start);
        let message = show::shown(message).limit(MAX_MESSAGE).to_string();
        self.problems.push(Problem { file: source.path.clone(), line, column, key: key.to_owned(), message });
    }

    /// In the order of the files' lines.
    fn sorted(mut self) -> Vec<Problem> {
        let file = |problem: &Problem| self.sources.iter().position(|source| source.path == problem.file);
        self.problems.sort_by_key(|problem| (file(problem), problem.line, problem.column));
        self.problems.dedup();
        self.problems
    }
}

/// Line and column (in characters) of a byte, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl Problem {
    fn of_file(file: &Path, message: String) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, key: String::new(), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", show::shown(self.file.as_os_str().as_encoded_bytes()))?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        if self.problems.len() >= MAX_PROBLEMS {
            write!(f, "\nand perhaps more: {MAX_PROBLEMS} are shown")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
