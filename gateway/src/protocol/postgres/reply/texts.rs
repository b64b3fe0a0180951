//! Texts of the target's that are not rows: errors, notices, settings, notifications.

use super::{COLLAPSED, Fault, close_message};
use crate::mask::{Hits, MaskedBuffer, Masker};
use crate::protocol::postgres::wire::{self, Fields, Report, Severity};

/// What a setting's value can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// One of the server's own words, or the name of a time zone.
    Known,
    /// Any text, as of `application_name`, or who knows what: it is not a setting that servers report.
    Free,
}

/// No time zone has a longer name.
const MAX_ZONE: usize = 64;

/// Settings on which the reading of statements rests must stay as they are.
pub(super) fn check_setting(message: &[u8]) -> Result<Setting, Fault> {
    let mut fields = Fields::of(message);
    let (name, value) = (fields.string()?, fields.string()?);
    fields.end()?;
    let is_known = match (name, value) {
        (b"standard_conforming_strings", value) if value != b"on" => {
            return Err(Fault::Setting("standard_conforming_strings"));
        }
        // The server keeps this other word for it as it is written.
        (b"client_encoding", value) if !matches!(value, b"UTF8" | b"UNICODE") => {
            return Err(Fault::Setting("client_encoding"));
        }
        (b"standard_conforming_strings" | b"client_encoding", _) => true,
        (b"TimeZone", value) => is_zone(value),
        (b"is_superuser" | b"in_hot_standby" | b"default_transaction_read_only" | b"integer_datetimes", value) => {
            matches!(value, b"on" | b"off")
        }
        // As of `ISO, MDY` and `sql_standard`.
        (b"DateStyle" | b"IntervalStyle", value) => {
            value.iter().all(|byte| byte.is_ascii_alphabetic() || b", _".contains(byte))
        }
        _ => false,
    };
    Ok(if is_known { Setting::Known } else { Setting::Free })
}

/// Whether what the target tells of a setting undoes that a session is to be read-only, however that came about.
pub(super) fn lets_write(message: &[u8]) -> Result<bool, Fault> {
    let mut fields = Fields::of(message);
    Ok((fields.string()?, fields.string()?) == (b"default_transaction_read_only", b"off"))
}

/// The name of a zone, or a rule as POSIX has it.
fn is_zone(value: &[u8]) -> bool {
    let begins = value.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'<');
    let is_of_zone = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+-/:<>,.".contains(byte);
    begins && value.len() <= MAX_ZONE && value.iter().all(is_of_zone)
}

/// An error as a client may see it whose text could show values of tagged columns: how bad it is, and what kind where that
/// tells nothing of values.
pub(super) fn withheld(message: &[u8], code: &str, why: &str) -> Result<Report, Fault> {
    let fields = wire::report_fields(message)?;
    let fatal = fields.iter().any(|field| matches!(field, (b'V', b"FATAL" | b"PANIC")));
    let severity = if fatal { Severity::Fatal } else { Severity::Error };
    let code = if code.starts_with("22") || code.starts_with("42") { COLLAPSED } else { code };
    Ok(Report::new(severity, code, format!("the statement failed; the target's message is withheld: {why}")))
}

/// Writes a message of strings (a report, a setting, a notification) with what detectors find in them masked.
pub(super) fn mask_strings(masker: &Masker, tag: u8, message: &[u8], out: &mut MaskedBuffer) -> Result<Hits, Fault> {
    let start = out.len();
    let hits = put_strings(masker, tag, message, out);
    if hits.is_err() {
        // Behind half a message the client would not see why its session ends.
        out.truncate(start);
    }
    hits
}

fn put_strings(masker: &Masker, tag: u8, message: &[u8], out: &mut MaskedBuffer) -> Result<Hits, Fault> {
    let start = out.len();
    let mut hits = Hits::default();
    let mut fields = Fields::of(message);
    out.framing([tag, 0, 0, 0, 0]);
    let mut string = |text: &[u8], out: &mut MaskedBuffer| {
        let cell = masker.mask_text(text);
        hits.add(cell.hits);
        out.cell(&cell);
        out.framing([0]);
    };
    match tag {
        b'E' | b'N' => {
            for (letter, text) in wire::report_fields(message)? {
                out.framing([letter]);
                string(text, out);
            }
            out.framing([0]);
        }
        b'A' => {
            out.framing(fields.u32()?.to_be_bytes());
            string(fields.string()?, out);
            string(fields.string()?, out);
        }
        _ => {
            string(fields.string()?, out);
            string(fields.string()?, out);
        }
    }
    close_message(out, start)?;
    Ok(hits)
}
