//! A real name server of the test's own, BIND's `named`: authoritative for the root, so that it answers whatever it is
//! asked, and whatever it is asked stands in its log.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::env::{Env, free_port};
use crate::process::{PATIENCE, Running, wait_until};

/// What stands in the zone besides the test's records. The wildcard answers for names that nobody may ask.
const ZONE_HEAD: &str = "$ORIGIN .\n$TTL 60\n@ SOA ns.test. root.test. 1 3600 600 86400 5\n@ NS ns.test.\n\
    ns.test. A 127.0.0.1\n*. A 192.0.2.66\n";

pub struct Named {
    process: Running,
    port: u16,
}

/// Where a server is to answer by TLS and by HTTPS (at `/dns-query`), with this certificate and its key (PEM files).
pub struct Encrypted<'a> {
    pub over_tls: u16,
    pub over_https: u16,
    pub certificate: &'a Path,
    pub key: &'a Path,
}

impl Named {
    /// Starts it with these records of the root zone, in zone file syntax.
    pub fn start(env: &Env, records: &str) -> Result<Self> {
        Self::start_at(env, records, free_port()?)
    }

    /// The same on a port that is already in somebody's configuration.
    pub fn start_at(env: &Env, records: &str, port: u16) -> Result<Self> {
        Self::listening(env, "named", "", &format!("listen-on port {port} {{ 127.0.0.1; }};"), records, port)
    }

    /// One of somebody else's, beside the other one: it knows nothing but the wildcard.
    pub fn start_encrypted(env: &Env, at: &Encrypted<'_>) -> Result<Self> {
        let Encrypted { over_tls, over_https, certificate, key } = at;
        let (certificate, key) = (certificate.display(), key.display());
        let keys = format!("tls own {{ cert-file \"{certificate}\"; key-file \"{key}\"; }};");
        let listen = format!(
            "listen-on port {over_tls} tls own {{ 127.0.0.1; }}; listen-on port {over_https} tls own http default {{ 127.0.0.1; }};"
        );
        Self::listening(env, "named-encrypted", &keys, &listen, "", *over_tls)
    }

    fn listening(env: &Env, name: &str, keys: &str, listen: &str, records: &str, port: u16) -> Result<Self> {
        let dir = env.dir().join(name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("root.zone"), format!("{ZONE_HEAD}{records}"))?;
        let config = dir.join("named.conf");
        let at = dir.display();
        fs::write(
            &config,
            format!(
                "{keys}\noptions {{ directory \"{at}\"; pid-file none; session-keyfile none; recursion no; querylog yes;\n\
                 {listen} listen-on-v6 {{ none; }}; dnssec-validation no; }};\n\
                 controls {{ }};\n\
                 zone \".\" {{ type primary; file \"root.zone\"; }};\n"
            ),
        )?;
        let process = env.bystander("named").args(["-g", "-n", "1", "-c"]).arg(&config).start()?;
        process.wait_for(" running\n", PATIENCE)?;
        if !process.stderr().contains("zone ./IN: loaded") {
            let about_zone: Vec<String> =
                process.stderr().lines().filter(|line| line.contains("zone")).map(str::to_owned).collect();
            return Err(format!("named did not load its zone: {}", about_zone.join("\n")).into());
        }
        Ok(Self { process, port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything that it was asked, in order: `NAME TYPE` in lower case, with ` tcp` behind what came by TCP.
    pub fn asked(&self) -> Vec<String> {
        // client @0x7f 127.0.0.1#4 (db.internal): query: db.internal IN A -E(0)DC (127.0.0.1)
        let log = self.process.stderr();
        let queries = log.lines().filter_map(|line| line.split_once("): query: ")?.1.split_once(" IN "));
        queries
            .map(|(name, rest)| {
                let mut words = rest.split(' ');
                let kind = words.next().unwrap_or_default();
                let tcp = words.next().is_some_and(|flags| flags.contains('T'));
                format!("{} {kind}{}", name.to_lowercase(), if tcp { " tcp" } else { "" })
            })
            .collect()
    }

    /// How often it was asked this: `NAME TYPE`.
    pub fn count(&self, query: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == query).count()
    }

    /// Waits until it was asked this.
    pub fn wait_for(&self, query: &str) -> Result {
        wait_until(&format!("the query {query:?}"), PATIENCE, || self.count(query) > 0)
    }
}
