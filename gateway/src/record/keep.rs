//! Keeping to the configured age and size: whole segments go, oldest first, and each leaves a record with its last hash.

use std::path::Path;
use std::time::SystemTime;

use super::event::Event;
use super::read::Reader;
use super::{RecordError, Recorder, segment_numbers, segment_path};
use crate::config::RecordingConfig;

/// Deletes what is too old or too much; never the segment that is being written.
pub(super) fn sweep(directory: &Path, recorder: &Recorder, config: &RecordingConfig) -> Result<(), RecordError> {
    let numbers = segment_numbers(directory)?;
    let mut sizes = Vec::new();
    for &number in &numbers {
        let path = segment_path(directory, number);
        let failed = |error| RecordError::io(&format!("reading {}", path.display()), &error);
        let metadata = std::fs::metadata(&path).map_err(failed)?;
        let age = metadata.modified().map_err(failed)?;
        sizes.push((number, metadata.len(), SystemTime::now().duration_since(age).unwrap_or_default()));
    }
    let mut total: u64 = sizes.iter().map(|(_, len, _)| len).sum();
    sizes.pop();
    for (number, len, age) in sizes {
        if age <= config.keep && total <= config.max_size {
            break;
        }
        delete(directory, recorder, number)?;
        total -= len;
    }
    Ok(())
}

fn delete(directory: &Path, recorder: &Recorder, number: u64) -> Result<(), RecordError> {
    let path = segment_path(directory, number);
    let (mut last_hash, mut records) = (Vec::new(), 0);
    if let Ok(mut reader) = Reader::open(&path) {
        last_hash = reader.header().previous.to_vec();
        while let Ok(Some(frame)) = reader.next(None) {
            last_hash = frame.hash.to_vec();
            records += 1;
        }
    }
    recorder.append_now(Event::SegmentDeleted { segment: number, last_hash, records });
    std::fs::remove_file(&path).map_err(|error| RecordError::io(&format!("deleting {}", path.display()), &error))
}
