//! RDS's way of letting users in, at the shop's server: it asks for a token in clear text, by PAM, and has botocore say whether it is good.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::Result;
use crate::env::{PAM_SERVICES, free_port};
use crate::postgres;
use crate::process::{PATIENCE, Running, wait_until};
use crate::shop::Shop;

pub const REGION: &str = "eu-central-1";
/// The ones of AWS's documentation.
pub const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
pub const KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// What lets in by tokens. The server's PAM service is gone when this is dropped.
pub struct Rds {
    service: PathBuf,
    said: PathBuf,
    seen: PathBuf,
}

impl Rds {
    /// From now on the server lets those in whose tokens are signed with [`KEY`], and with this token of a session beside it.
    pub fn begin(shop: &Shop, session_token: Option<&str>) -> Result<Self> {
        let botocore = std::env::var_os("WEIR_BOTOCORE").ok_or("no botocore: run `cargo xtask test postgres`")?;
        let (dir, data) = (shop.env.dir(), shop.postgres.socket_dir());
        // The server's user may not be let into the cache.
        let site = dir.join("botocore");
        let copied = Command::new("cp").arg("--recursive").arg(&botocore).arg(&site).status()?;
        if !copied.success() {
            return Err(format!("cannot copy {}", Path::new(&botocore).display()).into());
        }
        let instance = json!({
            "host": postgres::NAME, "port": shop.postgres.port(), "region": REGION, "key_id": KEY_ID, "key": KEY,
            "session_token": session_token,
        });
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            Ok(path)
        };
        let script = file("rds.py", include_str!("rds.py"))?;
        let instance = file("rds.json", &instance.to_string())?;
        // Its name has the process's number: what a killed test run leaves, the next one removes.
        let rds = Self {
            service: Path::new(PAM_SERVICES).join(shop.env.attach()),
            said: data.join("pam.log"),
            seen: data.join("tokens"),
        };
        fs::write(
            &rds.service,
            format!(
                "auth required pam_exec.so expose_authtok quiet log={said} /usr/bin/python3 -I -B {script} {site} {instance} {seen}\n\
                 account required pam_permit.so\n",
                said = rds.said.display(),
                script = script.display(),
                site = site.display(),
                instance = instance.display(),
                seen = rds.seen.display(),
            ),
        )?;
        fs::set_permissions(&rds.service, fs::Permissions::from_mode(0o644))?;
        admit(shop, &format!("pam pamservice={}", shop.env.attach()))?;
        Ok(rds)
    }

    /// What was said of each token: `taken`, or `refused: ` and what is wrong in it.
    pub fn said(&self) -> Vec<String> {
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        said.lines().filter(|line| !line.starts_with("***")).map(str::to_owned).collect()
    }

    /// The tokens that the server was sent.
    pub fn seen(&self) -> Vec<String> {
        fs::read_to_string(&self.seen).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Rds {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.service) {
            eprintln!("{}: {error}", self.service.display());
        }
    }
}

/// Has the shop's server let users in over TLS by this method of `pg_hba.conf`.
pub fn admit(shop: &Shop, method: &str) -> Result {
    let read = || shop.postgres.log().matches("reloading configuration files").count();
    let before = read();
    let rules = format!("local all all trust\nhostssl all all 0.0.0.0/0 {method}\n");
    fs::write(shop.postgres.socket_dir().join("pg_hba.conf"), rules)?;
    shop.postgres.sql("SELECT pg_reload_conf()")?;
    wait_until("the server's new rules", PATIENCE, || read() > before)
}

/// The shop's `[[target]]` section with a login by tokens; `iam`: what is in its `rds_iam`.
pub fn target_config(shop: &Shop, iam: &str) -> Result<String> {
    let password = "password = { credential = \"orders-db\" }";
    let whole = shop.postgres.target_config();
    if whole.contains(password) {
        Ok(whole.replace(password, &format!("rds_iam = {{ {iam} }}")))
    } else {
        Err(format!("no {password} in {whole}").into())
    }
}

/// An `rds_iam` with [`KEY`], which is a credential, and with a token of a session.
pub fn held_key(shop: &Shop, region: &str, session_token: Option<&str>) -> Result<String> {
    shop.env.set_credential("aws-key", KEY)?;
    let mut iam = format!(
        "region = \"{region}\", access_key_id = \"{KEY_ID}\", secret_access_key = {{ credential = \"aws-key\" }}"
    );
    if let Some(token) = session_token {
        shop.env.set_credential("aws-token", token)?;
        iam += ", session_token = { credential = \"aws-token\" }";
    }
    Ok(iam)
}

/// The metadata service of an EC2 instance whose role has [`KEY`]. It ends when this is dropped.
pub struct Metadata {
    process: Running,
    port: u16,
}

impl Metadata {
    pub fn start(shop: &Shop, session_token: &str) -> Result<Self> {
        let port = free_port()?;
        let service = shop.env.bystander("/usr/bin/python3").args(["-u", "-c", include_str!("metadata.py")]);
        let process = service.arg(port.to_string()).args([KEY_ID, KEY, session_token]).start()?;
        process.wait_for("ready", PATIENCE)?;
        Ok(Self { process, port })
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// An `rds_iam` with the keys of its role.
    pub fn role(&self) -> String {
        format!("region = \"{REGION}\", ec2_metadata_service_endpoint = \"{}\"", self.url())
    }

    /// What it was asked, a line for each request.
    pub fn asked(&self) -> String {
        self.process.stdout()
    }
}
