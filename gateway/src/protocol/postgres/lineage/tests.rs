//! Trees written by hand: what no server prints, and what one walk must make of it. Real ones are in the suites `evasion` and
//! `noninterference`.

use std::sync::Arc;
use std::time::SystemTime;

use super::*;
use crate::mask::{MaskKind, MaskRule};
use crate::protocol::postgres::catalog::{ColumnRow, RelationRow, Snapshot, UniqueRow};

/// `customers (id, ssn)`, of which the second is masked.
const CUSTOMERS: u32 = 20_000;

fn set() -> TaggedSet {
    set_with(Vec::new())
}

fn set_with(unique: Vec<UniqueRow>) -> TaggedSet {
    let snapshot = Snapshot {
        relations: vec![RelationRow {
            oid: CUSTOMERS,
            schema: "public".into(),
            name: "customers".into(),
            kind: 'r',
            rows: None,
            columns: 100,
        }],
        columns: vec![ColumnRow { relation: CUSTOMERS, number: 2, name: "ssn".into() }],
        unique,
        ..Snapshot::default()
    };
    let mask = MaskRule {
        name: "PII".into(),
        targets: Vec::new(),
        columns: vec!["*.*.ssn".parse().unwrap()],
        detectors: Vec::new(),
        with: MaskKind::Redact,
        lookups_per_minute: None,
    };
    TaggedSet::resolve(&snapshot, &[Arc::new(mask)], SystemTime::UNIX_EPOCH).unwrap()
}

fn var(item: usize, number: i32, up: usize) -> String {
    format!("{{VAR :varno {item} :varattno {number} :vartype 25 :varlevelsup {up}}}")
}

fn relation(kind: char, oid: u32) -> String {
    format!(
        "{{RANGETBLENTRY :eref {{ALIAS :aliasname c :colnames (\"id\" \"ssn\")}} :rtekind 0 :relid {oid} :relkind {kind}}}"
    )
}

fn customers() -> String {
    relation('r', CUSTOMERS)
}

fn subquery(query: &str) -> String {
    format!("{{RANGETBLENTRY :rtekind 1 :subquery {query}}}")
}

/// A SELECT of these expressions from these items, with more fields.
fn select(items: &[String], expressions: &[String], more: &str) -> String {
    let refs: Vec<String> = (1..=items.len()).map(|it| format!("{{RANGETBLREF :rtindex {it}}}")).collect();
    let targets = expressions.iter().enumerate().map(|(index, expression)| {
        format!(
            "{{TARGETENTRY :expr {expression} :resno {0} :resname c :ressortgroupref {0} :resorigtbl 0 :resorigcol 0 :resjunk false}}",
            index + 1
        )
    });
    let targets: Vec<String> = targets.collect();
    format!(
        "{{QUERY :commandType 1 :hasModifyingCTE false :utilityStmt <> :rtable ({}) :jointree {{FROMEXPR :fromlist ({})}} \
         :targetList ({}) {more}}}",
        items.join(" "),
        refs.join(" "),
        targets.join(" ")
    )
}

fn traced(query: &str) -> Result<Vec<&'static str>, String> {
    traced_in(&set(), query)
}

fn traced_in(set: &TaggedSet, query: &str) -> Result<Vec<&'static str>, String> {
    let lineage = trace(&format!("({query})"), set, false, StandsFor::Itself).map_err(Refusal::into_reason)?;
    let word = |shows| match shows {
        Shows::Clear => "clear",
        Shows::Column(CUSTOMERS, 2) => "ssn",
        Shows::Column(..) => "another column",
        Shows::Computed(_) => "computed",
        Shows::Together(..) => "together",
    };
    Ok(lineage.shows().map(word).collect())
}

#[test]
fn values_are_followed_through_queries() {
    let inner = select(&[customers()], &[var(1, 2, 0), var(1, 1, 0)], "");
    assert_eq!(traced(&inner), Ok(vec!["ssn", "clear"]));
    let outer = select(&[subquery(&inner)], &[var(1, 1, 0), var(1, 2, 0), var(1, 0, 0), var(1, -1, 0)], "");
    assert_eq!(traced(&outer), Ok(vec!["ssn", "clear", "computed", "computed"]));
    let relabeled = format!("{{RELABELTYPE :arg {} :resulttype 1043}}", var(1, 2, 0));
    assert_eq!(traced(&select(&[customers()], &[relabeled], "")), Ok(vec!["computed"]));
    let lateral = select(&[], &[var(1, 2, 1)], "");
    assert_eq!(traced(&select(&[customers(), subquery(&lateral)], &[var(2, 1, 0)], "")), Ok(vec!["ssn"]));
}

/// By a primary key whatever is beside it is in one group, and the server compares nothing else.
#[test]
fn what_a_primary_key_decides_may_be_grouped_by() {
    let unique = |columns: &[i16], is_key| UniqueRow { relation: CUSTOMERS, columns: columns.to_vec(), is_key };
    let by = |targets: &[usize]| {
        let clause = |it: &usize| format!("{{SORTGROUPCLAUSE :tleSortGroupRef {it} :eqop 98 :sortop 664}}");
        targets.iter().map(clause).collect::<Vec<_>>().join(" ")
    };
    let grouped = |items: &[String], more: &str| {
        let clause = format!(":groupClause ({}){more}", by(&[1, 2]));
        select(items, &[var(1, 2, 0), var(items.len(), 1, 0)], &clause)
    };
    let keyed = set_with(vec![unique(&[1], true)]);
    assert_eq!(traced_in(&keyed, &grouped(&[customers()], "")), Ok(vec!["ssn", "clear"]));
    let refused = |set: &TaggedSet, query: &str| {
        traced_in(set, query).is_err_and(|why| why.contains("GROUP BY uses customers.ssn"))
    };
    // Not without the key, of another item of the same table, in sets of groups, or from within a subquery.
    assert!(refused(&keyed, &select(&[customers()], &[var(1, 2, 0)], &format!(":groupClause ({})", by(&[1])))));
    assert!(refused(&keyed, &grouped(&[customers(), customers()], "")));
    assert!(refused(&keyed, &grouped(&[customers()], " :groupingSets ({GROUPINGSET :kind 1})")));
    let inner = select(&[customers()], &[var(1, 1, 0), var(1, 2, 0)], "");
    assert!(refused(&keyed, &grouped(&[subquery(&inner)], "")));
    assert!(refused(&keyed, &grouped(&[relation('p', CUSTOMERS)], "")));
    // A value that is computed is one that the server computes and compares.
    let computed = format!("{{RELABELTYPE :arg {} :resulttype 1043}}", var(1, 2, 0));
    let clause = format!(":groupClause ({})", by(&[1, 2]));
    assert!(refused(&keyed, &select(&[customers()], &[computed, var(1, 1, 0)], &clause)));
    // Nor is it so by a key that is none, that is longer, that is masked itself, or beside which there is a masked one.
    let sets = [
        vec![],
        vec![unique(&[1], false)],
        vec![unique(&[1, 3], true)],
        vec![unique(&[2], true)],
        vec![unique(&[1], true), unique(&[2], false)],
        vec![unique(&[1], true), unique(&[3, 2], false)],
    ];
    for (number, unique) in sets.into_iter().enumerate() {
        assert!(refused(&set_with(unique), &grouped(&[customers()], "")), "{number}");
    }
    // PostgreSQL 18 has an item of what is grouped by.
    let group = format!("{{RANGETBLENTRY :rtekind 9 :groupexprs ({} {})}}", var(1, 2, 0), var(1, 1, 0));
    let query = format!(
        "{{QUERY :commandType 1 :hasModifyingCTE false :rtable ({} {group}) :jointree {{FROMEXPR :fromlist ({{RANGETBLREF \
         :rtindex 1}})}} :targetList ({}) :groupClause ({})}}",
        customers(),
        [(1, 1), (2, 2)]
            .map(|(column, place)| format!(
                "{{TARGETENTRY :expr {} :resno {place} :resname c :ressortgroupref {place} :resorigtbl 0 :resorigcol 0 :resjunk false}}",
                var(2, column, 0)
            ))
            .join(" "),
        by(&[1, 2])
    );
    assert_eq!(traced_in(&keyed, &query), Ok(vec!["ssn", "clear"]));
    assert!(refused(&set(), &query));
    let endless = query.replace(&var(1, 2, 0), &var(2, 1, 0));
    assert!(traced_in(&keyed, &endless).is_err());
}

#[test]
fn what_chooses_rows_is_clear() {
    let sort = |field: &str, target: u32| {
        format!(":{field} ({{SORTGROUPCLAUSE :tleSortGroupRef {target} :eqop 98 :sortop 664}})")
    };
    for field in ["groupClause", "distinctClause", "sortClause"] {
        let query = |target| select(&[customers()], &[var(1, 2, 0), var(1, 1, 0)], &sort(field, target));
        assert!(traced(&query(1)).is_err_and(|why| why.contains("customers.ssn") && why.contains("PII")), "{field}");
        assert_eq!(traced(&query(2)), Ok(vec!["ssn", "clear"]), "{field}");
        assert!(traced(&query(3)).is_err(), "an entry that is none");
    }
    for field in ["havingQual", "limitOffset", "limitCount"] {
        let query = select(&[customers()], &[var(1, 1, 0)], &format!(":{field} {}", var(1, 2, 0)));
        assert!(traced(&query).is_err_and(|why| why.contains("customers.ssn")), "{field}");
    }
    // Nobody reads the column of the subquery, and its rows are counted all the same.
    let inner = select(&[customers()], &[var(1, 1, 0)], &format!(":havingQual {}", var(1, 2, 0)));
    assert!(traced(&select(&[subquery(&inner)], &["{CONST :constvalue 1 [ 0 ]}".to_owned()], "")).is_err());
}

#[test]
fn what_is_not_known_is_refused() {
    let plain = |expression: &str| select(&[customers()], &[expression.to_owned()], "");
    for unknown in [
        plain("{NOVELTY :arg <>}"),
        plain("{PARAM :paramkind 1 :paramid 1}"),
        plain(&var(2, 1, 0)),
        plain(&var(0, 1, 0)),
        plain(&var(1, 3, 0)),
        plain(&var(1, 1, 1)),
        plain("{VAR :varno 1 :varattno x :vartype 25 :varlevelsup 0}"),
        plain("{VAR :varno 1 :varattno 1 :vartype 2277 :varlevelsup 0}"),
        plain("{FUNCEXPR :funcid 20001 :args <>}"),
        plain("{OPEXPR :opno 20001 :args <>}"),
        plain("{SUBLINK :subLinkType 9 :subselect <>}"),
        select(&[relation('v', CUSTOMERS)], &[var(1, 1, 0)], ""),
        select(&[customers()], &[var(1, 1, 0)], ":novelty 1"),
        select(&["{RANGETBLENTRY :rtekind 7}".to_owned()], &[], ""),
        select(&["{RANGETBLENTRY :rtekind 0 :novelty 1}".to_owned()], &[], ""),
        select(&[customers()], &[var(1, 1, 0)], ":returningList (1)"),
        plain(&var(1, 1, 0)).replace(":commandType 1", ":commandType 3"),
        plain(&var(1, 1, 0)).replace(":commandType 1", ":commandType 6"),
        format!("{0} {0}", plain(&var(1, 1, 0))),
        String::new(),
    ] {
        assert!(traced(&unknown).is_err(), "{unknown}");
    }
    // An item that is made of itself, and queries that are too deep.
    let own = "{RANGETBLENTRY :rtekind 2 :joinaliasvars ({VAR :varno 1 :varattno 1 :vartype 25 :varlevelsup 0})}";
    assert!(traced(&select(&[own.to_owned()], &[var(1, 1, 0)], "")).is_err());
    let mut deep = select(&[customers()], &[var(1, 1, 0)], "");
    for _ in 0..65 {
        deep = select(&[subquery(&deep)], &[var(1, 1, 0)], "");
    }
    assert!(traced(&deep).is_err());
}

#[test]
fn what_can_fail_is_not_up_to_a_masked_value() {
    let falls = "{COERCETODOMAIN :arg {CONST :constvalue 1 [ 0 ]}}";
    assert_eq!(traced(&select(&[customers()], &[falls.to_owned()], "")), Ok(vec!["clear"]));
    let domain = format!("{{COERCETODOMAIN :arg {}}}", var(1, 2, 0));
    assert!(traced(&select(&[customers()], &[domain], "")).is_err());
    let case = |column| {
        format!("{{CASE :args ({{WHEN :expr {{NULLTEST :arg {}}} :result {falls}}}) :defresult <>}}", var(1, column, 0))
    };
    assert!(traced(&select(&[customers()], &[case(2)], "")).is_err());
    assert_eq!(traced(&select(&[customers()], &[case(1)], "")), Ok(vec!["clear"]));
    // Also where it is computed in a query within.
    let inner = select(&[customers()], &[var(1, 2, 0), falls.to_owned()], "");
    let outer = format!("{{COALESCE :args ({} {})}}", var(1, 1, 0), var(1, 2, 0));
    assert!(traced(&select(&[subquery(&inner)], &[outer], "")).is_err());
}

#[test]
fn sides_of_a_set_operation_share_their_columns() {
    let side = |column| subquery(&select(&[customers()], &[var(1, column, 0)], ""));
    let typed_union = |sides: [i32; 2], all: bool, op: u32, common: u32| {
        let tree = format!(
            ":setOperations {{SETOPERATIONSTMT :op {op} :all {all} :larg {{RANGETBLREF :rtindex 1}} :rarg {{RANGETBLREF :rtindex 2}} \
             :colTypes (o {common})}}"
        );
        // The target list names the first side's columns.
        select(&sides.map(side), &[var(1, 1, 0)], &tree)
    };
    let union = |all: bool, op: u32| typed_union([1, 2], all, op, 25);
    assert_eq!(traced(&union(true, 1)), Ok(vec!["computed"]));
    for compared in [union(false, 1), union(true, 2), union(true, 3)] {
        assert!(traced(&compared).is_err());
    }
    // The server converts to the common type by itself, and that may fail.
    assert_eq!(traced(&typed_union([2, 2], true, 1, 1043)), Ok(vec!["computed"]));
    assert_eq!(traced(&typed_union([1, 1], true, 1, 26)), Ok(vec!["clear"]));
    assert!(traced(&typed_union([1, 2], true, 1, 26)).is_err());
    let decided = format!("{{COALESCE :args ({} {})}}", var(1, 2, 0), var(2, 1, 0));
    for (common, is_refused) in [(25, false), (26, true)] {
        let within = subquery(&typed_union([1, 1], true, 1, common));
        let outer = select(&[customers(), within], std::slice::from_ref(&decided), "");
        assert_eq!(traced(&outer).is_err(), is_refused, "{common}");
    }
}

/// On the stack that a thread of the gateway's has.
#[test]
fn the_deepest_tree_that_is_read_is_walked() {
    let deep = |levels: usize| {
        let mut expression = var(1, 2, 0);
        for _ in 0..levels {
            expression = format!("{{BOOLEXPR :boolop or :args ({expression})}}");
        }
        traced(&select(&[customers()], &[expression], ""))
    };
    assert_eq!(deep(190), Ok(vec!["computed"]));
    assert!(deep(200).is_err_and(|why| why.contains("deeper")));
}
