//! Times for people: where they are, and how long ago.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// So long ago, in nanoseconds since the epoch.
pub(super) fn ago_ns(span: std::time::Duration) -> u64 {
    now().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)).saturating_mul(1_000_000)
}

/// `2026-11-21 09:05:19 (3 min ago)`, in the local time zone.
pub(super) fn both(unix_ms: u64) -> String {
    format!("{} ({})", local(unix_ms), relative(unix_ms, now()))
}

/// `2026-11-21 09:05:19`, in the local time zone.
pub(super) fn local(unix_ms: u64) -> String {
    match broken_down(unix_ms) {
        Some(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
            i64::from(t.tm_year) + 1900,
            t.tm_mon + 1,
            t.tm_mday,
            t.tm_hour,
            t.tm_min,
            t.tm_sec
        ),
        None => format!("{unix_ms} ms"),
    }
}

fn broken_down(unix_ms: u64) -> Option<libc::tm> {
    // Of the call's own type, which the crate does not want to be named where it has changed (musl).
    let seconds = (unix_ms / 1000).try_into().ok()?;
    // SAFETY: all-zero bytes are a value of this plain struct of integers and a pointer that is not followed.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call, which keeps neither.
    let result = unsafe { libc::localtime_r(&raw const seconds, &raw mut time) };
    (!result.is_null()).then_some(time)
}

/// `3 min ago`, `in 40 s`, `now`.
pub(super) fn relative(unix_ms: u64, now: u64) -> String {
    match (now.abs_diff(unix_ms) / 1000, unix_ms > now) {
        (0, _) => "now".to_owned(),
        (seconds, true) => format!("in {}", span(seconds)),
        (seconds, false) => format!("{} ago", span(seconds)),
    }
}

/// `850 ns`, `2.1 µs`, and so on as [`micros`].
pub(super) fn nanos(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..10_000 => format!("{}.{} µs", ns / 1_000, ns / 100 % 10),
        _ => micros(ns / 1_000),
    }
}

/// `40 s`, `3 min`, `5 h`, `12 d`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `90s`, `15m`, `2h`, `1d`, or plain seconds: how durations are typed.
pub(super) fn parse_span(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => return Err(format!("{other:?} is no unit of time: use s, m, h or d, as in 15m")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is no duration: 90s, 15m, 2h or 1d is"))?;
    let seconds = count.checked_mul(unit).ok_or_else(|| format!("{text:?} is too long"))?;
    Ok(std::time::Duration::from_secs(seconds))
}

/// Microseconds as `12.3 ms`.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        assert_eq!(relative(1_000_000, 1_000_500), "now");
        assert_eq!(relative(1_000_000, 1_090_000), "90 s ago");
        assert_eq!(relative(1_000_000, 1_300_000), "5 min ago");
        assert_eq!(relative(9_000_000, 1_000_000), "in 2 h");
        assert_eq!(relative(0, 1_000_000_000), "11 d ago");
        assert_eq!(local(1_780_000_000_000).len(), "2026-05-28 20:26:40".len());
        assert_eq!([nanos(850), nanos(2_190), nanos(12_345_678)], ["850 ns", "2.1 µs", "12.3 ms"]);
        assert_eq!([micros(7), micros(12_345), micros(3_210_000)], ["7 µs", "12.3 ms", "3.21 s"]);
    }

    #[test]
    fn durations_are_typed_with_a_unit() {
        let seconds = |text| parse_span(text).map(|duration| duration.as_secs());
        assert_eq!(
            [seconds("90s"), seconds("15m"), seconds("2h"), seconds("1d"), seconds("7")],
            [90, 900, 7200, 86_400, 7].map(Ok)
        );
        for bad in ["", "m", "15x", "-1m", "1.5h", "99999999999999999999d", "999999999999999999d"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }
}
