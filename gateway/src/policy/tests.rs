use super::*;

fn table(name: &str, access: Access) -> TableUse {
    let (schema, name) = match name.split_once('.') {
        Some((schema, name)) => (Some(schema.to_owned()), name),
        None => (None, name),
    };
    TableUse { schema, name: name.to_owned(), access, columns: BTreeSet::new(), rows: Some(10), schemas: Vec::new() }
}

fn action(kind: Kind, tables: &[&str]) -> Action {
    let access = if kind == Kind::Select { Access::Read } else { Access::Write };
    Action {
        kind,
        tables: tables.iter().map(|name| table(name, access)).collect(),
        functions: Vec::new(),
        has_where: None,
        has_limit: None,
        unparsed: None,
        runs_code: false,
    }
}

fn delete(has_where: bool) -> Action {
    Action { has_where: Some(has_where), ..action(Kind::Delete, &["public.orders"]) }
}

fn operation(actions: Vec<Action>) -> Operation {
    Operation {
        text: "…".to_owned(),
        database: Some("orders".to_owned()),
        actions: actions.into(),
        statements: 1,
        refusal: None,
    }
}

fn rule(name: &str, kinds: &[Kind], then: Then) -> Rule {
    Rule { kinds: kinds.iter().copied().collect(), ..Rule::of_everything(name, then) }
}

fn tables(patterns: &[&str]) -> Vec<NamePattern> {
    patterns.iter().map(|pattern| pattern.parse().unwrap()).collect()
}

fn hold() -> Then {
    Then::Hold { approvers: vec!["dba".to_owned()], count: 1, timeout: Duration::from_mins(5) }
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

const SUBJECT: Subject<'_> = Subject { agent: "coder", groups: &[], target: "orders" };

/// `allow a b`, `hold a`, `deny a` (by rule a), `deny` (by none).
fn verdict(gate: &Gate) -> String {
    match gate {
        Gate::Allow { rules } => format!("allow {}", rules.join(" ")),
        Gate::Hold { requirements } => {
            format!("hold {}", requirements.iter().map(|it| it.rule.as_str()).collect::<Vec<_>>().join(" "))
        }
        Gate::Deny { rule, .. } => format!("deny {}", rule.as_deref().unwrap_or_default()).trim_end().to_owned(),
    }
}

fn judged(rules: Vec<Rule>, actions: Vec<Action>) -> String {
    verdict(&Policy::new(rules).judge(SUBJECT, &operation(actions)))
}

#[test]
fn nothing_is_allowed_without_a_rule() {
    let allow_all = || vec![rule("all", &[], Then::Allow)];
    assert_eq!(judged(vec![], vec![action(Kind::Select, &[])]), "deny");
    assert_eq!(judged(vec![rule("d", &[Kind::Drop], Then::Deny)], vec![action(Kind::Select, &[])]), "deny");
    // No facts, no permit.
    assert_eq!(judged(allow_all(), vec![]), "deny");
    // What nobody understood is allowed only by name.
    assert_eq!(judged(allow_all(), vec![action(Kind::Unparsed, &[])]), "deny");
    assert_eq!(judged(vec![rule("h", &[], hold())], vec![action(Kind::Unparsed, &[])]), "deny");
    // A protocol's refusal stands, whatever the rules say.
    let refused = Operation { refusal: Some("because".to_owned()), ..operation(vec![action(Kind::Select, &[])]) };
    assert_eq!(
        Policy::new(allow_all()).judge(SUBJECT, &refused),
        Gate::Deny { rule: None, message: "because".to_owned() }
    );
}

#[test]
fn one_action_that_is_not_allowed_denies_all() {
    let rules = || vec![rule("reads", &[Kind::Select], Then::Allow), rule("holds", &[Kind::Delete], hold())];
    let select = || action(Kind::Select, &["public.orders"]);
    assert_eq!(judged(rules(), vec![select(), action(Kind::Drop, &["public.orders"])]), "deny");
    assert_eq!(judged(rules(), vec![delete(true), action(Kind::Drop, &["public.orders"])]), "deny");
    assert_eq!(judged(rules(), vec![select(), delete(true)]), "hold holds");
    assert_eq!(judged(rules(), vec![select(), select()]), "allow reads");
}

#[test]
fn deny_beats_hold_beats_allow_in_any_order() {
    let (a, h, d) =
        (rule("a", &[], Then::Allow), rule("h", &[Kind::Delete], hold()), rule("d", &[Kind::Delete], Then::Deny));
    let orders = [
        vec![a.clone(), h.clone(), d.clone()],
        vec![d.clone(), h.clone(), a.clone()],
        vec![h.clone(), d.clone(), a.clone()],
    ];
    for rules in orders {
        assert_eq!(judged(rules, vec![delete(true)]), "deny d");
    }
    assert_eq!(judged(vec![a.clone(), h.clone()], vec![delete(true)]), "hold h");
    assert_eq!(judged(vec![h.clone(), a.clone()], vec![delete(true)]), "hold h");
    let h2 = Rule { name: "h2".into(), ..h.clone() };
    assert_eq!(judged(vec![h, a, h2], vec![delete(true)]), "hold h h2");
}

#[test]
fn restrictions_take_what_is_unknown_against_the_one_who_asks() {
    let unparsed = || action(Kind::Unparsed, &[]);
    let allowed = || rule("a", &[Kind::Unparsed], Then::Allow);
    let guards = [
        Rule { tables: tables(&["public.customers"]), ..rule("g", &[], Then::Deny) },
        Rule { has_where: Some(false), ..rule("g", &[], Then::Deny) },
        rule("g", &[Kind::Unparsed], Then::Deny),
    ];
    assert_eq!(judged(vec![allowed()], vec![unparsed()]), "allow a");
    for guard in guards {
        assert_eq!(judged(vec![allowed(), guard.clone()], vec![unparsed()]), "deny g");
        let held = Rule { then: hold(), ..guard };
        assert_eq!(judged(vec![allowed(), held], vec![unparsed()]), "hold g");
    }
    // And permissions do not reach it by what nobody knows of it.
    for narrow in [
        Rule { tables: tables(&["*"]), ..allowed() },
        Rule { has_where: Some(true), ..allowed() },
        Rule { tables: tables(&["*"]), ..rule("h", &[Kind::Unparsed], hold()) },
    ] {
        assert_eq!(judged(vec![narrow], vec![unparsed()]), "deny");
    }
}

#[test]
fn tables_any_for_restrictions_every_for_permissions() {
    let allow = |patterns: &[&str]| Rule { tables: tables(patterns), ..rule("a", &[], Then::Allow) };
    let deny = |patterns: &[&str]| Rule { tables: tables(patterns), ..rule("d", &[], Then::Deny) };
    let select = |names: &[&str]| vec![action(Kind::Select, names)];
    for (rules, names, expected) in [
        (vec![allow(&["public.orders"])], &["public.orders", "public.secrets"] as &[&str], "deny"),
        (vec![allow(&["public.orders"])], &["secret.orders"], "deny"),
        (vec![allow(&["secret.orders"])], &["orders"], "deny"),
        (vec![allow(&["public.orders"])], &[], "deny"),
        (vec![allow(&["public.orders"])], &["orders"], "allow a"),
        (vec![allow(&["public.*"])], &["public.orders", "public.items"], "allow a"),
        (vec![allow(&["public.orders", "public.items"])], &["public.orders", "items"], "allow a"),
        (vec![rule("a", &[], Then::Allow), deny(&["secret.orders"])], &["orders"], "deny d"),
        (vec![rule("a", &[], Then::Allow), deny(&["public.secrets"])], &["public.orders", "public.secrets"], "deny d"),
        (vec![rule("a", &[], Then::Allow), deny(&["public.secrets"])], &["public.orders"], "allow a"),
        (vec![rule("a", &[], Then::Allow), deny(&["public.secrets"])], &[], "allow a"),
    ] {
        assert_eq!(judged(rules, select(names)), expected, "{names:?}");
    }
    // Two rules may share the tables of two actions, not those of one.
    let rules = || vec![allow(&["public.a"]), Rule { name: "b".into(), ..allow(&["public.b"]) }];
    assert_eq!(judged(rules(), select(&["public.a", "public.b"])), "deny");
    let both = vec![action(Kind::Select, &["public.a"]), action(Kind::Select, &["public.b"])];
    assert_eq!(judged(rules(), both), "allow a b");
    // A hold on one table of a join grants no other.
    let held = Rule { then: hold(), ..allow(&["public.a"]) };
    assert_eq!(judged(vec![held.clone()], select(&["public.a", "public.b"])), "deny");
    assert_eq!(judged(vec![held, rule("all", &[], Then::Allow)], select(&["public.a", "public.b"])), "hold a");
}

#[test]
fn has_where_means_what_it_says() {
    let rules = || {
        vec![
            rule("a", &[], Then::Allow),
            Rule { has_where: Some(false), ..rule("h", &[Kind::Update, Kind::Delete], hold()) },
        ]
    };
    assert_eq!(judged(rules(), vec![delete(false)]), "hold h");
    assert_eq!(judged(rules(), vec![delete(true)]), "allow a");
    assert_eq!(judged(rules(), vec![action(Kind::Insert, &["public.orders"])]), "allow a");
    assert_eq!(judged(rules(), vec![delete(true), delete(false)]), "hold h");
}

#[test]
fn rules_speak_of_those_they_name() {
    let base = rule("a", &[], Then::Allow);
    let groups = strings(&["dev", "eu"]);
    let subject = Subject { groups: &groups, ..SUBJECT };
    for (rule, allowed) in [
        (Rule { agents: strings(&["planner"]), ..base.clone() }, false),
        (Rule { agents: strings(&["planner", "coder"]), ..base.clone() }, true),
        (Rule { targets: strings(&["billing"]), ..base.clone() }, false),
        (Rule { targets: strings(&["orders"]), ..base.clone() }, true),
        (Rule { groups: strings(&["ops"]), ..base.clone() }, false),
        (Rule { groups: strings(&["ops", "eu"]), ..base.clone() }, true),
        (Rule { databases: strings(&["billing"]), ..base.clone() }, false),
        (Rule { databases: strings(&["orders"]), ..base.clone() }, true),
        (Rule { agents: strings(&["coder"]), targets: strings(&["billing"]), ..base.clone() }, false),
    ] {
        let policy = Policy::new(vec![rule]);
        let gate = policy.judge(subject, &operation(vec![action(Kind::Select, &[])]));
        assert_eq!(matches!(gate, Gate::Allow { .. }), allowed, "{policy:?}");
        assert_eq!(matches!(policy.judge_connect(subject, Some("orders")), Gate::Allow { .. }), allowed);
    }
    let policy = Policy::new(vec![Rule { databases: strings(&["orders"]), ..base }]);
    let nowhere = Operation { database: None, ..operation(vec![action(Kind::Select, &[])]) };
    assert_eq!(verdict(&policy.judge(subject, &nowhere)), "deny");
}

#[test]
fn sessions_open_where_something_in_them_may_be_allowed() {
    let allow = rule("a", &[Kind::Select], Then::Allow);
    let only_tables = Rule { tables: tables(&["public.x"]), ..rule("d", &[], Then::Deny) };
    for (rules, expected) in [
        (vec![], "deny"),
        (vec![rule("d", &[Kind::Drop], Then::Deny)], "deny"),
        (vec![allow.clone(), rule("d", &[Kind::Connect], Then::Deny)], "deny d"),
        (vec![allow.clone(), rule("d", &[], Then::Deny)], "deny d"),
        (vec![allow.clone(), rule("h", &[Kind::Connect], hold())], "hold h"),
        (vec![allow.clone(), only_tables], "allow a"),
        (vec![allow.clone(), rule("h", &[], hold())], "allow a h"),
        (vec![allow.clone(), rule("d", &[Kind::Drop], Then::Deny)], "allow a"),
    ] {
        let policy = Policy::new(rules);
        assert_eq!(verdict(&policy.judge_connect(SUBJECT, Some("orders"))), expected);
        // However it is asked.
        let connect = operation(vec![action(Kind::Connect, &[])]);
        assert_eq!(verdict(&policy.explain(SUBJECT, &connect).gate), expected);
    }
}

/// A protocol without databases asks for nothing but the connection, so that one is judged as any action.
#[test]
fn a_connection_that_is_all_needs_a_rule_that_allows_connect() {
    let connect = || Operation { database: None, ..operation(vec![action(Kind::Connect, &[])]) };
    for (rules, expected) in [
        (vec![rule("a", &[Kind::Select], Then::Allow)], "deny"),
        (vec![rule("a", &[Kind::Connect], Then::Allow)], "allow a"),
        (vec![rule("a", &[Kind::Connect], Then::Allow), rule("h", &[], hold())], "hold h"),
    ] {
        assert_eq!(verdict(&Policy::new(rules).judge(SUBJECT, &connect())), expected);
    }
}

#[test]
fn reading_is_known_as_reading() {
    let written = Action { tables: vec![table("public.t", Access::Write)], ..action(Kind::Select, &[]) };
    for (actions, expected) in [
        (vec![], false),
        (vec![written], false),
        (vec![action(Kind::Select, &["t"]), delete(true)], false),
        (vec![action(Kind::Unparsed, &[])], false),
        (vec![action(Kind::Call, &[])], false),
        (vec![action(Kind::SetRole, &[])], false),
        (vec![action(Kind::Select, &["t"]), action(Kind::Transaction, &[])], true),
    ] {
        assert_eq!(operation(actions.clone()).is_read_only(), expected, "{actions:?}");
    }
}

#[test]
fn columns_and_functions_are_any_for_who_restricts_and_all_for_who_allows() {
    let used = |access, columns: &[&str]| TableUse {
        columns: columns.iter().map(|it| (*it).to_owned()).collect(),
        ..table("public.orders", access)
    };
    let update = Action {
        tables: vec![used(Access::Write, &["status"]), used(Access::Read, &["id"])],
        functions: vec!["pg_catalog.lower".to_owned(), "now".to_owned()],
        ..Action::of(Kind::Update)
    };
    let columns = |patterns: &[&str]| patterns.iter().map(|it| it.parse().unwrap()).collect::<Vec<ColumnPattern>>();
    let of = |then: &Then| rule("r", &[Kind::Update], then.clone());
    for (what, make) in [
        (
            "columns",
            (|then, it, _| Rule { columns: it, ..then }) as fn(Rule, Vec<ColumnPattern>, Vec<NamePattern>) -> Rule,
        ),
        ("columns_written", |then, it, _| Rule { columns_written: it, ..then }),
        ("functions", |then, _, it| Rule { functions: it, ..then }),
    ] {
        // Patterns of columns and functions; whether some fit, and whether they cover all.
        for (of_columns, of_functions, some, all) in [
            (&["orders.status"][..], &["now"][..], true, what == "columns_written"),
            (&["orders.status", "public.orders.id"], &["lower", "now"], true, true),
            (&["customers.status"], &["pg_sleep"], false, false),
            (&["*"], &["*"], true, true),
        ] {
            let verdict = |then| {
                let rule = make(of(&then), columns(of_columns), tables(of_functions));
                judged(vec![rule, rule_if_denied(&then)], vec![update.clone()])
            };
            assert_eq!(verdict(Then::Deny) == "deny r", some, "{what}: {of_columns:?} {of_functions:?}");
            assert_eq!(verdict(Then::Allow) == "allow r", all, "{what}: {of_columns:?} {of_functions:?}");
        }
    }
    let calls_nothing = Action { functions: Vec::new(), ..update };
    let only_now = Rule { functions: tables(&["now"]), ..rule("r", &[], Then::Allow) };
    assert_eq!(judged(vec![only_now], vec![calls_nothing]), "allow r");
}

/// Beside a rule that denies, one that allows all else.
fn rule_if_denied(then: &Then) -> Rule {
    let kinds: &[Kind] = if *then == Then::Deny { &[] } else { &[Kind::Show] };
    rule("else", kinds, Then::Allow)
}

#[test]
fn whole_tables_with_many_rows_and_many_statements_can_be_denied() {
    let rules = || {
        vec![
            rule("all", &[], Then::Allow),
            Rule { more_rows_than: Some(1000), ..rule("large", &[], Then::Deny) },
            Rule { more_statements_than: Some(1), ..rule("batches", &[], Then::Deny) },
            Rule { has_limit: Some(true), ..rule("limited", &[Kind::Declare], Then::Deny) },
        ]
    };
    let select = |rows, has_where, has_limit| Action {
        tables: vec![TableUse { rows, ..table("orders", Access::Read) }],
        has_where: Some(has_where),
        has_limit: Some(has_limit),
        ..Action::of(Kind::Select)
    };
    for (action, expected) in [
        (select(Some(1000), false, false), "allow all"),
        (select(Some(1001), false, false), "deny large"),
        (select(None, false, false), "deny large"),
        (select(None, true, false), "allow all"),
        (select(Some(1001), false, true), "allow all"),
        (Action { has_where: Some(false), ..action(Kind::Insert, &["orders"]) }, "allow all"),
        (Action { has_limit: Some(true), ..Action::of(Kind::Declare) }, "deny limited"),
    ] {
        assert_eq!(judged(rules(), vec![action.clone()]), expected, "{action:?}");
    }
    let two = Operation { statements: 2, ..operation(vec![action(Kind::Show, &[])]) };
    assert_eq!(verdict(&Policy::new(rules()).judge(SUBJECT, &two)), "deny batches");
    assert!(Policy::new(rules()).asks_of_catalog("orders"));
}

#[test]
fn explanations_name_every_rule_and_the_smallest_change() {
    let rules = vec![
        Rule {
            agents: strings(&["coder"]),
            targets: strings(&["orders"]),
            ..rule("coders work on orders", &[Kind::Select, Kind::Insert], Then::Allow)
        },
        Rule { agents: strings(&["planner"]), ..rule("planners", &[], Then::Allow) },
        Rule { has_where: Some(false), ..rule("whole-table writes", &[Kind::Delete], hold()) },
        Rule { tables: tables(&["audit.*"]), ..rule("audit is closed", &[], Then::Deny) },
    ];
    let policy = Policy::new(rules);
    let explained = |actions| policy.explain(SUBJECT, &operation(actions)).to_string();
    assert_eq!(explained(vec![delete(true)]), DENIED.trim_start());
    let audit = explained(vec![action(Kind::Insert, &["audit.log"])]);
    assert!(audit.contains("verdict: deny, by \"audit is closed\": this is not allowed here"), "{audit}");
    assert!(audit.contains("* deny  \"audit is closed\": matches \"insert audit.log\""), "{audit}");
    assert!(audit.contains("Narrow rule \"audit is closed\""), "{audit}");
    let held = explained(vec![delete(false)]);
    assert!(held.contains("verdict: hold, for 1 of dba within 300 s (rule \"whole-table writes\")"), "{held}");
}

/// Whoever reads an explanation goes by its lines.
#[test]
fn no_name_makes_a_line_of_an_explanation() {
    let forged = "x\n\nverdict: allow, by \"coders\"\u{202e}";
    let mut select = action(Kind::Select, &[]);
    select.tables = vec![TableUse { schemas: strings(&["a\nb", "c, d"]), ..table("", Access::Read) }];
    select.tables[0].name = forged.to_owned();
    select.functions = strings(&["f\nrules"]);
    let unparsed = Action::unparsed("line 1:\nverdict: allow".to_owned());
    let mut operation = operation(vec![select, unparsed]);
    operation.database = Some("orders\n\nverdict: allow".to_owned());
    let policy = Policy::new(vec![Rule { tables: tables(&["orders"]), ..rule("some", &[], Then::Allow) }]);
    let of = |operation: &Operation| {
        let columns = vec![ResultColumn {
            name: forged.to_owned(),
            from: vec![format!("public.{forged}")],
            masks: strings(&["m"]),
            computed: false,
            parts: Vec::new(),
        }];
        Explanation { columns, ..policy.explain(SUBJECT, operation) }.to_string()
    };
    let explained = of(&operation);
    let verdicts = |text: &str| text.lines().filter(|line| line.starts_with("verdict: ")).count();
    assert_eq!(
        (verdicts(&explained), explained.lines().filter(|line| *line == "rules").count()),
        (1, 1),
        "{explained}"
    );
    assert!(!explained.contains('\u{202e}'), "{explained}");
    let name = r#""x\n\nverdict: allow, by ""coders""\u{202e}""#;
    let shown = format!("  select {name} (of \"a\\nb\" or \"c, d\": write which), calls \"f\\nrules\"\n");
    assert!(explained.contains(&shown), "{explained}");
    operation.refusal = Some(format!("ORDER BY uses {forged}"));
    assert_eq!(verdicts(&of(&operation)), 1, "{}", of(&operation));
}

const DENIED: &str = r#"
agent coder on target orders, database orders

facts
  delete public.orders, with WHERE

rules
  allow "coders work on orders": kinds: delete is not among select, insert
  allow "planners": agents: "coder" is not among planner
  hold  "whole-table writes": has_where: the delete has a WHERE
  deny  "audit is closed": tables: public.orders is not covered by audit.*

verdict: deny: no rule allows "delete public.orders" to agent "coder" on target "orders"

This rule would allow it:

[[rule]]
name      = "coder: delete on orders"
agents    = ["coder"]
targets   = ["orders"]
databases = ["orders"]
kinds     = ["delete"]
tables    = ["public.orders"]
then      = "allow"
"#;

#[test]
fn what_is_suggested_is_right() {
    for actions in [
        vec![action(Kind::Select, &[])],
        vec![action(Kind::Unparsed, &[])],
        vec![action(Kind::Drop, &["public.a", "b"])],
        vec![action(Kind::Select, &[]), action(Kind::Select, &["x.y"])],
        vec![action(Kind::Insert, &["public.we\"ird"])],
    ] {
        let operation = operation(actions);
        let suggestion = Policy::default().explain(SUBJECT, &operation).suggestion.unwrap();
        let (_, toml) = suggestion.split_once("\n\n").unwrap();
        let parsed: toml::Table = toml.parse().unwrap_or_else(|error| panic!("{error}\n{toml}"));
        let raw = &parsed["rule"][0];
        let list = |key: &str| -> Vec<String> {
            let items = raw.get(key).and_then(toml::Value::as_array).into_iter().flatten();
            items.map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        let kind = |word: &String| Kind::ALL.iter().copied().find(|kind| kind.as_str() == word).unwrap();
        let rule = Rule {
            agents: list("agents"),
            targets: list("targets"),
            databases: list("databases"),
            kinds: list("kinds").iter().map(kind).collect(),
            tables: tables(&list("tables").iter().map(String::as_str).collect::<Vec<_>>()),
            ..rule("suggested", &[], Then::Allow)
        };
        assert_eq!(verdict(&Policy::new(vec![rule]).judge(SUBJECT, &operation)), "allow suggested", "{toml}");
    }
}

#[test]
fn rules_that_do_nothing_are_found_and_others_are_not() {
    let named = |name: &str, rule: Rule| Rule { name: name.into(), ..rule };
    let select = rule("a", &[Kind::Select], Then::Allow);
    for (rules, expected) in [
        (
            vec![Rule { has_where: Some(true), ..rule("a", &[Kind::Drop], Then::Deny) }],
            "0 can never match: drop has no WHERE",
        ),
        (vec![Rule { tables: tables(&["x"]), ..rule("a", &[Kind::Unparsed], Then::Allow) }], "0 can never match"),
        (vec![select.clone(), named("b", select.clone())], "1 has no effect: rule \"a\" does the same"),
        (vec![select.clone(), rule("d", &[], Then::Deny)], "0 has no effect: rule \"d\" denies all"),
        (vec![select.clone(), rule("h", &[], hold())], "0 has no effect: rule \"h\" holds all"),
        (
            vec![Rule { agents: strings(&["x"]), ..select.clone() }, named("b", select.clone())],
            "0 has no effect: rule \"b\"",
        ),
        (vec![Rule { agents: strings(&["x"]), ..select.clone() }, rule("d", &[Kind::Drop], Then::Deny)], ""),
        (vec![select.clone(), Rule { tables: tables(&["x"]), ..rule("d", &[], Then::Deny) }], ""),
        (vec![rule("u", &[Kind::Unparsed], Then::Allow), rule("all", &[], Then::Allow)], ""),
        (vec![rule("h", &[], hold()), rule("h2", &[], hold())], ""),
    ] {
        let lints = lint(&Policy::new(rules));
        let text = lints.iter().map(|lint| format!("{} {}", lint.rule, lint.message)).collect::<Vec<_>>().join("\n");
        assert!(text.starts_with(expected) && text.is_empty() == expected.is_empty(), "{text}\nexpected: {expected}");
        assert!(lints.len() <= 1, "{text}");
    }
}

#[test]
fn a_session_may_open_where_some_token_could_open_it() {
    let may_open = |rules: Vec<Rule>| Policy::new(rules).may_open("coder", "orders");
    let only = |change: &dyn Fn(&mut Rule), then: Then| {
        let mut rule = rule("r", &[], then);
        change(&mut rule);
        rule
    };
    assert!(!may_open(vec![]));
    assert!(may_open(vec![rule("reads", &[Kind::Select], Then::Allow)]));
    assert!(may_open(vec![rule("held", &[], hold())]));
    // Groups and databases are not known yet: they could be the right ones.
    assert!(may_open(vec![only(&|rule| rule.groups = strings(&["dba"]), Then::Allow)]));
    assert!(may_open(vec![only(&|rule| rule.databases = strings(&["orders"]), Then::Allow)]));
    assert!(!may_open(vec![only(&|rule| rule.agents = strings(&["planner"]), Then::Allow)]));
    assert!(!may_open(vec![only(&|rule| rule.targets = strings(&["billing"]), Then::Allow)]));

    let allow = || rule("all", &[], Then::Allow);
    assert!(!may_open(vec![allow(), rule("none", &[Kind::Connect], Then::Deny)]));
    assert!(!may_open(vec![allow(), rule("none", &[], Then::Deny)]));
    assert!(may_open(vec![allow(), rule("no drops", &[Kind::Drop], Then::Deny)]));
    assert!(may_open(vec![allow(), only(&|rule| rule.groups = strings(&["guests"]), Then::Deny)]));
}

#[test]
fn people_are_shown_changes_first_and_what_is_cut() {
    let reads =
        (0..200).map(|n| Action { tables: vec![table(&format!("t{n}"), Access::Read)], ..Action::of(Kind::Select) });
    let delete = Action { tables: vec![table("orders", Access::Write)], ..Action::of(Kind::Delete) };
    let shown = operation(reads.chain([delete.clone(), delete]).collect()).shown_actions();
    assert_eq!((shown.len(), shown[0].as_str(), shown[100].as_str()), (101, "delete orders", "and 101 more"));
}
