//! What is added to a machine's disk: the package, and everything that an administrator would write; a database and an
//! issuer; an agent that uses them, and one that tries to get by.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::ca::Ca;
use crate::env::Env;
use crate::issuer::{AUDIENCE, Issuer};
use crate::packages::Packages;
use crate::{Result, postgres, shop};

/// Where the issuer's documents are served inside the machine.
const ISSUER: &str = "http://127.0.0.1:8080";
const CREDENTIALS: &str = "[Service]\nLoadCredential=orders-db:/etc/weir/credentials/orders-db\n";
const SERVER_SETTINGS: &str = "ssl_cert_file = '/etc/postgresql/15/main/server.crt'\n\
    ssl_key_file = '/etc/postgresql/15/main/server.key'\n";

/// Files below `/`, as they are to lie in the machine. Every boot runs `/opt/smoke/run`, which is the test's to add.
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    pub fn new(env: &Env) -> Result<Self> {
        let tree = Self { root: env.dir().join("tree") };
        fs::copy(Packages::of_this_run()?.debian(), tree.path("opt/smoke/weir.deb")?)?;
        tree.servers()?;
        for (name, text) in [
            ("agent", include_str!("../../vm/agent")),
            ("common", include_str!("../../vm/common")),
            ("prober", include_str!("../../vm/prober")),
        ] {
            tree.put(&format!("opt/smoke/{name}"), 0o755, text)?;
        }
        tree.put("usr/lib/sysusers.d/coder.conf", 0o644, "u agent-coder - - - -\n")?;
        for (name, text) in [
            ("coder.service", include_str!("../../vm/coder.service")),
            ("issuer.service", include_str!("../../vm/issuer.service")),
            ("prober.service", include_str!("../../vm/prober.service")),
            ("smoke.service", include_str!("../../vm/smoke.service")),
        ] {
            tree.put(&format!("usr/lib/systemd/system/{name}"), 0o644, text)?;
        }
        tree.enable("multi-user.target", &["issuer.service", "smoke.service"])?;
        Ok(tree)
    }

    /// The script that upgrades the package, and to what: this build under a later version.
    pub fn add_upgrade(&self, env: &Env) -> Result {
        // From an older build, where one is named; the rest of its life is that one's own.
        if let Some(previous) = std::env::var_os("WEIR_PREVIOUS") {
            fs::copy(previous, self.path("opt/smoke/weir.deb")?)?;
        }
        Packages::of_this_run()?.later_debian(&env.dir().join("later"), &self.path("opt/smoke/later.deb")?)?;
        self.put("opt/smoke/upgrade", 0o755, include_str!("../../vm/upgrade"))?;
        self.put("opt/smoke/lasting", 0o755, include_str!("../../vm/lasting"))
    }

    fn servers(&self) -> Result {
        let (ca, issuer) = (Ca::new()?, Issuer::start()?);
        let leaf = ca.issue(&[postgres::NAME])?;
        self.put("opt/smoke/schema.sql", 0o644, postgres::SCHEMA)?;
        self.put("opt/smoke/server.crt", 0o644, &leaf.certificate)?;
        self.put("opt/smoke/server.key", 0o600, &leaf.key)?;
        self.put("etc/postgresql/15/main/conf.d/smoke.conf", 0o644, SERVER_SETTINGS)?;
        for (path, document) in issuer.documents(ISSUER)? {
            self.put(&format!("opt/smoke/issuer{path}"), 0o644, &document.to_string())?;
        }
        // Copied to /etc/weir once the package is there.
        self.put("opt/smoke/etc/weir.toml", 0o644, &configuration())?;
        self.put("opt/smoke/etc/db-ca.pem", 0o644, ca.pem())?;
        self.put("opt/smoke/etc/credentials/orders-db", 0o600, postgres::PASSWORD)?;
        self.put("opt/smoke/credentials.conf", 0o644, CREDENTIALS)?;
        self.put("etc/coder.token", 0o600, &issuer.token(&json!({ "iss": ISSUER }))?)?;
        self.put("etc/hosts", 0o644, &format!("127.0.0.1 localhost vm {}\n", postgres::NAME))?;
        self.put("opt/smoke/agent-hosts", 0o644, "127.0.0.1 localhost\n")
    }

    /// The directory that stands for `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file is to be written, in a directory that there is.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().ok_or("a path without a directory")?)?;
        Ok(path)
    }

    pub fn put(&self, path: &str, mode: u32, text: &str) -> Result {
        let path = self.path(path)?;
        fs::write(&path, text)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
    }

    /// What `systemctl enable` does.
    pub fn enable(&self, target: &str, names: &[&str]) -> Result {
        for name in names {
            let link = self.path(&format!("etc/systemd/system/{target}.wants/{name}"))?;
            symlink(format!("/usr/lib/systemd/system/{name}"), link)?;
        }
        Ok(())
    }
}

/// Only defaults in `[gateway]`: the real root cgroup, the real paths.
fn configuration() -> String {
    let identity =
        format!("[identity]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\ninsecure = \"files on this machine\"\n");
    let agent = "[[agent]]\nname = \"coder\"\nunit = \"coder.service\"\nuser = \"agent-coder\"\n\
                 token = { file = \"/etc/coder.token\" }\n";
    let target = postgres::target_config(5432, Path::new("/etc/weir/db-ca.pem"));
    [identity.as_str(), agent, &target, shop::POLICY].join("\n")
}
