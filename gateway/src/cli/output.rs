//! What all commands share: where the output goes, tables, colours, errors, and how the running gateway is found.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use terminal_size::{Width, terminal_size_of};

use crate::admin::client::ClientError;
use crate::config::{self, Config};
use crate::show;

/// Where the admin socket is unless the configuration says otherwise.
const RUNTIME_DIR: &str = "/run/weir";
/// Bytes of a configuration file that are looked at for the runtime directory.
const MAX_CONFIG: u64 = 1024 * 1024;

/// Why a command could not do its work. Its `Display` says what to do where there is something to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Message(String),
    #[error("{0}")]
    Other(Box<dyn std::error::Error>),
}

impl Error {
    pub(super) fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    pub(super) fn other(error: impl std::error::Error + 'static) -> Self {
        Self::Other(Box::new(error))
    }

    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error and what caused it, without saying anything twice.
    pub(super) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = match self {
            Self::Other(error) => error.source(),
            Self::Client(error) => std::error::Error::source(error),
            Self::Io(_) | Self::Message(_) => None,
        };
        while let Some(error) = source {
            let cause = error.to_string();
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
            source = error.source();
        }
        text
    }
}

/// What stands before each line of a text of others', before what is left of a line that is too long for the terminal, and
/// where lines without anything on them were.
const BAR: &str = "  | ";
const MORE: &str = "  : ";
const LEFT_OUT: &str = "  … ";
/// Where a line of ours goes on that is too long for the terminal.
const INDENT: &str = "      ";
/// A terminal with fewer columns is taken for one with so many.
const FEWEST_COLUMNS: usize = 40;
/// Columns that a tab takes at most.
const TAB: usize = 8;

/// Standard output. On a terminal no line is longer than that is wide: it would go on where our own lines begin.
pub(super) struct Out {
    pub(super) json: bool,
    colour: bool,
    /// Of the terminal, if whoever reads has one.
    columns: Option<usize>,
    to: BufWriter<Stdout>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

impl Out {
    pub(super) fn new(json: bool) -> Self {
        let colour = !json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        // `weir approvals show 7 | less` has a terminal, too.
        let copy = io::stdout().as_fd().try_clone_to_owned();
        let is_pipe = copy.and_then(|fd| File::from(fd).metadata()).is_ok_and(|it| it.file_type().is_fifo());
        let size = terminal_size_of(io::stdout()).or_else(|| is_pipe.then(|| terminal_size_of(io::stderr())).flatten());
        let columns = size.filter(|_| !json).map(|(Width(columns), _)| columns.into());
        Self { json, colour, columns, to: BufWriter::new(io::stdout()) }
    }

    pub(super) fn finish(&mut self) -> Result<(), Error> {
        Ok(self.to.flush()?)
    }

    /// A line of our own words. What others wrote goes through [`clean`] first.
    pub(super) fn line(&mut self, text: impl Display) -> Result<(), Error> {
        for line in text.to_string().split('\n') {
            let mut parts = fold(line, self.columns, INDENT.len()).into_iter();
            writeln!(self.to, "{}", parts.next().unwrap_or_default())?;
            parts.try_for_each(|part| writeln!(self.to, "{INDENT}{part}"))?;
        }
        Ok(())
    }

    /// Text of several lines that others wrote, all of it: its lines stand behind a bar, and cannot be taken for ours.
    pub(super) fn foreign(&mut self, text: &str) -> Result<(), Error> {
        let lines = behind_bar(text, self.columns);
        Ok(lines.iter().try_for_each(|line| writeln!(self.to, "{line}"))?)
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.to.write_all(bytes)?)
    }

    /// The whole answer of a command, where JSON was asked for.
    pub(super) fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        self.line(show::escape_json(&text))
    }

    pub(super) fn paint(&self, colour: Colour, text: impl Display) -> String {
        let code = match colour {
            Colour::Plain => return text.to_string(),
            Colour::Bold => 1,
            Colour::Dim => 2,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(super) fn table(&mut self, table: &Table) -> Result<(), Error> {
        let widths: Vec<usize> = (0..table.head.len())
            .map(|column| {
                let cells = table.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(&cell.text));
                cells.chain([width(table.head[column])]).max().unwrap_or(0)
            })
            .collect();
        let head: Vec<Cell> = table.head.iter().map(|title| Cell::new(Colour::Bold, *title)).collect();
        for row in std::iter::once(&head).chain(&table.rows) {
            let mut line = String::new();
            for (index, (cell, wide)) in row.iter().zip(&widths).enumerate() {
                line += &self.paint(cell.colour, &cell.text);
                if index + 1 < row.len() {
                    line += &" ".repeat(wide.saturating_sub(width(&cell.text)) + 2);
                }
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// `name   value` lines, the values in one column, each on one line.
    pub(super) fn fields(&mut self, fields: &[(&str, String)]) -> Result<(), Error> {
        let wide = fields.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
        for (name, value) in fields {
            let name = self.paint(Colour::Dim, format!("{name:<wide$}"));
            // What is longer than the terminal is wide stays in its column.
            let mut parts = fold(value, self.columns, wide + 2).into_iter();
            writeln!(self.to, "{name}  {}", parts.next().unwrap_or_default())?;
            parts.try_for_each(|part| writeln!(self.to, "{}{part}", " ".repeat(wide + 2)))?;
        }
        Ok(())
    }
}

/// Rows under a head; cells are one line and clean.
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

pub(super) struct Cell {
    colour: Colour,
    text: String,
}

impl Cell {
    pub(super) fn new(colour: Colour, text: impl Into<String>) -> Self {
        Self { colour, text: text.into() }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(Colour::Plain, text)
    }
}

impl Table {
    pub(super) fn new<const N: usize>(head: [&'static str; N]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// What others wrote, on one line: nothing in it can move the cursor, reorder text or look like ours.
pub(super) fn clean(text: impl Display) -> String {
    show::escape(&text.to_string())
}

/// The same for text of several lines, which can look like ours: for what the gateway wrote, and [`Out::foreign`] for the rest.
pub(super) fn clean_lines(text: &str) -> String {
    show::shown(text).lines().to_string()
}

/// Lines as [`Out::foreign`] shows them.
fn behind_bar(text: &str, columns: Option<usize>) -> Vec<String> {
    let mut shown = Vec::new();
    let mut empty = 0;
    let text = clean_lines(text);
    for line in text.lines().map(Some).chain([None]) {
        if line.is_some_and(|line| line.trim().is_empty()) {
            empty += 1;
            continue;
        }
        match std::mem::take(&mut empty) {
            0 => {}
            1 => shown.push(BAR.trim_end().to_owned()),
            several => shown.push(format!("{LEFT_OUT}{several} empty lines")),
        }
        let parts = fold(line.unwrap_or_default(), columns, BAR.len());
        let marks = std::iter::once(BAR).chain(std::iter::repeat(MORE));
        shown.extend(marks.zip(parts).filter(|_| line.is_some()).map(|(mark, part)| format!("{mark}{part}")));
    }
    shown
}

/// A line in parts, each of which fits into the terminal when it has been indented by so much. What is no ASCII counts as wide, and
/// what colours as nothing.
fn fold(line: &str, columns: Option<usize>, indented: usize) -> Vec<&str> {
    let Some(columns) = columns else { return vec![line] };
    let room = columns.max(FEWEST_COLUMNS).saturating_sub(indented).max(TAB);
    let (mut parts, mut start, mut used, mut colours) = (Vec::new(), 0, 0, false);
    for (at, c) in line.char_indices() {
        colours |= c == '\x1b';
        let wide = match c {
            _ if colours => 0,
            '\t' => TAB,
            _ if c.is_ascii() => 1,
            _ => 2,
        };
        colours &= c != 'm';
        if used + wide > room {
            parts.push(&line[start..at]);
            (start, used) = (at, 0);
        }
        used += wide;
    }
    parts.push(&line[start..]);
    parts
}

/// One line of at most so many characters.
pub(super) fn shorten(text: &str, most: usize) -> String {
    let line = clean(text.split_whitespace().collect::<Vec<_>>().join(" "));
    if width(&line) <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

pub(super) fn plural(count: u64, one: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    }
}

pub(super) fn or_none(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { clean(items.join(", ")) }
}

/// The configuration as the gateway would take it.
pub(super) fn load(config: &Path) -> Result<Config, Error> {
    config::load(config).map_err(Error::other)
}

/// Where the gateway of this configuration has its socket. Works while the configuration is broken, since that is when
/// the running gateway has to be asked.
pub(super) fn runtime_dir(config: &Path) -> PathBuf {
    let beside = config.parent().unwrap_or(Path::new(".")).join("conf.d");
    let mut parts: Vec<PathBuf> = std::fs::read_dir(beside)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    parts.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    std::iter::once(config.to_owned())
        .chain(parts)
        .find_map(|path| runtime_dir_in(&path))
        .unwrap_or_else(|| PathBuf::from(RUNTIME_DIR))
}

fn runtime_dir_in(path: &Path) -> Option<PathBuf> {
    use io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_CONFIG).read_to_string(&mut text).ok()?;
    let table: toml::Table = text.parse().ok()?;
    Some(PathBuf::from(table.get("gateway")?.get("runtime_dir")?.as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_deceive() {
        for deceiving in ["a\x1b[2Jb", "a\rb", "a\u{202e}b", "a\u{200b}b"] {
            for shown in [clean(deceiving), clean_lines(deceiving), shorten(deceiving, 50)] {
                assert!(shown.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{shown:?}");
            }
        }
        assert!(!clean("a\nb").contains('\n'));
        assert_eq!(clean_lines("a\nb"), "a\nb");
        assert_eq!(shorten("SELECT  1,\n 2", 10), "SELECT 1,…");
        assert_eq!(shorten("Größe", 5), "Größe");
    }

    #[test]
    fn no_line_of_others_is_one_of_ours() {
        let forged = "DELETE FROM orders /*\n\nwhich is understood as\n\tSELECT 1\r\n\n\n \t\n*/\n\n";
        let shown = behind_bar(forged, None);
        let expected = [
            "  | DELETE FROM orders /*",
            "  |",
            "  | which is understood as",
            "  | \tSELECT 1\\r",
            "  … 3 empty lines",
            "  | */",
            "  |",
        ];
        assert_eq!(shown, expected);
        assert_eq!(behind_bar(&"\n".repeat(5000), None), ["  … 5000 empty lines"]);
        assert_eq!(behind_bar("SELECT 1", None), ["  | SELECT 1"]);
    }

    #[test]
    fn lines_end_before_the_terminal_does() {
        let line = format!("SELECT 1 {} approved by root", " ".repeat(100));
        let shown = behind_bar(&line, Some(60));
        assert!(shown.len() == 3 && shown.iter().all(|it| width(it) <= 60), "{shown:?}");
        assert!(shown[0].starts_with(BAR) && shown[1..].iter().all(|it| it.starts_with(MORE)), "{shown:?}");
        assert_eq!(fold(&line, Some(60), 4).concat(), line);
        assert_eq!(fold(&"東".repeat(50), Some(54), 4).len(), 2, "what is wide is not in the terminal twice as often");
        assert_eq!(fold(&format!("\x1b[31m{}\x1b[0m", "x".repeat(40)), Some(40), 0).len(), 1, "colours take no room");
        assert_eq!(fold("", Some(80), 4), [""]);
        assert_eq!(fold(&"x".repeat(500), None, 4).len(), 1);
    }

    #[test]
    fn the_running_gateway_is_found_though_the_configuration_is_broken() {
        let dir = std::env::temp_dir().join(format!("weir-cli-runtime-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("conf.d")).unwrap();
        let config = dir.join("weir.toml");
        assert_eq!(runtime_dir(&config), PathBuf::from(RUNTIME_DIR), "nothing is there");
        std::fs::write(&config, "[gateway]\nnonsense = 1\nruntime_dir = \"/run/other\"\n").unwrap();
        assert_eq!(runtime_dir(&config), PathBuf::from("/run/other"));
        std::fs::write(&config, "[[[").unwrap();
        std::fs::write(dir.join("conf.d/a.toml"), "[gateway]\nruntime_dir = \"/run/third\"\n").unwrap();
        assert_eq!(runtime_dir(&config), PathBuf::from("/run/third"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
