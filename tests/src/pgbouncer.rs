//! Debian's pgbouncer before the shop's server, TLS on both legs, with the same login held.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::ca::Ca;
use crate::env::free_port;
use crate::postgres;
use crate::process::{Running, wait_until};
use crate::shop::Shop;

/// One that runs; it ends when this is dropped.
pub struct Pgbouncer {
    pub process: Running,
    pub port: u16,
    ca: PathBuf,
}

impl Pgbouncer {
    /// `pool_mode`: when a connection to the server is free for others, "session" or "transaction".
    pub fn start(shop: &Shop, pool_mode: &str) -> Result<Self> {
        Self::start_for(200, shop, pool_mode)
    }

    /// The same for so many clients at once.
    pub fn start_for(clients: usize, shop: &Shop, pool_mode: &str) -> Result<Self> {
        let dir = shop.env.dir();
        let port = free_port()?;
        let ca = Ca::new()?;
        let leaf = ca.issue(&["localhost", "127.0.0.1", postgres::NAME])?;
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            Ok(path)
        };
        let users = file("pgbouncer-users", &format!("\"{}\" \"{}\"\n", postgres::ROLE, postgres::PASSWORD))?;
        let (cert, key) = (file("pgbouncer.crt", &leaf.certificate)?, file("pgbouncer.key", &leaf.key)?);
        let ca = file("pgbouncer-ca.pem", ca.pem())?;
        let config = format!(
            "[databases]\n{db} = host=127.0.0.1 port={pg} dbname={db}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = scram-sha-256\nauth_file = {users}\npool_mode = {pool_mode}\nmax_client_conn = {clients}\n\
             default_pool_size = 200\nclient_tls_sslmode = require\nclient_tls_cert_file = {cert}\nclient_tls_key_file = {key}\n\
             server_tls_sslmode = verify-full\nserver_tls_ca_file = {server_ca}\nlog_connections = 0\nlog_disconnections = 0\n\
             ignore_startup_parameters = extra_float_digits\nunix_socket_dir =\n",
            users = users.display(),
            cert = cert.display(),
            key = key.display(),
            db = postgres::DATABASE,
            pg = shop.postgres.port(),
            server_ca = shop.postgres.ca_path().display(),
        );
        let config = file("pgbouncer.ini", &config)?;
        let process = shop.env.bystander_as("postgres", "pgbouncer").arg(config).start()?;
        wait_until("pgbouncer", Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok())
            .map_err(|error| format!("{error}: {}", process.stderr()))?;
        Ok(Self { process, port, ca })
    }

    /// The shop's `[[target]]` section, by way of this one.
    pub fn target_config(&self) -> String {
        postgres::target_config(self.port, &self.ca)
    }
}
