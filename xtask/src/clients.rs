//! Clients of databases and the test suites that their authors wrote for them, from the registries of their languages: what
//! judges whether the gateway can be noticed. Installed into the cache once for each list of versions.

use std::path::{Path, PathBuf};

use crate::{Result, paths, setup, shell};

/// What the suites in Python run with.
const INSTALLED: &[&str] = &[
    "asgiref==3.8.1",
    "asyncpg==0.32.0",
    "django==5.2.8",
    "greenlet==3.1.1",
    // With libpq 18. Its own suite is in its repository, and in no package.
    "psycopg==3.3.9",
    "psycopg-binary==3.3.9",
    "psycopg-pool==3.3.3",
    "psycopg2-binary==2.9.10",
    "pytest==8.3.4",
    "pytest-timeout==2.3.1",
    "sqlparse==0.5.3",
    "typing-extensions==4.12.2",
];
/// Whose suites are in the source package, and nowhere else; and what is taken out of it. The package itself would be taken for the
/// installed one: SQLAlchemy is not installed, since its tests want it beside them.
const SOURCES: &[(&str, &str, &[&str])] = &[
    ("asyncpg", "0.32.0", &["*/test*", "*/setup.cfg"]),
    ("django", "5.2.8", &["*/tests/*"]),
    ("psycopg2", "2.9.10", &["*/test*", "*/setup.cfg"]),
    ("sqlalchemy", "2.0.46", &["*/test/*", "*/setup.cfg", "*/lib/sqlalchemy/*"]),
];
/// node-postgres, its companions, and all that they need.
const NODE: &[&str] = &[
    "pg@8.23.1",
    "pg-connection-string@2.14.1",
    "pg-copy-streams@7.0.0",
    "pg-cursor@2.22.1",
    "pg-int8@1.0.1",
    "pg-pool@3.14.0",
    "pg-protocol@1.16.1",
    "pg-query-stream@4.17.0",
    "pg-types@2.2.0",
    "pgpass@1.0.5",
    "postgres-array@2.0.0",
    "postgres-bytea@1.0.1",
    "postgres-date@1.0.7",
    "postgres-interval@1.2.0",
    "split2@4.2.0",
    "xtend@4.0.2",
];
/// The newest that Debian 12's compiler takes.
const PGX: (&str, &str) = ("github.com/jackc/pgx/v5", "v5.5.5");
/// Packages of pgx whose tests want a database, and the names of their programs.
const PGX_PACKAGES: &[(&str, &str)] = &[
    (".", "pgx"),
    ("./pgconn", "pgconn"),
    ("./pgtype", "pgtype"),
    ("./pgtype/zeronull", "pgtype-zeronull"),
    ("./pgxpool", "pgxpool"),
    ("./stdlib", "stdlib"),
];
/// pgjdbc, which needs nothing else.
const PGJDBC: &str = "org.postgresql:postgresql:42.7.14";
/// The program, and the crate that brings a script for each of its engines for PostgreSQL.
const SQLLOGICTEST: (&str, &str, &str) = ("sqllogictest-bin", "sqllogictest-engines", "0.29.1");

/// A directory with `site`, for `PYTHONPATH`, `src`, with a directory `NAME-VERSION` for each source package in Python,
/// `node`, for `NODE_PATH`, `pgx`, with its tests' programs, `pgjdbc.jar`, and `sqllogictest`, a program and its scripts.
pub(crate) fn ensure() -> Result<PathBuf> {
    let list = (INSTALLED, SOURCES, NODE, PGX, PGX_PACKAGES, PGJDBC, SQLLOGICTEST);
    paths::made_once("clients", list, |incoming| {
        python(incoming)?;
        npm(incoming, NODE)?;
        pgx(incoming)?;
        pgjdbc(incoming)?;
        sqllogictest(incoming)
    })
}

fn python(incoming: &Path) -> Result {
    let (site, archives, sources) = (incoming.join("site"), incoming.join("archives"), incoming.join("src"));
    std::fs::create_dir(&sources).map_err(|e| format!("{}: {e}", sources.display()))?;
    shell::step(&format!("pip install {}", INSTALLED.join(" ")), || {
        shell::run(pip(&["install", "--target"], &site).args(INSTALLED))
    })?;
    for (name, version, extracted) in SOURCES {
        let package = format!("{name}=={version}");
        shell::step(&format!("pip download {package}"), || {
            // Only this one from source: not what its metadata are made with.
            let words = ["download", "--no-deps", "--no-binary", name, "--dest"];
            shell::run(pip(&words, &archives).arg(&package))
        })?;
        let mut tar = shell::command("tar", ["--extract", "--file"]);
        tar.arg(archives.join(format!("{name}-{version}.tar.gz"))).arg("--directory").arg(&sources);
        shell::run(tar.arg("--wildcards").args(*extracted))?;
    }
    Ok(())
}

/// The server's own Python, which the clients run with too.
pub(crate) fn pip(words: &[&str], directory: &Path) -> std::process::Command {
    let mut pip = shell::command("/usr/bin/python3", ["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    pip.args(words).arg(directory);
    pip
}

/// Installs packages for Node as `node`.
pub(crate) fn npm(incoming: &Path, packages: &[&str]) -> Result {
    let installed = incoming.join("npm");
    shell::step(&format!("npm install {}", packages.first().unwrap_or(&"")), || {
        // No package's script is run, and nothing is asked about the list besides.
        let words =
            ["install", "--silent", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--prefix"];
        shell::run(shell::command("npm", words).arg(&installed).args(packages))
    })?;
    let (from, to) = (installed.join("node_modules"), incoming.join("node"));
    std::fs::rename(&from, &to).map_err(|e| format!("{}: {e}", from.display()))
}

fn pgx(incoming: &Path) -> Result {
    let (built, work) = (incoming.join("pgx"), incoming.join("go"));
    let go = |words: &[&str]| {
        let mut go = shell::command("go", words);
        go.env("GOMODCACHE", work.join("modules")).env("GOCACHE", work.join("cache"));
        // This very compiler, and modules that can be removed again.
        go.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-modcacherw");
        go
    };
    let module = format!("{}@{}", PGX.0, PGX.1);
    shell::step(&format!("go test -c {module}"), || {
        shell::output(&mut go(&["mod", "download", &module]))?;
        let source = work.join("modules").join(&module);
        for (package, name) in PGX_PACKAGES {
            // Without what only a debugger reads.
            let words = ["test", "-c", "-ldflags=-s -w", "-o"];
            shell::run(go(&words).arg(built.join(name)).arg(package).current_dir(&source))?;
        }
        std::fs::remove_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))
    })
}

fn pgjdbc(incoming: &Path) -> Result {
    let maven = incoming.join("maven");
    shell::step(&format!("mvn dependency:get {PGJDBC}"), || {
        // Maven's own parts come along; neither they nor their notes are left in the user's home.
        let mut mvn = shell::command("mvn", ["--quiet", "--batch-mode", "dependency:get", "-Dtransitive=false"]);
        mvn.arg(format!("-Dmaven.repo.local={}", maven.display())).arg(format!("-Dartifact={PGJDBC}"));
        shell::output(&mut mvn)
    })?;
    let mut parts = PGJDBC.split(':');
    let (Some(group), Some(name), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!("{PGJDBC}: not a group, a name and a version"));
    };
    let directory = maven.join(group.replace('.', "/")).join(name).join(version);
    let (from, to) = (directory.join(format!("{name}-{version}.jar")), incoming.join("pgjdbc.jar"));
    std::fs::rename(&from, &to).map_err(|e| format!("{}: {e}", from.display()))?;
    std::fs::remove_dir_all(&maven).map_err(|e| format!("{}: {e}", maven.display()))
}

/// Kept beside, since it takes minutes to build.
fn sqllogictest(incoming: &Path) -> Result {
    let (program, engines, version) = SQLLOGICTEST;
    let built = paths::cache()?.join(format!("{program}-{version}"));
    let io = |e: std::io::Error| format!("{}: {e}", built.display());
    if !built.exists() {
        let work = built.with_extension("incoming");
        if work.exists() {
            std::fs::remove_dir_all(&work).map_err(io)?;
        }
        shell::step(&format!("cargo install {program} {version}"), || {
            let words = ["install", program, "--version", version, "--locked", "--debug", "--quiet", "--root"];
            let mut cargo = shell::cargo(words)?;
            cargo.arg(&work).env("CARGO_TARGET_DIR", work.join("target"));
            shell::run(cargo.env("CARGO_PROFILE_DEV_DEBUG", "false").env("CARGO_PROFILE_DEV_STRIP", "true"))
        })?;
        std::fs::create_dir(work.join("kept")).map_err(io)?;
        std::fs::rename(work.join("bin/sqllogictest"), work.join("kept/sqllogictest")).map_err(io)?;
        for script in scripts(&format!("{engines}-{version}/src/postgres"))? {
            std::fs::copy(&script, work.join("kept").join(script.file_name().unwrap_or_default())).map_err(io)?;
        }
        std::fs::rename(work.join("kept"), &built).map_err(io)?;
        std::fs::remove_dir_all(&work).map_err(io)?;
    }
    shell::run(shell::command("cp", ["--recursive"]).arg(&built).arg(incoming.join("sqllogictest")))
}

/// The scripts in a directory of a crate's source, which cargo unpacked to build it.
fn scripts(directory: &str) -> Result<Vec<PathBuf>> {
    let sources = setup::cargo_home()?.join("registry/src");
    let listed = |directory: &Path| {
        let entries = std::fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        Ok::<_, String>(entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>())
    };
    let registries = listed(&sources)?;
    let found = registries.iter().map(|registry| registry.join(directory)).find(|path| path.exists());
    let found = found.ok_or_else(|| format!("{}: no {directory}", sources.display()))?;
    Ok(listed(&found)?.into_iter().filter(|path| path.extension().is_some_and(|it| it == "slt")).collect())
}
