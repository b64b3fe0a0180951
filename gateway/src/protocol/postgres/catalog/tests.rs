use super::code::{Body, CodeRow, Runs};
use super::read::WHOLE_ROW;
use super::*;
use crate::mask::ColumnPattern;
use crate::mask::MaskKind;

fn relation(oid: u32, schema: &str, name: &str, kind: char) -> RelationRow {
    RelationRow { oid, schema: schema.to_owned(), name: name.to_owned(), kind, rows: None, columns: 100 }
}

fn column(relation: u32, number: i16, name: &str) -> ColumnRow {
    ColumnRow { relation, number, name: name.to_owned() }
}

/// A mask of columns written `schema.table.column`.
fn mask(patterns: &[&str]) -> Arc<MaskRule> {
    let pattern = |text: &&str| {
        let parts: Vec<&str> = text.split('.').collect();
        let part = |at: usize| (parts[at] != "*").then(|| parts[at].to_owned());
        ColumnPattern { schema: part(0), table: part(1), column: parts[2].to_owned() }
    };
    Arc::new(MaskRule {
        name: "PII".to_owned(),
        targets: Vec::new(),
        columns: patterns.iter().map(pattern).collect(),
        detectors: Vec::new(),
        with: MaskKind::Redact,
        lookups_per_minute: None,
    })
}

fn resolve(snapshot: &Snapshot, masks: &[Arc<MaskRule>]) -> Result<TaggedSet, CatalogError> {
    TaggedSet::resolve(snapshot, masks, SystemTime::UNIX_EPOCH)
}

fn tagged(names: &[&str]) -> Exposure {
    Exposure::Tagged(names.iter().map(|it| (*it).to_owned()).collect())
}

fn two_schemas() -> Snapshot {
    Snapshot {
        relations: vec![
            relation(1, "public", "people", 'r'),
            relation(2, "crm", "people", 'r'),
            relation(3, "public", "orders", 'r'),
            relation(4, "pg_catalog", "pg_authid", 'r'),
            relation(5, "pg_catalog", "pg_stats", 'v'),
        ],
        columns: vec![
            column(1, 2, "email"),
            column(2, 7, "email"),
            column(2, 8, "ssn"),
            column(3, 1, "id"),
            column(4, 1, "email"),
        ],
        ..Snapshot::default()
    }
}

#[test]
fn a_pattern_names_columns_and_a_wildcard_stays_out_of_system_schemas() {
    let set = resolve(&two_schemas(), &[mask(&["*.*.email"])]).unwrap();
    assert_eq!(set.masks(1, 2).len(), 1);
    assert_eq!(set.masks(2, 7).len(), 1);
    assert!(set.masks(2, 8).is_empty());
    assert!(set.masks(4, 1).is_empty());
    let set = resolve(&two_schemas(), &[mask(&["crm.peop*.*"])]).unwrap();
    assert_eq!((set.masks(1, 2).len(), set.masks(2, 7).len(), set.masks(2, 8).len()), (0, 1, 1));
}

#[test]
fn all_masks_of_a_column_apply() {
    let set = resolve(&two_schemas(), &[mask(&["*.*.email"]), mask(&["public.people.email"])]).unwrap();
    assert_eq!(set.masks(1, 2).len(), 2);
    assert_eq!(set.masks(2, 7).len(), 1);
}

#[test]
fn a_pattern_that_names_nothing_is_an_error() {
    let error = resolve(&two_schemas(), &[mask(&["*.*.email", "public.people.ssn"])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mask \"PII\": column pattern \"public.people.ssn\" matches no column of this database"
    );
}

#[test]
fn a_name_without_a_schema_stands_for_every_relation_of_that_name() {
    let set = resolve(&two_schemas(), &[mask(&["crm.people.ssn"])]).unwrap();
    assert_eq!(set.exposure(Some("crm"), "people"), tagged(&["ssn"]));
    assert_eq!(set.exposure(Some("public"), "people"), Exposure::Clear);
    assert_eq!(set.exposure(None, "people"), tagged(&["ssn"]));
    assert_eq!(set.exposure(None, "orders"), Exposure::Clear);
    assert_eq!(set.exposure(None, "fresh"), Exposure::Unknown);
    assert_eq!(set.exposure(None, "pg_stats"), Exposure::Derived);
    assert_eq!(set.exposure(Some("pg_toast"), "pg_toast_1"), Exposure::Derived);
    assert_eq!(set.exposure(None, "pg_toast_1"), Exposure::Derived);
    assert!(TaggedSet::empty(SystemTime::UNIX_EPOCH).exposure(None, "pg_stats") == Exposure::Clear);
}

#[test]
fn views_rules_and_foreign_tables_are_derived() {
    let mut snapshot = two_schemas();
    snapshot.relations.extend([
        relation(20_001, "public", "view", 'v'),
        relation(20_002, "public", "view_of_view", 'v'),
        relation(20_003, "public", "harmless", 'v'),
        relation(20_004, "public", "calls", 'v'),
        relation(20_005, "public", "of_calls", 'm'),
        relation(20_006, "public", "elsewhere", 'f'),
        relation(20_007, "public", "of_stats", 'v'),
    ]);
    snapshot.rewrites =
        vec![(20_001, 2), (20_002, 20_001), (20_003, 3), (20_005, 20_004), (20_007, 5), (20_002, 20_002)];
    snapshot.opaque = vec![20_004, 5];
    let set = resolve(&snapshot, &[mask(&["crm.people.ssn"])]).unwrap();
    for name in ["view", "view_of_view", "calls", "of_calls", "elsewhere", "of_stats"] {
        assert_eq!(set.exposure(None, name), Exposure::Derived, "{name}");
    }
    assert_eq!(set.exposure(None, "harmless"), Exposure::Clear);
}

#[test]
fn a_mask_on_a_view_makes_the_view_refused_not_masked() {
    let mut snapshot = two_schemas();
    snapshot.relations.push(relation(9, "public", "people_view", 'v'));
    snapshot.columns.push(column(9, 1, "mail"));
    let set = resolve(&snapshot, &[mask(&["public.people_view.mail"])]).unwrap();
    assert_eq!(set.exposure(None, "people_view"), Exposure::Derived);
    assert!(!set.is_ordinary(9));
}

#[test]
fn partitions_share_the_tags_of_their_kin_by_name() {
    let snapshot = Snapshot {
        relations: vec![
            relation(1, "public", "all_people", 'p'),
            relation(2, "public", "people_a", 'p'),
            relation(3, "public", "people_a_1", 'r'),
            relation(4, "public", "people_b", 'r'),
        ],
        columns: vec![
            column(1, 1, "email"),
            column(2, 2, "email"),
            column(3, 3, "email"),
            column(4, 4, "email"),
            column(4, 5, "ssn"),
        ],
        inherits: vec![(2, 1), (3, 2), (4, 1)],
        ..Snapshot::default()
    };
    let set = resolve(&snapshot, &[mask(&["public.people_a_1.email"])]).unwrap();
    for at in [(1, 1), (2, 2), (3, 3), (4, 4)] {
        assert_eq!(set.masks(at.0, at.1).len(), 1, "{at:?}");
    }
    assert!(set.masks(4, 5).is_empty());
    assert_eq!(set.exposure(None, "people_b"), tagged(&["email"]));
    assert!(set.is_ordinary(1) && set.is_ordinary(3));
}

#[test]
fn names_beyond_ascii_are_found() {
    let mut snapshot = two_schemas();
    let plain = resolve(&two_schemas(), &[mask(&["crm.people.ssn"])]).unwrap();
    assert_eq!(plain.fragile_name(), None);
    snapshot.relations.push(relation(8, "public", "mädchen", 'r'));
    snapshot.columns.push(column(8, 1, "ssn"));
    let set = resolve(&snapshot, &[mask(&["*.*.ssn"])]).unwrap();
    assert_eq!(set.fragile_name(), Some("mädchen"));
}

#[test]
fn what_kin_generates_from_an_inherited_column_is_tagged() {
    let snapshot = Snapshot {
        relations: vec![
            relation(1, "public", "people", 'r'),
            relation(2, "public", "a", 'r'),
            relation(3, "public", "b", 'r'),
        ],
        columns: vec![
            column(1, 1, "email"),
            column(1, 2, "low"),
            column(2, 1, "email"),
            column(2, 2, "low"),
            column(3, 1, "email"),
            column(3, 2, "low"),
        ],
        inherits: vec![(2, 1), (3, 1)],
        made_of: vec![(column(3, 3, "lower"), (3, 2)), (column(2, 2, "low"), (2, 1))],
        ..Snapshot::default()
    };
    let set = resolve(&snapshot, &[mask(&["public.people.email"])]).unwrap();
    for at in [(2, 2), (1, 2), (3, 2), (3, 3)] {
        assert_eq!(set.masks(at.0, at.1).len(), 1, "{at:?}");
    }
}

#[test]
fn a_policy_that_reads_tagged_data_guards_what_is_built_on_its_table() {
    let mut snapshot = two_schemas();
    snapshot.relations.extend([
        relation(20_001, "public", "guarded", 'r'),
        relation(20_002, "public", "of_guarded", 'v'),
        relation(20_003, "public", "guarded_by_guarded", 'r'),
        relation(20_004, "public", "harmless", 'r'),
    ]);
    snapshot.policies = vec![(20_003, 20_002), (20_001, 2), (20_004, 3)];
    snapshot.rewrites = vec![(20_002, 20_001)];
    let set = resolve(&snapshot, &[mask(&["crm.people.ssn"])]).unwrap();
    for name in ["guarded", "of_guarded", "guarded_by_guarded"] {
        assert!(set.is_guarded(None, name) && set.exposure(None, name) == Exposure::Clear, "{name}");
    }
    snapshot.policies.clear();
    snapshot.rewrites = vec![(20_002, 20_001)];
    snapshot.inherits = vec![(2, 20_003), (20_003, 20_001), (3, 20_004)];
    let set = resolve(&snapshot, &[mask(&["crm.people.ssn"])]).unwrap();
    for name in ["guarded", "of_guarded", "guarded_by_guarded"] {
        assert!(set.is_guarded(None, name) && set.exposure(None, name) == Exposure::Clear, "{name}: of a parent");
    }
    assert!(set.is_guarded(Some("public"), "guarded") && !set.is_guarded(Some("crm"), "guarded"));
    assert!(!set.is_guarded(None, "harmless") && !set.is_guarded(None, "orders"));
}

#[test]
fn a_column_generated_from_a_tagged_one_is_tagged() {
    let mut snapshot = two_schemas();
    snapshot.made_of = vec![(column(1, 9, "email_lower"), (1, 2)), (column(3, 9, "next"), (3, 1))];
    let set = resolve(&snapshot, &[mask(&["public.people.email"])]).unwrap();
    assert_eq!(set.masks(1, 9).len(), 1);
    assert!(set.masks(3, 9).is_empty());
    assert_eq!(set.exposure(None, "people"), tagged(&["email", "email_lower"]));
}

#[test]
fn a_column_with_a_row_in_it_shows_what_that_has() {
    let mut snapshot = two_schemas();
    snapshot.relations.extend([
        relation(20_001, "public", "view", 'v'),
        relation(20_003, "public", "of_rows", 'r'),
        relation(20_004, "public", "of_types", 'r'),
        relation(20_005, "public", "of_view", 'r'),
    ]);
    snapshot.rewrites = vec![(20_001, 2)];
    // 20_002 is a type, which is no relation.
    snapshot.made_of = vec![
        (column(20_004, 1, "kept"), (20_002, WHOLE_ROW)),
        (column(20_002, 1, "old"), (2, WHOLE_ROW)),
        (column(20_003, 1, "old"), (2, WHOLE_ROW)),
        (column(20_003, 2, "other"), (3, WHOLE_ROW)),
        (column(20_005, 1, "shown"), (20_001, WHOLE_ROW)),
    ];
    let set = resolve(&snapshot, &[mask(&["crm.people.ssn"])]).unwrap();
    assert_eq!(set.exposure(None, "of_rows"), tagged(&["old"]));
    assert_eq!(set.exposure(None, "of_types"), tagged(&["kept"]));
    assert_eq!(set.exposure(None, "of_view"), Exposure::Derived);
}

#[test]
fn a_table_into_which_code_puts_what_it_reads_is_derived() {
    let mut snapshot = two_schemas();
    snapshot.relations.extend([relation(6, "public", "parts", 'p'), relation(7, "public", "part", 'r')]);
    snapshot.relations.push(relation(8, "public", "plain", 'r'));
    snapshot.inherits = vec![(7, 6)];
    snapshot.relations.extend([relation(9, "public", "kept", 'r'), relation(10, "public", "after", 'r')]);
    let code = |relation, function, runs| CodeRow { relation, function, runs };
    let (before, after) = (Runs::TriggerBefore, Runs::TriggerAfter);
    snapshot.code = vec![code(3, 90, Runs::Value), code(7, 91, before), code(2, 91, before), code(8, 92, before)];
    snapshot.code.extend([code(9, 93, after), code(10, 91, after), code(2, 94, after)]);
    snapshot.bodies = HashMap::from([
        (90, Body::new("note", Some("SELECT ssn FROM people"), &HashSet::new())),
        (91, Body::new("copy", Some("BEGIN NEW.x := note(); RETURN NEW; END"), &HashSet::new())),
        (92, Body::new("touch", Some("BEGIN NEW.at := now(); RETURN NEW; END"), &HashSet::new())),
        (93, Body::new("keep", Some("BEGIN PERFORM set_config('a.b', note(), false); END"), &HashSet::new())),
        (94, Body::new("guard", Some("BEGIN PERFORM set_config('a.b', '1', false); END"), &HashSet::new())),
    ]);
    let set = resolve(&snapshot, &[mask(&["crm.people.ssn"])]).unwrap();
    for name in ["orders", "part", "parts", "kept"] {
        assert_eq!(set.exposure(None, name), Exposure::Derived, "{name}");
    }
    assert_eq!(set.exposure(None, "plain"), Exposure::Clear);
    assert_eq!(set.exposure(None, "after"), Exposure::Clear);
    assert_eq!(set.exposure(Some("crm"), "people"), tagged(&["ssn"]), "its own triggers change nothing");
    let keeps = "BEGIN PERFORM set_config('a.b', NEW.ssn, false); END";
    snapshot.bodies.insert(94, Body::new("guard", Some(keeps), &HashSet::new()));
    let set = resolve(&snapshot, &[mask(&["crm.people.ssn"])]).unwrap();
    assert_eq!(set.exposure(Some("crm"), "people"), Exposure::Derived, "but for those that put it where it is read");
}
