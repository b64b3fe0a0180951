//! Queries: what each item of a FROM list gives, what chooses rows, what comes out.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use super::change::is_change;
use super::expression::type_of;
use super::grouping::Place;
use super::parts::bounded;
use super::tree::{Node, Value};
use super::{Flow, Lineage, Refusal, StandsFor, Tagged, Traced, unescaped};
use crate::mask::MaskKind;
use crate::protocol::postgres::catalog::{Named, TaggedSet};

/// Queries within queries, the views between them included. The text's own depth is bounded before.
const MAX_QUERIES_DEEP: usize = 64;
/// Nodes that are visited, some of them more than once: a recursive query is read until nothing new comes out.
const MAX_STEPS: usize = 2_000_000;

/// The command that reads (`CmdType`).
const SELECT: &str = "1";

/// The fields of a query and of an item in its FROM list, in any version of the server: one that is not here may mean anything.
const QUERY_FIELDS: &str = "\
    commandType querySource canSetTag utilityStmt resultRelation hasAggs hasWindowFuncs hasTargetSRFs hasSubLinks \
    hasDistinctOn hasRecursive hasModifyingCTE hasForUpdate hasRowSecurity hasGroupRTE isReturn cteList rtable rteperminfos \
    jointree mergeActionList mergeTargetRelation mergeJoinCondition mergeUseOuterJoin targetList override onConflict \
    returningOldAlias returningNewAlias returningList groupClause groupDistinct groupByAll groupingSets havingQual \
    windowClause distinctClause sortClause limitOffset limitCount limitOption rowMarks setOperations constraintDeps \
    withCheckOptions stmt_location stmt_len";
const ITEM_FIELDS: &str = "\
    alias eref rtekind relid inh relkind rellockmode perminfoindex tablesample subquery security_barrier jointype \
    joinmergedcols joinaliasvars joinleftcols joinrightcols join_using_alias functions funcordinality tablefunc \
    values_lists ctename ctelevelsup self_reference coltypes coltypmods colcollations enrname enrtuples groupexprs lateral \
    inFromCl requiredPerms checkAsUser selectedCols insertedCols updatedCols extraUpdatedCols securityQuals";

pub(super) struct Walk<'s> {
    pub(super) set: &'s TaggedSet,
    /// The statement writes a schema before each name.
    qualified: bool,
    pub(super) stands_for: StandsFor,
    left: Cell<usize>,
    pub(super) lookups: RefCell<Vec<Tagged>>,
    /// A view or a row security policy is part of it.
    pub(super) by_code: Cell<bool>,
    /// What is read is what a view was made of.
    pub(super) in_view: Cell<bool>,
    has_news: Cell<bool>,
    pub(super) reads_tagged: Cell<bool>,
}

/// One query that is being read, and those around it.
pub(super) struct Frame<'f, 't> {
    parent: Option<&'f Frame<'f, 't>>,
    query: &'f Node<'t>,
    depth: usize,
    /// What its items and its CTEs give, once that is known.
    items: RefCell<Vec<Known>>,
    ctes: RefCell<Vec<Known>>,
}

/// The columns of an item or a CTE.
#[derive(Clone)]
enum Known {
    Not,
    /// It is being found out.
    Open,
    /// Of a recursive CTE, so far.
    SoFar(Rc<[Flow]>),
    Yes(Rc<[Flow]>),
}

/// An entry of a target list.
pub(super) struct Target {
    traced: Traced,
    /// Not part of the result.
    junk: bool,
    /// By which sorting and grouping refer to it; 0: none does.
    reference: u32,
    place: Option<Place>,
}

impl Target {
    /// The tagged columns that its value comes from.
    pub(super) fn sources(&self) -> &BTreeSet<Tagged> {
        &self.traced.flow.sources
    }
}

impl<'s> Walk<'s> {
    pub(super) fn new(set: &'s TaggedSet, qualified: bool, stands_for: StandsFor) -> Self {
        Self {
            set,
            qualified,
            stands_for,
            left: Cell::new(MAX_STEPS),
            lookups: RefCell::default(),
            by_code: Cell::new(false),
            in_view: Cell::new(false),
            has_news: Cell::new(false),
            reads_tagged: Cell::new(false),
        }
    }

    pub(super) fn found(self, mut columns: Vec<Traced>) -> Lineage {
        bounded(&mut columns);
        let (by_code, reads_tagged, has_news) = (self.by_code.get(), self.reads_tagged.get(), self.has_news.get());
        Lineage { columns, lookups: self.lookups.into_inner(), by_code, reads_tagged, has_news }
    }

    pub(super) fn spend(&self, steps: usize) -> Result<(), Refusal> {
        let left = self.left.get().checked_sub(steps);
        self.left.set(left.ok_or_else(|| Refusal::new("it has too many parts to be traced"))?);
        Ok(())
    }

    /// The columns of a statement's result.
    pub(super) fn statement(&self, query: &Node<'_>) -> Result<Vec<Traced>, Refusal> {
        let targets = self.any(query, None)?;
        Ok(targets.into_iter().filter(|it| !it.junk).map(|it| it.traced).collect())
    }

    /// What a query within another statement gives.
    pub(super) fn query(&self, query: &Node<'_>, parent: Option<&Frame<'_, '_>>) -> Result<Rc<[Flow]>, Refusal> {
        let targets = self.any(query, parent)?;
        Ok(targets.into_iter().filter(|it| !it.junk).map(|it| it.traced.flow).collect())
    }

    fn any(&self, query: &Node<'_>, parent: Option<&Frame<'_, '_>>) -> Result<Vec<Target>, Refusal> {
        if is_change(query.word("commandType")) { self.change(query, parent) } else { self.targets(query, parent) }
    }

    pub(super) fn known_query(&self, query: &Node<'_>) -> Result<(), Refusal> {
        self.spend(query.fields.len())?;
        known_fields(query, "QUERY", QUERY_FIELDS)
    }

    fn targets(&self, query: &Node<'_>, parent: Option<&Frame<'_, '_>>) -> Result<Vec<Target>, Refusal> {
        self.known_query(query)?;
        let only_reads = query.word("commandType") == Some(SELECT)
            && ["utilityStmt", "returningList", "onConflict", "mergeActionList"].iter().all(|it| query.is_empty(it));
        if !only_reads {
            return Err(Refusal::unknown("a query that does more than read"));
        }
        let frame = self.frame(query, parent)?;
        let entries = query.list("targetList").iter();
        let mut targets = entries.map(|it| self.target(it, &frame)).collect::<Result<Vec<Target>, Refusal>>()?;
        if let Some(operation) = query.node("setOperations") {
            if operation.kind != "SETOPERATIONSTMT" {
                return Err(Refusal::unknown(operation.kind));
            }
            let flows = self.set_operation(operation, &frame)?;
            for (target, flow) in targets.iter_mut().filter(|it| !it.junk).zip(flows) {
                target.traced.flow = flow;
            }
        }
        self.choices(&frame, &targets)?;
        Ok(targets)
    }

    /// What a query's clauses are read in; its CTEs and its FROM clause have been read already.
    pub(super) fn frame<'f, 't>(
        &self,
        query: &'f Node<'t>,
        parent: Option<&'f Frame<'f, 't>>,
    ) -> Result<Frame<'f, 't>, Refusal> {
        let depth = parent.map_or(0, |it| it.depth) + 1;
        if depth > MAX_QUERIES_DEEP {
            return Err(Refusal::new(format!(
                "it has queries and views nested more than {MAX_QUERIES_DEEP} levels deep"
            )));
        }
        let (items, ctes) = (query.list("rtable").len(), query.list("cteList").len());
        let frame = Frame {
            parent,
            query,
            depth,
            items: RefCell::new(vec![Known::Not; items]),
            ctes: RefCell::new(vec![Known::Not; ctes]),
        };
        // Also what nobody reads must be harmless.
        for index in 0..ctes {
            self.cte(&frame, index)?;
        }
        if let Some(tree) = query.node("jointree") {
            self.from(tree, &frame)?;
        }
        Ok(frame)
    }

    pub(super) fn target(&self, entry: &Value<'_>, frame: &Frame<'_, '_>) -> Result<Target, Refusal> {
        let entry = entry.as_node().filter(|it| it.kind == "TARGETENTRY");
        let entry = entry.ok_or_else(|| Refusal::unknown("a target list"))?;
        let expression = entry.field("expr").ok_or_else(|| Refusal::unknown("a target list"))?;
        let origin = (number(entry, "resorigtbl")?, number(entry, "resorigcol")?);
        let name = entry.word("resname").map(|it| if it == "\"\"" { String::new() } else { unescaped(it) });
        let traced = Traced { name: name.unwrap_or_default(), origin, flow: self.flow(expression, frame)? };
        let junk = entry.word("resjunk") != Some("false");
        let place = Place::of(expression, frame)?;
        Ok(Target { traced, junk, reference: number(entry, "ressortgroupref")?, place })
    }

    /// What decides which rows there are, and in which order.
    fn choices(&self, frame: &Frame<'_, '_>, targets: &[Target]) -> Result<(), Refusal> {
        let query = frame.query;
        for (field, word) in [("havingQual", "HAVING"), ("limitOffset", "OFFSET"), ("limitCount", "LIMIT")] {
            if let Some(value) = query.field(field) {
                self.chooses(word, value, frame)?;
            }
        }
        self.groups(query, targets)?;
        for (field, word) in [("distinctClause", "DISTINCT"), ("sortClause", "ORDER BY")] {
            self.sorts(word, query.list(field), targets)?;
        }
        for window in query.list("windowClause") {
            let window = window.as_node().filter(|it| it.kind == "WINDOWCLAUSE");
            let window = window.ok_or_else(|| Refusal::unknown("a window"))?;
            self.sorts("PARTITION BY", window.list("partitionClause"), targets)?;
            self.sorts("the order of a window", window.list("orderClause"), targets)?;
            for field in ["startOffset", "endOffset"] {
                if let Some(value) = window.field(field) {
                    self.chooses("the frame of a window", value, frame)?;
                }
            }
        }
        Ok(())
    }

    /// GROUP BY: all that it names is compared, but for what is decided by a primary key beside it.
    fn groups(&self, query: &Node<'_>, targets: &[Target]) -> Result<(), Refusal> {
        let clauses = query.list("groupClause");
        if !query.is_empty("groupingSets") {
            return self.sorts("GROUP BY", clauses, targets);
        }
        let entries =
            clauses.iter().map(|it| self.sorted_by(it, targets)).collect::<Result<Vec<&Target>, Refusal>>()?;
        let places: Vec<Place> = entries.iter().filter_map(|it| it.place).collect();
        self.spend(places.len().saturating_mul(places.len()))?;
        let is_decided =
            |it: &&&Target| it.place.is_some_and(|place| place.is_decided(&places, |table| self.set.key(table)));
        entries.iter().filter(|it| !is_decided(it)).try_for_each(|it| self.must_be_clear("GROUP BY", &it.traced.flow))
    }

    /// Entries of ORDER BY and the like.
    fn sorts(&self, word: &str, clauses: &[Value<'_>], targets: &[Target]) -> Result<(), Refusal> {
        clauses.iter().try_for_each(|it| self.must_be_clear(word, &self.sorted_by(it, targets)?.traced.flow))
    }

    /// What an entry of GROUP BY or ORDER BY refers to in the target list.
    fn sorted_by<'t>(&self, clause: &Value<'_>, targets: &'t [Target]) -> Result<&'t Target, Refusal> {
        let clause = clause.as_node().filter(|it| it.kind == "SORTGROUPCLAUSE");
        let clause = clause.ok_or_else(|| Refusal::unknown("an entry of GROUP BY or ORDER BY"))?;
        for operator in ["eqop", "sortop"] {
            self.known_operator(number(clause, operator)?)?;
        }
        let reference: u32 = number(clause, "tleSortGroupRef")?;
        let target = targets.iter().find(|it| it.reference == reference && reference != 0);
        target.ok_or_else(|| Refusal::unknown("an entry of GROUP BY or ORDER BY"))
    }

    /// Goes through a FROM clause: items, joins, and the conditions on both.
    fn from(&self, tree: &Node<'_>, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        self.spend(1)?;
        match tree.kind {
            "FROMEXPR" => {
                for item in tree.list("fromlist") {
                    self.from(item.as_node().ok_or_else(|| Refusal::unknown("a FROM clause"))?, frame)?;
                }
                self.condition("WHERE", tree.field("quals"), frame)
            }
            "JOINEXPR" => {
                for side in ["larg", "rarg"] {
                    self.from(tree.node(side).ok_or_else(|| Refusal::unknown("a join"))?, frame)?;
                }
                self.condition("a join", tree.field("quals"), frame)
            }
            "RANGETBLREF" => self.item(frame, number(tree, "rtindex")?).map(drop),
            _ => Err(Refusal::unknown(tree.kind)),
        }
    }

    /// A condition: each of its parts that AND joins may be a lookup.
    pub(super) fn condition(
        &self,
        word: &str,
        value: Option<&Value<'_>>,
        frame: &Frame<'_, '_>,
    ) -> Result<(), Refusal> {
        let Some(value) = value else { return Ok(()) };
        if let Some(and) = value.as_node().filter(|it| it.kind == "BOOLEXPR" && it.word("boolop") == Some("and")) {
            return and.list("args").iter().try_for_each(|it| self.condition(word, Some(it), frame));
        }
        // The planner's own form of the same.
        if let Value::List(parts) = value {
            return parts.iter().try_for_each(|it| self.condition(word, Some(it), frame));
        }
        match self.lookup(value, frame)? {
            Some(column) => {
                self.lookups.borrow_mut().push(column);
                Ok(())
            }
            None => self.chooses(word, value, frame),
        }
    }

    pub(super) fn chooses(&self, word: &str, value: &Value<'_>, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        let flow = self.flow(value, frame)?;
        self.must_be_clear(word, &flow)
    }

    pub(super) fn must_be_clear(&self, word: &str, flow: &Flow) -> Result<(), Refusal> {
        let Some(column) = flow.sources.first() else { return Ok(()) };
        let mask = self.set.masks(column.0, column.1).first().map_or("", |it| it.name.as_str());
        let name = self.set.column_name(*column);
        Err(Refusal::new(format!(
            "{word} uses {name}, which is masked (\"{mask}\"): the rows that come back would tell its values; choose rows by other columns"
        )))
    }

    /// Both sides of UNION and the like: a column has what either has.
    fn set_operation(&self, tree: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Vec<Flow>, Refusal> {
        self.spend(1)?;
        let sides = ["larg", "rarg"].map(|side| self.side_of_set_operation(tree, side, frame));
        let [left, right] = sides;
        let (mut left, right) = (left?, right?);
        if left.len() != right.len() {
            return Err(Refusal::unknown("a set operation"));
        }
        left.iter_mut().zip(right).for_each(|(left, right)| left.or(right));
        // UNION ALL alone compares no rows.
        if tree.word("op") != Some("1") || tree.word("all") != Some("true") {
            left.iter().try_for_each(|it| self.must_be_clear("UNION, INTERSECT or EXCEPT", it))?;
            for clause in tree.list("groupClauses").iter().filter_map(Value::as_node) {
                self.known_operator(number(clause, "eqop")?)?;
            }
        }
        Ok(left)
    }

    /// One side, in the types that both have in common: the server converts what a side gives, and does not print how.
    fn side_of_set_operation(&self, tree: &Node<'_>, side: &str, frame: &Frame<'_, '_>) -> Result<Vec<Flow>, Refusal> {
        let unknown = || Refusal::unknown("a set operation");
        let side = tree.node(side).ok_or_else(unknown)?;
        let (flows, given) = match side.kind {
            "RANGETBLREF" => {
                let place = number(side, "rtindex")?;
                let query = frame.entry(place).and_then(|it| it.node("subquery")).ok_or_else(unknown)?;
                (self.item(frame, place)?.to_vec(), types_of(query))
            }
            "SETOPERATIONSTMT" => {
                let types = types_in(side).ok_or_else(unknown)?;
                (self.set_operation(side, frame)?, types.into_iter().map(Some).collect())
            }
            other => return Err(Refusal::unknown(other)),
        };
        let common = types_in(tree).ok_or_else(unknown)?;
        if flows.len() != common.len() || given.len() != common.len() {
            return Err(unknown());
        }
        flows.into_iter().zip(given).zip(common).map(|((flow, from), to)| self.converted(flow, from, to)).collect()
    }

    /// The columns of a query's item, by its number from 1 on.
    pub(super) fn item(&self, frame: &Frame<'_, '_>, number: usize) -> Result<Rc<[Flow]>, Refusal> {
        let index = number.wrapping_sub(1);
        let known = frame.items.borrow().get(index).cloned().ok_or_else(|| Refusal::unknown("a column of nothing"))?;
        match known {
            Known::Yes(flows) | Known::SoFar(flows) => return Ok(flows),
            Known::Open => return Err(Refusal::unknown("an item made of itself")),
            Known::Not => {}
        }
        frame.items.borrow_mut()[index] = Known::Open;
        let item = frame.entry(number).ok_or_else(|| Refusal::unknown("an item"))?;
        let (flows, is_final) = self.item_columns(frame, item)?;
        frame.items.borrow_mut()[index] = if is_final { Known::Yes(Rc::clone(&flows)) } else { Known::Not };
        // Its policies look at its own columns. One may compare with a setting of the client's choice.
        for policy in item.list("securityQuals") {
            self.by_code.set(true);
            self.condition("row security", Some(policy), frame)?;
        }
        Ok(flows)
    }

    fn item_columns(&self, frame: &Frame<'_, '_>, item: &Node<'_>) -> Result<(Rc<[Flow]>, bool), Refusal> {
        self.spend(item.fields.len())?;
        // It has a short name in older servers.
        known_fields(item, if item.kind == "RTE" { "RTE" } else { "RANGETBLENTRY" }, ITEM_FIELDS)?;
        let flows: Rc<[Flow]> = match item.word("rtekind") {
            Some("0") => self.relation(frame, item)?.into(),
            Some("1") => {
                let query = item.node("subquery").ok_or_else(|| Refusal::unknown("a subquery"))?;
                let view = view_of(item, query);
                let is_within = self.in_view.replace(self.in_view.get() || view.is_some());
                let columns = self.query(query, Some(frame))?;
                self.in_view.set(is_within);
                match view {
                    Some(view) => self.view(view, &name_of(item), &columns)?,
                    None => columns,
                }
            }
            Some("2") => self.each(item.list("joinaliasvars"), frame)?.into(),
            Some("9") => self.each(item.list("groupexprs"), frame)?.into(),
            Some("3") => {
                for function in item.list("functions") {
                    self.chooses("a function in FROM", function, frame)?;
                }
                clear_columns(item).into()
            }
            Some("4") => {
                if let Some(function) = item.field("tablefunc") {
                    self.chooses("XMLTABLE or JSON_TABLE", function, frame)?;
                }
                clear_columns(item).into()
            }
            Some("5") => {
                let mut columns: Vec<Flow> = Vec::new();
                for row in item.list("values_lists") {
                    let Value::List(row) = row else { return Err(Refusal::unknown("VALUES")) };
                    let row = self.each(row, frame)?;
                    if columns.is_empty() {
                        columns = row;
                    } else {
                        columns.iter_mut().zip(row).for_each(|(column, value)| column.or(value));
                    }
                }
                columns.into()
            }
            Some("6") => return self.cte_item(frame, item),
            Some("8") => Rc::default(),
            other => return Err(Refusal::unknown(&format!("an item of kind {}", other.unwrap_or("?")))),
        };
        Ok((flows, true))
    }

    fn each(&self, values: &[Value<'_>], frame: &Frame<'_, '_>) -> Result<Vec<Flow>, Refusal> {
        values.iter().map(|it| self.flow(it, frame)).collect()
    }

    fn relation(&self, frame: &Frame<'_, '_>, item: &Node<'_>) -> Result<Vec<Flow>, Refusal> {
        let oid: u32 = number(item, "relid")?;
        let kind = item.word("relkind").unwrap_or_default();
        let names = item.node("eref").map(|it| it.list("colnames")).unwrap_or_default();
        let name = || name_of(item);
        // The server expands a view; what is left of it in the tree nobody reads. The row that an upsert proposes has a kind of
        // its own.
        if !matches!(kind, "r" | "p" | "m" | "f" | "S" | "c") {
            return Err(Refusal::unknown(&format!("a relation of kind {kind}")));
        }
        self.must_be_the_one(oid, &name())?;
        if self.set.is_derived(oid) {
            return Err(Refusal::new(format!(
                "{} shows values of masked columns under other names; query the masked table itself",
                name()
            )));
        }
        if let Some(sample) = item.field("tablesample").filter(|it| **it != Value::Nothing) {
            self.chooses("TABLESAMPLE", sample, frame)?;
            let below = item.word("inh") != Some("false");
            if self.set.has_tagged(oid) || below && self.set.is_above_tagged(oid) {
                return Err(Refusal::new(
                    "TABLESAMPLE chooses rows by how they are stored, and the table, or one below it, has masked columns",
                ));
            }
        }
        for (name, number) in names.iter().zip(1_i16..) {
            let Value::Word(name) = name else { return Err(Refusal::unknown("a column's name")) };
            if self.set.is_news((oid, number), &unescaped(name.trim_matches('"'))) {
                return Err(Refusal::new(format!(
                    "column {name} of {} is not known yet, and has the name of a masked column of tables below it; ask again in half a minute",
                    name_of(item)
                )));
            }
        }
        let last = i16::try_from(names.len()).unwrap_or(i16::MAX);
        self.has_news.set(self.has_news.get() || !self.set.has_column((oid, last)));
        let column = |number: i16| {
            let column = (oid, number);
            // One that is computed when it is read may fail, and of one that is new that is not known.
            let fallible = self.set.is_computed_when_read(column) || !self.set.has_column(column);
            let flow = if self.set.masks(oid, number).is_empty() { Flow::default() } else { Flow::column(column) };
            Flow { fallible, ..flow }
        };
        Ok((1..=last).map(column).collect())
    }

    /// What a view's columns show has the masks of the view's own columns, too.
    fn view(&self, view: u32, name: &str, columns: &[Flow]) -> Result<Rc<[Flow]>, Refusal> {
        self.must_be_the_one(view, name)?;
        self.by_code.set(true);
        let masked = columns.iter().zip(1_i16..).map(|(flow, number)| {
            let own = self.set.masks(view, number);
            let has = |source: &Tagged| {
                let masks = self.set.masks(source.0, source.1);
                own.iter().all(|it| masks.iter().any(|mask| mask.name == it.name))
            };
            match flow.sources.first() {
                _ if own.is_empty() => flow.clone(),
                Some(source) if flow.exact && has(source) => flow.clone(),
                None => {
                    let column = Flow { fallible: flow.fallible, ..Flow::column((view, number)) };
                    // What lies below the view is clear, and a guess that is written there would be hashed here.
                    let is_hashed = own.iter().any(|it| matches!(it.with, MaskKind::Hash { .. }));
                    if is_hashed { column.computed() } else { column }
                }
                Some(_) => {
                    let mut both = flow.clone();
                    both.add(Flow::column((view, number)));
                    both
                }
            }
        });
        Ok(masked.collect())
    }

    /// Names may have another meaning when the statement runs. So a table is refused that nothing is known of, and one that is not
    /// masked and has the name of one that is.
    fn must_be_the_one(&self, oid: u32, name: &str) -> Result<(), Refusal> {
        match self.set.named(oid) {
            Named::Unknown => Err(Refusal::new(format!(
                "{name} is not known yet (a table of this transaction's?), and the statement touches masked columns"
            ))),
            Named::LikeAMaskedOne if !self.qualified => Err(Refusal::new(format!(
                "{name} has the name of another table, which has masked columns; write the schema before each table"
            ))),
            Named::Itself | Named::LikeAMaskedOne => Ok(()),
        }
    }

    /// A CTE's columns are final when it is not being read itself.
    fn cte_item(&self, frame: &Frame<'_, '_>, item: &Node<'_>) -> Result<(Rc<[Flow]>, bool), Refusal> {
        let missing = || Refusal::unknown("a CTE");
        let (name, up) = (item.word("ctename").ok_or_else(missing)?, number(item, "ctelevelsup")?);
        let owner = frame.up(up).ok_or_else(missing)?;
        let is_it = |it: &Value<'_>| it.as_node().and_then(|it| it.word("ctename")) == Some(name);
        let index = owner.query.list("cteList").iter().position(is_it).ok_or_else(missing)?;
        let flows = self.cte(owner, index)?;
        let is_final = matches!(owner.ctes.borrow().get(index), Some(Known::Yes(_)));
        Ok((flows, is_final))
    }

    fn cte(&self, frame: &Frame<'_, '_>, index: usize) -> Result<Rc<[Flow]>, Refusal> {
        let known = frame.ctes.borrow().get(index).cloned().unwrap_or(Known::Open);
        match known {
            Known::Yes(flows) | Known::SoFar(flows) => return Ok(flows),
            Known::Open => return Err(Refusal::unknown("a CTE made of itself")),
            Known::Not => {}
        }
        let cte = frame.query.list("cteList").get(index).and_then(Value::as_node);
        let cte = cte.filter(|it| it.kind == "COMMONTABLEEXPR").ok_or_else(|| Refusal::unknown("a CTE"))?;
        let query = cte.node("ctequery").ok_or_else(|| Refusal::unknown("a CTE"))?;
        if !cte.is_empty("search_clause") || !cte.is_empty("cycle_clause") {
            return Err(Refusal::new("SEARCH and CYCLE are not traced here, and the statement touches masked columns"));
        }
        let recursive = cte.word("cterecursive") == Some("true");
        let names = cte.list("ctecolnames").len();
        let mut flows: Rc<[Flow]> = vec![Flow::default(); names].into();
        loop {
            frame.ctes.borrow_mut()[index] = if recursive { Known::SoFar(Rc::clone(&flows)) } else { Known::Open };
            let found = self.query(query, Some(frame))?;
            let settled = !recursive || found == flows;
            flows = found;
            if settled {
                break;
            }
            self.spend(1)?;
        }
        frame.ctes.borrow_mut()[index] = Known::Yes(Rc::clone(&flows));
        Ok(flows)
    }
}

impl<'f, 't> Frame<'f, 't> {
    /// An entry of its range table, by its number from 1 on.
    pub(super) fn entry(&self, number: usize) -> Option<&'f Node<'t>> {
        self.query.list("rtable").get(number.checked_sub(1)?).and_then(Value::as_node)
    }

    /// Whether functions in its target list give rows.
    pub(super) fn makes_rows(&self) -> bool {
        self.query.word("hasTargetSRFs") != Some("false")
    }

    /// Whether its rows come from nowhere: there is one.
    pub(super) fn has_no_from(&self) -> bool {
        self.query.node("jointree").is_none_or(|it| it.is_empty("fromlist"))
    }

    /// The query so many levels around this one.
    pub(super) fn up(&self, levels: usize) -> Option<&Frame<'f, 't>> {
        let mut frame = self;
        for _ in 0..levels {
            frame = frame.parent?;
        }
        Some(frame)
    }
}

/// The types of a set operation's columns; none if it has no such list.
fn types_in(operation: &Node<'_>) -> Option<Vec<u32>> {
    let [Value::Word("o"), types @ ..] = operation.list("colTypes") else { return None };
    types.iter().map(|it| if let Value::Word(word) = it { word.parse().ok() } else { None }).collect()
}

/// The types of a query's columns, each if its expression tells.
fn types_of(query: &Node<'_>) -> Vec<Option<u32>> {
    let entries = query.list("targetList").iter().filter_map(Value::as_node);
    entries.filter(|it| it.word("resjunk") == Some("false")).map(|it| it.node("expr").and_then(type_of)).collect()
}

/// As many columns as the item has names for, with nothing in them.
fn clear_columns(item: &Node<'_>) -> Vec<Flow> {
    let names = item.node("eref").map_or(0, |it| it.list("colnames").len());
    vec![Flow::default(); names]
}

/// The name that an item has in its query.
fn name_of(item: &Node<'_>) -> String {
    item.node("eref").and_then(|it| it.word("aliasname")).map(unescaped).unwrap_or_default()
}

/// The view that a subquery was made of, if it was one. Older servers tell by what rules call the old and the new row.
fn view_of(item: &Node<'_>, query: &Node<'_>) -> Option<u32> {
    let oid = |node: &Node<'_>| node.word("relid").and_then(|it| it.parse().ok()).filter(|it| *it != 0);
    let is_view = |node: &&Node<'_>| node.word("rtekind") == Some("0") && node.word("relkind") == Some("v");
    oid(item).or_else(|| query.list("rtable").iter().filter_map(Value::as_node).find(is_view).and_then(oid))
}

pub(super) fn known_fields(node: &Node<'_>, kind: &str, fields: &str) -> Result<(), Refusal> {
    if node.kind != kind {
        return Err(Refusal::unknown(node.kind));
    }
    let is_known = |field: &str| fields.split_ascii_whitespace().any(|it| it == field);
    match node.fields.iter().find(|(field, _)| !is_known(field)) {
        Some((field, _)) => Err(Refusal::unknown(&format!("{kind}.{field}"))),
        None => Ok(()),
    }
}

/// A number that the tree has in a field.
pub(super) fn number<T: std::str::FromStr>(node: &Node<'_>, field: &str) -> Result<T, Refusal> {
    let word = node.word(field).and_then(|it| it.parse().ok());
    word.ok_or_else(|| Refusal::unknown(&format!("{}.{field}", node.kind)))
}
