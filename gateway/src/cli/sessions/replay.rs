//! `weir sessions replay`: what a client sent and what it got back, after masking, at the pace it happened.

use std::path::Path;
use std::time::Duration;

use super::super::output::{Colour, Error, Out, clean, plural};
use super::super::time;
use crate::admin::client::ask_all;
use crate::admin::{Request, Step};
use crate::ids::SessionId;
use crate::policy::Gate;

/// Nobody wants to watch an agent think for longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Without a speed there are no pauses.
pub(super) fn run(gateway: &Path, id: SessionId, speed: Option<f64>, out: &mut Out) -> Result<u8, Error> {
    // All of it first: the gateway does not wait for a slow replay.
    let steps: Vec<Step> = ask_all(gateway, Request::Replay { id })?;
    if out.json {
        out.json(&steps)?;
        return Ok(0);
    }
    let mut now_us = 0;
    for step in &steps {
        if let (Some(speed), Step::Statement { at_us, .. } | Step::Replied { at_us, .. }) = (speed, step) {
            out.finish()?;
            std::thread::sleep(pause(at_us.saturating_sub(now_us), speed));
            now_us = (*at_us).max(now_us);
        }
        show(step, out)?;
    }
    Ok(0)
}

fn pause(us: u64, speed: f64) -> Duration {
    Duration::try_from_secs_f64(Duration::from_micros(us).as_secs_f64() / speed)
        .unwrap_or(LONGEST_PAUSE)
        .min(LONGEST_PAUSE)
}

fn show(step: &Step, out: &mut Out) -> Result<(), Error> {
    match step {
        Step::Opened { agent, target, at_unix_ns } => {
            let line = format!("{} on {}, {}", clean(agent), clean(target), time::both(at_unix_ns / 1_000_000));
            out.line(out.paint(Colour::Dim, line))
        }
        Step::Statement { text, parameters, verdict, at_us, .. } => {
            out.line("")?;
            let at = out.paint(Colour::Dim, format!("+{}", time::micros(*at_us)));
            out.line(format!("{at}  {}", out.paint(Colour::Bold, "sent")))?;
            out.foreign(text)?;
            if let Some(parameters) = parameters {
                out.line("  with parameters")?;
                out.foreign(parameters)?;
            }
            match verdict {
                Gate::Allow { .. } => Ok(()),
                Gate::Hold { .. } => out.line(out.paint(Colour::Yellow, format!("  {}", clean(verdict)))),
                Gate::Deny { .. } => out.line(out.paint(Colour::Red, format!("  {}", clean(verdict)))),
            }
        }
        Step::Reply { lines, .. } => lines.iter().try_for_each(|line| out.line(format!("  < {}", clean(line)))),
        Step::Replied { outcome, rows, cells_masked, truncated, at_us, .. } => {
            let cut = if *truncated { ", recorded in part" } else { "" };
            let counts = format!("{}, {} masked{cut}", plural(*rows, "row"), plural(*cells_masked, "cell"));
            let line = format!("+{}  {}, {counts}", time::micros(*at_us), clean(outcome));
            out.line(out.paint(Colour::Dim, line))
        }
        Step::Closed { outcome } => {
            out.line("")?;
            out.line(out.paint(Colour::Dim, format!("closed: {}", clean(outcome))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_speed_and_end() {
        assert_eq!(pause(1_000_000, 2.0), Duration::from_millis(500));
        assert_eq!(pause(1_000_000, 0.5), Duration::from_secs(2));
        assert_eq!(pause(u64::MAX, 0.001), LONGEST_PAUSE);
        assert_eq!(pause(0, 1.0), Duration::ZERO);
    }
}
