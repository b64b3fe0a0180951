//! Django's own suite, which is also one of psycopg 3: that one's is in no package, and this one uses most of it.

use std::fs;

use system_tests::env::Place;
use system_tests::postgres::{NAME, PASSWORD, Postgres, ROLE};

use super::{PYTHON, Run, STRINGS, compare, make_superuser, open_shop, reports, staged};

const SETTINGS: &str = include_str!("django_settings.py");
const SOURCE: &str = "django-5.2.8";
/// Parts of the suite that are about the database.
const PARTS: &[&str] = &[
    "aggregation",
    "annotations",
    "async",
    "backends",
    "basic",
    "bulk_create",
    "db_functions",
    "expressions",
    "lookup",
    "model_fields",
    "postgres_tests",
    "queries",
    "select_for_update",
    "transaction_hooks",
    "transactions",
];
/// With `--all` only: as much again, mostly of what changes schemas.
const MORE: &[&str] = &[
    "aggregation_regress",
    "constraints",
    "custom_columns",
    "delete",
    "expressions_case",
    "expressions_window",
    "get_or_create",
    "indexes",
    "inspectdb",
    "introspection",
    "many_to_many",
    "migrations",
    "prefetch_related",
    "schema",
    "select_related",
    "update",
];

/// Values are sent apart from statements, by the extended protocol. With `--all` also within them.
#[test]
fn django() {
    let (shop, _gateway) = open_shop();
    let other = Postgres::start(&shop.env).unwrap();
    for server in [&shop.postgres, &other] {
        make_superuser(server);
    }
    let all = std::env::var_os("WEIR_ALL").is_some();
    let parts = if all { [PARTS, MORE].concat() } else { PARTS.to_vec() };
    for binding in if all { &["server", "client"][..] } else { &["server"] } {
        let straight = |tests: &[&str]| {
            let place = shop.env.bystander_as("daemon", PYTHON).env("PGPASSWORD", PASSWORD).env("PGHOST", "127.0.0.1");
            start(place.env("PGPORT", other.port().to_string()), binding, tests, "straight")
        };
        let through = |tests: &[&str]| {
            let place = shop.env.agent(PYTHON).env("PGHOST", NAME).env("PGPORT", shop.postgres.port().to_string());
            start(place, binding, tests, "through")
        };
        let both = |tests: &[&str]| Run::finish(straight(tests), through(tests));
        compare(&shop.env, SOURCE, both, &parts, 2500, &[("test_unaccent_with_conforming_strings_off", STRINGS)]);
    }
}

fn start(place: Place<'_>, binding: &str, tests: &[&str], way: &str) -> Run {
    let clients = staged(place.environment(), &["site", "src"]);
    fs::write(clients.join("site/weir_django.py"), SETTINGS).unwrap();
    let (report, home) = reports(&clients, way);
    let place = place
        .env("HOME", &home)
        // It makes files of models, and reads them as modules.
        .env("TMPDIR", home)
        .env("PGUSER", ROLE)
        .env("PYTHONPATH", clients.join("site"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("WEIR_REPORT", &report)
        .env("WEIR_BINDING", binding)
        .arg(clients.join("src").join(SOURCE).join("tests/runtests.py"))
        .args(["--settings=weir_django", "--parallel=1", "--noinput"])
        .args(tests);
    Run { name: format!("{SOURCE}-{way}"), process: place.start().unwrap(), report }
}
