//! What people do with databases all day, from the registries of their languages: query builders, and the queries and data of
//! TPC-H as DuckDB brings them. Installed into the cache once for each list of versions.

use std::path::{Path, PathBuf};

use crate::{Result, clients, paths, shell};

/// Mappers of objects to tables, and drivers, for Python.
const PYTHON: &[&str] = &[
    "asgiref==3.8.1",
    "asyncpg==0.32.0",
    "django==5.2.8",
    "greenlet==3.1.1",
    "psycopg==3.2.9",
    "psycopg-binary==3.2.9",
    "psycopg2-binary==2.9.10",
    "sqlalchemy==2.0.46",
    "sqlparse==0.5.3",
    "typing-extensions==4.12.2",
];
/// The same for Node. What they need besides is theirs to say.
const NODE: &[&str] = &["knex@3.1.0", "pg@8.23.1", "sequelize@6.37.8", "typeorm@0.3.28"];
/// The last of DuckDB's packages for Python that have TPC-H in them, instead of fetching it.
const DUCKDB: &str = "duckdb==1.0.0";
/// Of what TPC-H calls 1: 60,000 lines of orders.
const SCALE: &str = "0.01";

/// Writes the queries, and the tables with their rows. The keys are TPC-H's own (clause 1.4.2), which DuckDB leaves out.
const TPCH: &str = r#"
import duckdb, pathlib, sys

KEYS = {"region": "r_regionkey", "nation": "n_nationkey", "supplier": "s_suppkey", "customer": "c_custkey", "part": "p_partkey",
    "partsupp": "ps_partkey, ps_suppkey", "orders": "o_orderkey", "lineitem": "l_orderkey, l_linenumber"}
directory, scale = pathlib.Path(sys.argv[1]), float(sys.argv[2])
database = duckdb.connect()
for number, text in database.execute("SELECT query_nr, query FROM tpch_queries()").fetchall():
    (directory / f"{number:02}.sql").write_text(text)
database.execute(f"CALL dbgen(sf = {scale})")
tables = dict(database.execute("SELECT table_name, sql FROM duckdb_tables()").fetchall())
with open(directory / "load.psql", "w") as script:
    for table, key in KEYS.items():
        database.execute(f"COPY {table} TO '{directory}/{table}.csv' (HEADER false)")
        print(f"{tables[table]}\n\\copy {table} FROM {table}.csv WITH (FORMAT csv)", file=script)
        print(f"ALTER TABLE {table} ADD PRIMARY KEY ({key});", file=script)
"#;

/// A directory with `site`, for `PYTHONPATH`, `node`, for `NODE_PATH`, and `tpch`: `01.sql` to `22.sql`, and `load.psql`, which
/// makes and fills the tables from the files beside it.
pub(crate) fn ensure() -> Result<PathBuf> {
    paths::made_once("workloads", (PYTHON, NODE, DUCKDB, SCALE, TPCH), |incoming| {
        shell::step(&format!("pip install {}", PYTHON.join(" ")), || {
            shell::run(clients::pip(&["install", "--target"], &incoming.join("site")).args(PYTHON))
        })?;
        clients::npm(incoming, NODE)?;
        tpch(incoming)
    })
}

fn tpch(incoming: &Path) -> Result {
    let (work, made) = (incoming.join("duckdb"), incoming.join("tpch"));
    std::fs::create_dir(&made).map_err(|e| format!("{}: {e}", made.display()))?;
    shell::step(&format!("TPC-H of {DUCKDB}"), || {
        shell::run(clients::pip(&["install", "--target"], &work).arg(DUCKDB))?;
        let mut python = shell::command("/usr/bin/python3", ["-c", TPCH]);
        shell::run(python.arg(&made).arg(SCALE).env("PYTHONPATH", &work))
    })?;
    std::fs::remove_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))
}
