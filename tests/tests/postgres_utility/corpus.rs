//! The corpus: its parts, what each works on, and which columns are masked in it.
//!
//! TPC-H's queries and data come with DuckDB's package, the mappers from their registries, psql, pg_dump and pgbench with
//! PostgreSQL. The programs that use the mappers, and TPC-C's transactions, are written here; the latter after the
//! specification, since no registry has a program for them.

/// One part of the corpus, with its own limit.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    pub(crate) masks: &'static [Mask],
    pub(crate) programs: &'static [Program],
    /// Its results have masked columns in them.
    pub(crate) shows_masked: bool,
}

/// What a part works on.
pub(crate) enum Work {
    /// A script of this suite.
    Script(&'static str),
    /// A script in a directory of what was brought.
    ScriptOf(&'static str, &'static str),
    /// What pgbench makes.
    Bench,
}

/// A mask of columns, and what else is said of it.
pub(crate) struct Mask {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [&'static str],
    pub(crate) more: &'static str,
}

pub(crate) struct Program {
    /// Its database's name, too.
    pub(crate) name: &'static str,
    pub(crate) runs: Runs,
    /// Fewer statements than this would mean that it did not run.
    pub(crate) least: usize,
}

#[derive(Clone, Copy)]
pub(crate) enum Runs {
    /// A program of steps, and what it is told.
    Python(&'static str, &'static [&'static str]),
    Node(&'static str),
    /// Commands for psql.
    Psql(&'static [&'static str]),
    Dump,
    /// pgbench's own scripts, by this protocol.
    Bench(&'static str),
}

impl Runs {
    pub(crate) fn executable(self) -> &'static str {
        match self {
            Self::Python(..) => "/usr/bin/python3",
            Self::Node(_) => "node",
            Self::Psql(_) => "psql",
            Self::Dump => "pg_dump",
            Self::Bench(_) => "pgbench",
        }
    }
}

/// Files that the programs are in.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("shop.sql", include_str!("shop.sql")),
    ("tpcc.sql", include_str!("tpcc.sql")),
    ("steps.py", include_str!("steps.py")),
    ("steps.js", include_str!("steps.js")),
    ("tpch.py", include_str!("tpch.py")),
    ("tpcc.py", include_str!("tpcc.py")),
    ("sqlalchemy_orm.py", include_str!("sqlalchemy_orm.py")),
    ("django_orm.py", include_str!("django_orm.py")),
    ("sequelize.js", include_str!("sequelize.js")),
    ("typeorm.js", include_str!("typeorm.js")),
    ("knex.js", include_str!("knex.js")),
];

/// Who somebody is, how to reach them and where they live.
const CUSTOMERS: &[Mask] =
    &[Mask { name: "customers", columns: &["public.customers.street", "*.*.email", "*.*.phone"], more: "" }];

/// TPC-H's customers where the queries are about what is masked.
pub(crate) const PHONES: &[Mask] = &[Mask { name: "customers", columns: &["*.customer.c_phone"], more: "" }];

pub(crate) const PARTS: &[Part] = &[
    Part {
        name: "TPC-H",
        work: Work::ScriptOf("tpch", "load.psql"),
        // Left out: c_phone and c_acctbal, by which query 22 chooses; s_name and s_acctbal, by which 2, 20 and 21 sort; s_comment, by
        // which 16 chooses.
        masks: &[Mask {
            name: "customers and suppliers",
            columns: &[
                "*.customer.c_name",
                "*.customer.c_address",
                "*.customer.c_comment",
                "*.supplier.s_address",
                "*.supplier.s_phone",
            ],
            more: "",
        }],
        programs: &[Program { name: "tpch", runs: Runs::Python("tpch.py", &[]), least: 22 }],
        shows_masked: true,
    },
    Part {
        name: "TPC-C",
        work: Work::Script("tpcc.sql"),
        // Customers are looked up by their last names, which a mask can allow. Left out: c_first, by which namesakes are sorted;
        // c_balance and c_data, which payments write.
        masks: &[
            Mask {
                name: "where customers live",
                columns: &["*.customer.c_phone", "*.customer.c_street_1", "*.customer.c_street_2"],
                more: "",
            },
            Mask { name: "last names", columns: &["*.customer.c_last"], more: "lookups_per_minute = 1000" },
        ],
        programs: &[Program { name: "tpcc", runs: Runs::Python("tpcc.py", &[]), least: 500 }],
        shows_masked: true,
    },
    Part {
        name: "psql \\d",
        work: Work::Script("shop.sql"),
        masks: CUSTOMERS,
        programs: &[Program { name: "psql", runs: Runs::Psql(LOOKS), least: 100 }],
        shows_masked: false,
    },
    Part {
        name: "mappers of objects to tables: create, read, update, delete, report",
        work: Work::Script("shop.sql"),
        masks: CUSTOMERS,
        programs: &[
            Program { name: "sqlalchemy", runs: Runs::Python("sqlalchemy_orm.py", &["psycopg2"]), least: 60 },
            Program { name: "sqlalchemy-3", runs: Runs::Python("sqlalchemy_orm.py", &["psycopg"]), least: 60 },
            Program { name: "django", runs: Runs::Python("django_orm.py", &[]), least: 60 },
            Program { name: "sequelize", runs: Runs::Node("sequelize.js"), least: 40 },
            Program { name: "typeorm", runs: Runs::Node("typeorm.js"), least: 40 },
            Program { name: "knex", runs: Runs::Node("knex.js"), least: 40 },
        ],
        shows_masked: true,
    },
    Part {
        name: "pg_dump -s",
        work: Work::Script("shop.sql"),
        masks: CUSTOMERS,
        programs: &[Program { name: "dump", runs: Runs::Dump, least: 40 }],
        shows_masked: false,
    },
    Part {
        name: "pgbench",
        work: Work::Bench,
        masks: &[Mask { name: "accounts", columns: &["*.pgbench_accounts.filler"], more: "" }],
        programs: &[
            Program { name: "simple", runs: Runs::Bench("simple"), least: 100 },
            Program { name: "extended", runs: Runs::Bench("extended"), least: 100 },
            Program { name: "prepared", runs: Runs::Bench("prepared"), least: 100 },
        ],
        shows_masked: false,
    },
];

/// How people look around in psql. (Subscriptions are for superusers to see.)
const LOOKS: &[&str] = &[
    "\\d",
    "\\d+",
    "\\d customers",
    "\\d+ customers",
    "\\d+ orders",
    "\\d+ items",
    "\\d+ open_orders",
    "\\d items_order_id_idx",
    "\\d customers_id_seq",
    "\\dS+ pg_class",
    "\\dt+",
    "\\dt *.*",
    "\\di+",
    "\\dv+",
    "\\dm+",
    "\\ds+",
    "\\dE+",
    "\\dn+",
    "\\du+",
    "\\dg+",
    "\\dx+",
    "\\dT+",
    "\\dT+ *",
    "\\dC+",
    "\\do+",
    "\\da+",
    "\\df+",
    "\\df+ lower",
    "\\dp",
    "\\z customers",
    "\\ddp",
    "\\dD+",
    "\\dL+",
    "\\dO+",
    "\\db+",
    "\\dc+",
    "\\dd",
    "\\dA+",
    "\\dAc",
    "\\dAf",
    "\\dAo",
    "\\dAp",
    "\\dF+",
    "\\dFp+",
    "\\dFd+",
    "\\dFt+",
    "\\dP+",
    "\\drds",
    "\\dRp+",
    "\\dX",
    "\\dy+",
    "\\dconfig+ work_mem",
    "\\des+",
    "\\det+",
    "\\deu+",
    "\\dew+",
    "\\dl",
    "\\l",
    "\\sv+ open_orders",
    "\\sf pg_catalog.lpad(text, integer)",
];
