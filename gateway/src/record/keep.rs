//! Keeping to the configured age and size: whole segments go, oldest first, and each leaves a record with its last hash, so
//! that the chain can still be proven from where it now begins.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::event::Event;
use super::read::{ReadError, Reader};
use super::{RecordError, Recorder, segment_numbers, segment_path};
use crate::config::RecordingConfig;

/// Deletes what is too old or too much; never the segment that is being written. Blocks.
pub(super) fn sweep(directory: &Path, recorder: &Recorder, config: &RecordingConfig) -> Result<(), RecordError> {
    let numbers = segment_numbers(directory)?;
    let mut total = 0;
    for &number in &numbers {
        total += size(directory, number)?;
    }
    for pair in numbers.windows(2) {
        // Its last record is no younger than the segment that came after it.
        if total <= config.max_size && age(directory, pair[1])? <= config.keep {
            break;
        }
        total -= size(directory, pair[0])?;
        delete(directory, recorder, pair[0])?;
    }
    Ok(())
}

fn size(directory: &Path, number: u64) -> Result<u64, RecordError> {
    let path = segment_path(directory, number);
    let metadata = std::fs::metadata(&path).map_err(|error| failed("reading", &path, &error))?;
    Ok(metadata.len())
}

/// Since the segment was begun. Of one that does not say, no age is known.
fn age(directory: &Path, number: u64) -> Result<Duration, RecordError> {
    let path = segment_path(directory, number);
    match Reader::open(&path) {
        Ok(reader) => {
            let created = UNIX_EPOCH + Duration::from_nanos(reader.header().created_unix_ns);
            Ok(SystemTime::now().duration_since(created).unwrap_or_default())
        }
        Err(ReadError::Io(error)) => Err(failed("reading", &path, &error)),
        Err(ReadError::Frame { .. }) => Ok(Duration::ZERO),
    }
}

fn delete(directory: &Path, recorder: &Recorder, number: u64) -> Result<(), RecordError> {
    let path = segment_path(directory, number);
    let (mut last_hash, mut records) = ([0; 32], 0);
    if let Ok(mut reader) = Reader::open(&path) {
        last_hash = reader.header().hash();
        while let Ok(Some(frame)) = reader.next(None) {
            last_hash = frame.hash;
            records += 1;
        }
    }
    // Durable first: a segment that is gone without a record is what `verify` calls truncated.
    recorder.append_durable_blocking(&Event::SegmentDeleted {
        segment: number,
        last_hash: last_hash.to_vec(),
        records,
    })?;
    std::fs::remove_file(&path).map_err(|error| failed("deleting", &path, &error))
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> RecordError {
    RecordError::io(&format!("{doing} {}", path.display()), error)
}
