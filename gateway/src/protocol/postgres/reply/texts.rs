//! Texts of the target's that are not rows: errors, notices, settings, notifications.

use super::{COLLAPSED, Fault, close_message};
use crate::mask::{Hits, MaskedBuffer, Masker};
use crate::protocol::postgres::wire::{self, Fields, Report, Severity};

/// Settings on which the reading of statements rests must stay as they are.
pub(super) fn check_setting(message: &[u8]) -> Result<(), Fault> {
    let mut fields = Fields::of(message);
    match (fields.string()?, fields.string()?) {
        (b"standard_conforming_strings", value) if value != b"on" => Err(Fault::Setting("standard_conforming_strings")),
        // The server keeps this other word for it as it is written.
        (b"client_encoding", value) if !matches!(value, b"UTF8" | b"UNICODE") => Err(Fault::Setting("client_encoding")),
        _ => Ok(()),
    }
}

/// An error as a client may see it whose text could show values of tagged columns: how bad it is, and what kind where that
/// tells nothing of values.
pub(super) fn withheld(message: &[u8], code: &str, why: &str) -> Result<Report, Fault> {
    let fields = wire::report_fields(message)?;
    let fatal = fields.iter().any(|(letter, text)| *letter == b'V' && *text != b"ERROR");
    let severity = if fatal { Severity::Fatal } else { Severity::Error };
    let code = if code.starts_with("22") || code.starts_with("42") { COLLAPSED } else { code };
    Ok(Report::new(severity, code, format!("the statement failed; the target's message is withheld: {why}")))
}

/// Writes a message of strings (a report, a setting, a notification) with what detectors find in them masked.
pub(super) fn mask_strings(masker: &Masker, tag: u8, message: &[u8], out: &mut MaskedBuffer) -> Result<Hits, Fault> {
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
