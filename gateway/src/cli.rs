//! The command line: what operators, approvers and auditors type. Each command is a file below; here are their names, their
//! arguments and their help, which is written to be learnt from.
//!
//! Commands about what happens now ask the running gateway through the admin socket; commands about configuration and
//! recordings work from the files alone. Exit codes: 0 is yes, 1 is no, 2 is a usage error; `verify` has its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::ids::{OperationId, SessionId};
use crate::telemetry;

mod approvals;
mod check;
mod complete;
mod denials;
mod doctor;
mod explain;
mod init;
mod kernel;
mod output;
mod procfs;
mod run;
mod sessions;
mod status;
mod time;
mod verify;
mod which;

use output::{Error, Out};

/// The boundary between AI agents and the infrastructure they touch.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Start with `weir init`, then `weir check` and `weir doctor`. `weir help COMMAND` has examples.",
    disable_help_subcommand = false
)]
pub struct Cli {
    /// The configuration file; `conf.d/*.toml` beside it belong to it.
    #[arg(long, global = true, value_name = "PATH", default_value = "/etc/weir/weir.toml")]
    config: PathBuf,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a starting configuration from what runs on this host.
    #[command(after_long_help = init::HELP)]
    Init(init::Init),
    /// Say everything that is wrong with the configuration.
    #[command(after_long_help = check::HELP)]
    Check,
    /// Say whether this host is able to hold agents, and whether anything is a way around.
    #[command(after_long_help = doctor::HELP)]
    Doctor(doctor::Doctor),
    /// Run the gateway (what weir.service does).
    #[command(after_long_help = SERVE_HELP)]
    Serve {
        /// At SIGTERM, leave the listeners to the next gateway and go on with the sessions that are open.
        #[arg(long)]
        replaceable: bool,
        /// The process that `--replaceable` made.
        #[arg(long, hide = true, value_name = "PID", conflicts_with = "replaceable")]
        supervised_by: Option<i32>,
    },
    /// The privileged half of the daemon; `serve` starts it.
    #[command(hide = true)]
    Witness,
    /// Enters network namespaces for the witness, which starts it.
    #[command(hide = true)]
    Usher,
    /// An agent for a moment, for `doctor`, which starts it.
    #[command(hide = true)]
    Trial,
    /// Attach the kernel half, or say how it is.
    #[command(after_long_help = kernel::KERNEL_HELP)]
    Kernel(kernel::Kernel),
    /// Let agents pass unjudged for a time: the emergency exit, for host root.
    #[command(after_long_help = kernel::DETACH_HELP)]
    Detach(kernel::Detach),
    /// Run a command as an agent, in a cgroup of its own.
    #[command(after_long_help = run::HELP)]
    Run(run::Run),
    /// What policy would say of a statement; nothing runs.
    #[command(after_long_help = explain::EXPLAIN_HELP)]
    Explain(explain::Explain),
    /// Why an operation was decided as it was, and what would change that.
    #[command(after_long_help = explain::WHY_HELP)]
    Why {
        /// The ID that the denial printed.
        id: OperationId,
    },
    /// What the gateway does at this moment.
    #[command(after_long_help = status::HELP)]
    Status,
    /// Read the configuration again; all of it or nothing.
    #[command(after_long_help = RELOAD_HELP)]
    Reload,
    /// What happened: sessions, their statements and what came back.
    #[command(after_long_help = sessions::HELP, args_conflicts_with_subcommands = true)]
    Sessions(sessions::Sessions),
    /// What was denied: connections, statements, names, and what the kernel half refused.
    #[command(after_long_help = denials::HELP)]
    Denials(denials::Denials),
    /// What waits for an approver.
    #[command(after_long_help = approvals::HELP)]
    Approvals(approvals::Approvals),
    /// Let a waiting operation run, once.
    #[command(after_long_help = approvals::APPROVE_HELP)]
    Approve(approvals::Vote),
    /// Refuse a waiting operation.
    #[command(after_long_help = approvals::DENY_HELP)]
    Deny(approvals::Vote),
    /// Prove the recordings whole.
    #[command(after_long_help = verify::HELP)]
    Verify(verify::Verify),
    /// Print completions for a shell.
    #[command(after_long_help = complete::HELP)]
    Completions { shell: clap_complete::Shell },
    /// Write manual pages into a directory.
    #[command(hide = true)]
    Man { directory: PathBuf },
}

const SERVE_HELP: &str = "\
It starts as root, or with the capabilities that weir.service grants, leaves the privileged work to its witness, and gives every privilege up before it reads a byte from \
anybody. Stopping it does not free the agents: they are refused until it runs again (`weir detach` is the way out).

With --replaceable, a gateway that is told to stop waits half a minute for the next one, which takes its listeners over, and then goes on with the sessions that are open for `[gateway] drain` at most: a restart that no agent notices. It ends at once at a second SIGTERM (`systemctl kill weir`).

Examples:
  weir serve --replaceable                as weir.service does
  weir serve                              in the foreground
  WEIR_LOG=debug weir serve               with more to read
  WEIR_LOG=weir::identity=trace,info weir serve
  WEIR_LOG_FORMAT=json weir serve         lines for log shippers";

const RELOAD_HELP: &str = "\
The same as `systemctl reload weir`, but says what is wrong. Live sessions get the new rules with their next operation; \
where masks changed, they end, so that a tightened mask leaves no session unmasked.

Examples:
  weir check && weir reload";

/// Runs the command line. `arguments` begin with the program's name.
pub fn run<I, T>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no error. A closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut out = Out::new(cli.json);
    let done = cli.run(&mut out).and_then(|code| out.finish().map(|()| code));
    match done {
        Ok(code) => ExitCode::from(code),
        // Whoever reads has had enough: `weir sessions | head`.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            // Only its first line is ours for sure: a target's words may be in it.
            eprintln!("weir: {}", output::clean_lines(&error.chain()).replace('\n', "\n  "));
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(self, out: &mut Out) -> Result<u8, Error> {
        let config = self.config;
        match self.command {
            Command::Init(init) => init.run(&config, out),
            Command::Check => check::run(&config, out),
            Command::Doctor(doctor) => doctor.run(&config, out),
            Command::Serve { replaceable: true, .. } => {
                start_logging()?;
                crate::supervise::run(&config).map_err(Error::other).map(|()| 0)
            }
            Command::Serve { supervised_by, .. } => {
                start_logging()?;
                crate::gateway::serve(&config, supervised_by).map_err(Error::other).map(|()| 0)
            }
            Command::Witness => {
                start_logging()?;
                crate::witness::run().map_err(Error::other).map(|()| 0)
            }
            Command::Usher => crate::witness::run_usher().map_err(Error::other).map(|()| 0),
            Command::Trial => doctor::run_trial().map_err(Error::other).map(|()| 0),
            Command::Kernel(kernel) => kernel.run(&config, out),
            Command::Detach(detach) => detach.run(&config, out),
            Command::Run(run) => run.run(&config),
            Command::Explain(explain) => explain.run(&config, out),
            Command::Why { id } => explain::why(&config, id, out),
            Command::Status => status::run(&config, out),
            Command::Reload => status::reload(&config, out),
            Command::Sessions(sessions) => sessions.run(&config, out),
            Command::Denials(denials) => denials.run(&config, out),
            Command::Approvals(approvals) => approvals.run(&config, out),
            Command::Approve(vote) => vote.run(true, &config, out),
            Command::Deny(vote) => vote.run(false, &config, out),
            Command::Verify(verify) => verify.run(&config, out),
            Command::Completions { shell } => complete::completions(shell, &mut Cli::command(), out),
            Command::Man { directory } => complete::manual(&Cli::command(), &directory),
        }
    }
}

fn start_logging() -> Result<(), Error> {
    telemetry::init(telemetry::Format::configured())
        .map_err(|error| Error::message(format!("logging cannot be set up: {error}")))
}

/// A session's ID on the command line: an operation's will do.
fn session_id(text: &str) -> Result<SessionId, String> {
    text.parse::<OperationId>().map(|id| id.session).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
