//! Expressions: what a value is computed from, and whether computing it could fail because of that.

use super::query::{Frame, Walk, number};
use super::tree::{Node, Value};
use super::{Flow, Refusal, Tagged};
use crate::protocol::postgres::catalog::KnownCode;
use crate::protocol::postgres::operation::{COLLATABLE, SCALARS, Total};

/// Types to which the output of any type converts by itself.
const TEXT_TYPES: &[&str] = &["25", "1042", "1043"];
/// `"char"`, a byte.
const SINGLE_BYTE: u32 = 18;
/// `anyarray`: in the catalogs of statistics, and of columns that were added with a default, where it has a mask.
const ANY_ARRAY: &str = "2277";
/// `pg_attribute`, which has one such column.
const ATTRIBUTES: &str = "1249";
/// What type a node's value has, where it may have been made of another one.
const TYPES_GIVEN: &[&str] = &["resulttype", "funcresulttype", "row_typeid", "consttype"];
/// The system column that says which table a row is of.
const TABLE_OID: i32 = -6;
const OTHERS_VALUES: &str = "a column of a system catalog that holds values of other columns is not shown";
/// What the server calls the forms in which a function is called for a cast, and that of one that is written.
const CAST_FORMS: &[&str] = &["1", "2"];
const WRITTEN_CAST: &str = "1";
/// Types of which each value is one of the other type, too (`pg_cast.dat`): the numbers, and the texts.
const WIDENED: &[(u32, u32)] = &[
    (21, 23),
    (21, 20),
    (23, 20),
    (21, 1700),
    (23, 1700),
    (20, 1700),
    (21, 701),
    (23, 701),
    (20, 701),
    (700, 701),
    (1043, 25),
    (25, 1043),
    (1042, 25),
    (1042, 1043),
    (19, 25),
];
/// Constants up to here are places in a text, or lengths.
const SMALL: i64 = 10_000;

impl Walk<'_> {
    /// What a value is computed from. Refused where computing it may fail, or do more than give a value, by what is tagged.
    pub(super) fn flow(&self, value: &Value<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        self.spend(1)?;
        match value {
            Value::Nothing | Value::Word(_) | Value::Datum(_) => Ok(Flow::default()),
            Value::List(values) => self.all(values, frame),
            Value::Node(node) => self.node(node, frame),
        }
    }

    fn all(&self, values: &[Value<'_>], frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let mut all = Flow::default();
        for value in values {
            all.add(self.flow(value, frame)?);
        }
        Ok(all)
    }

    /// What all of a node's parts are computed from.
    fn parts(&self, node: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let mut all = Flow::default();
        for (_, value) in &node.fields {
            all.add(self.flow(value, frame)?);
        }
        Ok(all)
    }

    fn node(&self, node: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let mut types = TYPES_GIVEN.iter().filter_map(|field| node.word(field)?.parse().ok());
        if types.any(|it| self.set.is_cast_by_reading(it)) {
            return Err(Refusal::new("a check of a domain reads masked columns: a value of it would tell of theirs"));
        }
        match node.kind {
            "VAR" => self.variable(node, frame),
            // An alias holds names, and computes nothing.
            "CONST" | "SQLVALUEFUNCTION" | "CASETESTEXPR" | "COERCETODOMAINVALUE" | "ALIAS" => Ok(Flow::default()),
            // Of the client, or the columns of a subquery that it is compared with: these are looked at there.
            "PARAM" if matches!(node.word("paramkind"), Some("0" | "2")) => Ok(Flow::default()),
            // The next of an identity column.
            "NEXTVALUEEXPR" => Ok(Flow::default().by_what_may_fail()),
            // The value itself, under another type or name.
            "RELABELTYPE" | "COLLATE" | "COLLATEEXPR" => {
                let value = node.field("arg").ok_or_else(|| Refusal::unknown(node.kind))?;
                Ok(self.flow(value, frame)?.computed())
            }
            "TARGETENTRY" | "NAMEDARGEXPR" | "FIELDSELECT" | "WHEN" | "CASEWHEN" | "NULLTEST" | "BOOLEANTEST"
            | "GROUPINGFUNC" => self.parts(node, frame),
            "ROW" | "ROWEXPR" => self.row(node, frame),
            // Rows of an array of arrays must be as long as each other.
            "ARRAY" | "ARRAYEXPR" => {
                let total = node.word("multidims") == Some("false");
                self.unless_it_may_fail(node, frame, total, "an array of arrays")
            }
            "MINMAX" | "MINMAXEXPR" => {
                let kind: u32 = number(node, "minmaxtype")?;
                let collation = number(node, "inputcollid")?;
                let total =
                    SCALARS.contains(&kind) && (!COLLATABLE.contains(&kind) || KnownCode::is_collation(collation));
                self.unless_it_may_fail(node, frame, total, "GREATEST or LEAST")
            }
            "CASE" | "CASEEXPR" => self.case(node, frame),
            // Each part decides whether those behind it are computed, and what is subscribed, whether the subscripts are.
            "COALESCE" | "COALESCEEXPR" => self.first_of(node, frame),
            "BOOLEXPR" | "SUBSCRIPTINGREF" => {
                // Not all arrays can be cut.
                let total = node.is_empty("reflowerindexpr");
                let flow = self.unless_it_may_fail(node, frame, total, "a slice")?;
                self.must_not_decide(&flow, flow.fallible)?;
                Ok(flow)
            }
            // Clauses within calls; their operators compare.
            "SORTGROUPCLAUSE" => {
                for operator in ["eqop", "sortop"] {
                    self.known_operator(number(node, operator)?)?;
                }
                Ok(Flow::default())
            }
            "FUNCEXPR" => self.call(node, "funcid", frame),
            "AGGREF" => self.call(node, "aggfnoid", frame),
            "WINDOWFUNC" => self.call(node, "winfnoid", frame),
            "OPEXPR" | "DISTINCTEXPR" | "NULLIFEXPR" | "SCALARARRAYOPEXPR" => self.operation(node, frame),
            "SUBLINK" => self.sublink(node, frame),
            "COERCEVIAIO" => {
                // Half a character is one of type "char".
                let may_be_char = node.node("arg").and_then(type_of).is_none_or(|it| it == SINGLE_BYTE);
                let to_text = !may_be_char && node.word("resulttype").is_some_and(|it| TEXT_TYPES.contains(&it));
                self.unless_it_may_fail(node, frame, to_text, "a conversion")
            }
            "ARRAYCOERCEEXPR" | "CONVERTROWTYPEEXPR" | "COERCETODOMAIN" => {
                self.unless_it_may_fail(node, frame, false, "a conversion")
            }
            "RANGETBLFUNCTION" | "TABLEFUNC" | "TABLESAMPLECLAUSE" => {
                self.unless_it_may_fail(node, frame, false, "a function that gives rows")
            }
            "ROWCOMPARE" | "ROWCOMPAREEXPR" => self.unless_it_may_fail(node, frame, false, "a comparison of rows"),
            "XMLEXPR"
            | "JSONCONSTRUCTOREXPR"
            | "JSONISPREDICATE"
            | "JSONVALUEEXPR"
            | "JSONRETURNING"
            | "JSONFORMAT"
            | "JSONEXPR"
            | "JSONBEHAVIOR"
            | "JSONTABLEPATH"
            | "JSONTABLEPATHSCAN"
            | "JSONTABLESIBLINGJOIN" => self.unless_it_may_fail(node, frame, false, "an expression of XML or JSON"),
            other => Err(Refusal::unknown(other)),
        }
    }

    /// What cannot fail (`total`) may be computed from anything, all else from what is not tagged.
    fn unless_it_may_fail(
        &self,
        node: &Node<'_>,
        frame: &Frame<'_, '_>,
        total: bool,
        what: &str,
    ) -> Result<Flow, Refusal> {
        let flow = self.parts(node, frame)?;
        match flow.sources.first() {
            Some(column) if !total => Err(self.may_fail(what, *column)),
            _ if total => Ok(flow.computed()),
            _ => Ok(flow.by_what_may_fail()),
        }
    }

    /// Conditions decide which result is computed.
    fn case(&self, node: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let part =
            |node: &Node<'_>, field: &str| node.field(field).map_or(Ok(Flow::default()), |it| self.flow(it, frame));
        let (mut conditions, mut results) = (part(node, "arg")?, part(node, "defresult")?);
        for when in node.list("args") {
            let when = when.as_node().filter(|it| matches!(it.kind, "WHEN" | "CASEWHEN"));
            let when = when.ok_or_else(|| Refusal::unknown("a CASE"))?;
            conditions.add(part(when, "expr")?);
            results.add(part(when, "result")?);
        }
        self.must_not_decide(&conditions, conditions.fallible || results.fallible)?;
        results.add(conditions);
        Ok(results)
    }

    /// What the server makes of a value for a column of another type, where it does so by itself and nothing in the tree says how.
    pub(super) fn converted(&self, flow: Flow, from: Option<u32>, to: u32) -> Result<Flow, Refusal> {
        match flow.sources.first() {
            _ if from == Some(to) => Ok(flow),
            _ if from.is_some_and(|from| WIDENED.contains(&(from, to))) => Ok(flow.computed()),
            Some(column) => Err(self.may_fail("the conversion to the other side's type", *column)),
            None => Ok(flow.by_what_may_fail()),
        }
    }

    /// Tagged values may not decide whether something is computed that can fail.
    pub(super) fn must_not_decide(&self, by: &Flow, fallible: bool) -> Result<(), Refusal> {
        match by.sources.first() {
            Some(column) if fallible => Err(self.may_fail("a condition beside something that can fail, both", *column)),
            _ => Ok(()),
        }
    }

    fn may_fail(&self, what: &str, column: Tagged) -> Refusal {
        Refusal::new(format!(
            "{what} of {} is refused: whether it fails, or what else it does, would tell of values that are masked",
            self.set.column_name(column)
        ))
    }

    fn variable(&self, node: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let of = frame.up(number(node, "varlevelsup")?).ok_or_else(|| Refusal::unknown("a column of nothing"))?;
        let columns = self.item(of, number(node, "varno")?)?;
        let attribute: i32 = number(node, "varattno")?;
        match usize::try_from(attribute) {
            // ctid and the like tell how rows are stored, and so of all that is in them.
            Err(_) | Ok(0) => {
                must_be_shown_whole(of, number(node, "varno")?)?;
                let below = of.entry(number(node, "varno")?).filter(|it| it.word("inh") != Some("false"));
                let relation = below.and_then(|it| it.word("relid")?.parse().ok());
                let is_above = relation.is_some_and(|it| self.set.is_above_tagged(it));
                if attribute < 0 && attribute != TABLE_OID && is_above {
                    return Err(Refusal::new(
                        "ctid and the like tell how rows are stored, and a table below this one has masked columns; read it with ONLY",
                    ));
                }
                self.spend(columns.iter().map(|it| 1 + it.sources.len()).sum())?;
                let mut row = Flow::default();
                columns.iter().for_each(|it| row.add(it.clone()));
                let item = of.entry(number(node, "varno")?);
                // A view knows the columns that there were when it was made, and the row has those that there are.
                let table = item.filter(|it| it.word("rtekind") == Some("0"));
                if let Some(table) = table.and_then(|it| it.word("relid")?.parse().ok()) {
                    row.sources.extend(self.set.tagged_of(table));
                }
                self.notes(&row);
                match row.sources.iter().find(|it| self.set.is_computed_when_read(**it)) {
                    Some(column) if attribute == 0 => Err(self.may_fail("the expression", *column)),
                    None if attribute == 0 => self.whole_row(node, item, &columns, row),
                    _ => Ok(row),
                }
            }
            Ok(number) => {
                let flow = columns.get(number - 1).cloned().ok_or_else(|| Refusal::unknown("a column of nothing"))?;
                self.notes(&flow);
                if node.word("vartype") == Some(ANY_ARRAY) && flow.sources.is_empty() {
                    return Err(Refusal::new(OTHERS_VALUES));
                }
                match flow.sources.first().filter(|it| self.set.is_computed_when_read(**it)) {
                    Some(column) => Err(self.may_fail("the expression", *column)),
                    None => Ok(flow),
                }
            }
        }
    }

    fn notes(&self, read: &Flow) {
        self.reads_tagged.set(self.reads_tagged.get() || !read.sources.is_empty());
    }

    fn call(&self, node: &Node<'_>, field: &str, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let oid: u32 = number(node, field)?;
        let form = node.word("funcformat").filter(|it| field == "funcid" && CAST_FORMS.contains(it));
        let known = match form {
            Some(form) => self.set.code().cast(oid, form == WRITTEN_CAST),
            None => self.set.code().function(oid),
        };
        let Some(known) = known else {
            return Err(Refusal::new(format!(
                "the function with oid {oid}, which the statement or a view in it calls, is not known to be harmless: it could \
                 read masked columns of this target where the gateway cannot see"
            )));
        };
        let filter = node.field("aggfilter").map_or(Ok(Flow::default()), |it| self.flow(it, frame))?;
        let arguments = self.arguments(node, frame)?;
        self.must_not_decide(&filter, arguments.iter().any(|it| it.flow.fallible))?;
        for field in ["aggorder", "aggdistinct"] {
            self.sorts_arguments(node, field, frame)?;
        }
        // Functions that give rows tell by how many they give.
        let total = match known.total {
            _ if node.word("funcretset") == Some("true") => Total::Never,
            _ if !known.takes_collation(number(node, "inputcollid")?) => Total::Never,
            total => total,
        };
        if let Some(maker) = known.maker
            && let Some(flow) = self.made(maker, node, &arguments, &filter)?
        {
            return Ok(flow);
        }
        let mut flow = filter;
        for (_, value) in node.fields.iter().filter(|(field, _)| !["args", "aggfilter"].contains(field)) {
            flow.add(self.flow(value, frame)?);
        }
        for argument in arguments {
            flow.add(argument.flow);
        }
        if total == Total::Always {
            return Ok(flow.computed());
        }
        if let (Total::First, [_, others @ ..]) = (total, node.list("args"))
            && others.iter().all(is_small)
        {
            return Ok(flow.computed());
        }
        match flow.sources.first() {
            Some(column) => Err(self.may_fail("a function", *column)),
            None => Ok(flow.by_what_may_fail()),
        }
    }

    /// What an aggregate sorts its input by, or compares it by, is clear: the server may sort the input of all aggregates by it.
    fn sorts_arguments(&self, node: &Node<'_>, field: &str, frame: &Frame<'_, '_>) -> Result<(), Refusal> {
        for clause in node.list(field).iter().filter_map(Value::as_node) {
            let reference: u32 = number(clause, "tleSortGroupRef")?;
            let is_it = |it: &&Node<'_>| it.word("ressortgroupref").and_then(|it| it.parse().ok()) == Some(reference);
            let argument = node.list("args").iter().filter_map(Value::as_node).find(is_it);
            let value = argument
                .and_then(|it| it.field("expr"))
                .ok_or_else(|| Refusal::unknown("the order of an aggregate"))?;
            self.chooses("the order of an aggregate, or DISTINCT in one,", value, frame)?;
        }
        Ok(())
    }

    fn operation(&self, node: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let operator: u32 = number(node, "opno")?;
        self.known_operator(operator)?;
        let total = self.set.code().is_total_operator(operator, number(node, "inputcollid")?)
            && node.word("opretset") != Some("true");
        self.unless_it_may_fail(node, frame, total, "an operator")
    }

    /// An operator that may run somebody's code is refused, whatever it is used on. 0: there is none.
    pub(super) fn known_operator(&self, oid: u32) -> Result<(), Refusal> {
        if oid == 0 || self.set.code().is_operator(oid) {
            return Ok(());
        }
        Err(Refusal::new(format!(
            "the operator with oid {oid}, which the statement or a view in it uses, is not known to be harmless"
        )))
    }

    fn sublink(&self, node: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let query = node.node("subselect").ok_or_else(|| Refusal::unknown("a subquery"))?;
        let columns = self.query(query, Some(frame))?;
        let mut flow = node.field("testexpr").map_or(Ok(Flow::default()), |it| self.flow(it, frame))?;
        let mut parts = None;
        match node.word("subLinkType") {
            // EXISTS: whether there is a row is not a matter of what is in it.
            Some("0") => {}
            // = ALL, = ANY, a comparison of rows: which rows are looked at depends on either side.
            Some("1" | "2" | "3") => {
                self.must_be_clear("a comparison with a subquery", &flow)?;
                columns.iter().try_for_each(|it| self.must_be_clear("a comparison with a subquery", it))?;
            }
            // An array of arrays, whose rows must be as long as each other.
            Some("6") if !gives_plain_values(query) => {
                columns.iter().try_for_each(|it| self.must_be_clear("ARRAY(...)", it))?;
            }
            // A value, several values, an array.
            Some("4" | "5" | "6") => {
                columns.iter().for_each(|it| flow.add(it.clone()));
                parts = self.of_subquery(node, &columns)?;
            }
            _ => return Err(Refusal::unknown("a subquery")),
        }
        // One that is to give a value gives several rows.
        Ok(Flow { parts, ..flow.by_what_may_fail() })
    }

    /// The tagged column that a condition looks up by one value of the statement's own, where its mask allows that.
    pub(super) fn lookup(&self, condition: &Value<'_>, frame: &Frame<'_, '_>) -> Result<Option<Tagged>, Refusal> {
        let Some(node) = condition.as_node().filter(|it| it.kind == "OPEXPR") else { return Ok(None) };
        let [left, right] = node.list("args") else { return Ok(None) };
        let (operator, collation) = (number(node, "opno")?, number(node, "inputcollid")?);
        for (value, own) in [(left, right), (right, left)] {
            let column = column_behind(value);
            let as_another = !std::ptr::eq(column, value);
            if !is_own_value(own) || !self.set.code().finds_itself(operator, collation, as_another) {
                continue;
            }
            let flow = self.flow(column, frame)?;
            if let (true, Some(found)) = (flow.exact, flow.sources.first())
                && self.set.may_be_looked_up(*found)
            {
                return Ok(Some(*found));
            }
        }
        Ok(None)
    }
}

/// A row that has a column in it which is not shown by itself either is not.
fn must_be_shown_whole(frame: &Frame<'_, '_>, number: usize) -> Result<(), Refusal> {
    match frame.entry(number).map(|it| (it.word("rtekind"), it.word("relid"))) {
        Some((Some("0"), Some(ATTRIBUTES))) => Err(Refusal::new(OTHERS_VALUES)),
        _ => Ok(()),
    }
}

/// A column that is compared as another type of the same values (varchar as text). Blanks at its end are no part of a `bpchar`.
fn column_behind<'v, 't>(value: &'v Value<'t>) -> &'v Value<'t> {
    const BPCHAR: &str = "1042";
    match value.as_node() {
        Some(node) if node.kind == "RELABELTYPE" && node.word("resulttype") != Some(BPCHAR) => {
            node.field("arg").unwrap_or(value)
        }
        _ => value,
    }
}

/// A constant or a parameter.
fn is_own_value(value: &Value<'_>) -> bool {
    match value.as_node() {
        Some(node) if node.kind == "RELABELTYPE" => node.field("arg").is_some_and(is_own_value),
        Some(node) => node.kind == "CONST" || node.kind == "PARAM" && node.word("paramkind") == Some("0"),
        None => false,
    }
}

/// The oid of the type of what an expression gives, where the tree tells it.
pub(super) fn type_of(node: &Node<'_>) -> Option<u32> {
    const BOOL: u32 = 16;
    let field = match node.kind {
        "BOOLEXPR" | "NULLTEST" | "BOOLEANTEST" | "SCALARARRAYOPEXPR" | "ROWCOMPARE" | "ROWCOMPAREEXPR" => {
            return Some(BOOL);
        }
        "COLLATE" | "COLLATEEXPR" | "NAMEDARGEXPR" => return type_of(node.node("arg")?),
        "SUBLINK" => {
            return match node.word("subLinkType")? {
                "4" => type_of(node.node("subselect")?.list("targetList").first()?.as_node()?.node("expr")?),
                "6" => None,
                _ => Some(BOOL),
            };
        }
        "VAR" => "vartype",
        "CONST" => "consttype",
        "PARAM" => "paramtype",
        "FUNCEXPR" => "funcresulttype",
        "AGGREF" => "aggtype",
        "WINDOWFUNC" => "wintype",
        "OPEXPR" | "DISTINCTEXPR" | "NULLIFEXPR" => "opresulttype",
        "CASE" | "CASEEXPR" => "casetype",
        "COALESCE" | "COALESCEEXPR" => "coalescetype",
        "MINMAX" | "MINMAXEXPR" => "minmaxtype",
        "ARRAY" | "ARRAYEXPR" => "array_typeid",
        "ROW" | "ROWEXPR" => "row_typeid",
        "SUBSCRIPTINGREF" => "refrestype",
        "SQLVALUEFUNCTION" => "type",
        "RELABELTYPE" | "COERCEVIAIO" | "ARRAYCOERCEEXPR" | "CONVERTROWTYPEEXPR" | "COERCETODOMAIN" | "FIELDSELECT" => {
            "resulttype"
        }
        _ => return None,
    };
    node.word(field)?.parse().ok()
}

/// A constant that no function of texts fails by: a text, or a number from 1 to [`SMALL`].
fn is_small(value: &Value<'_>) -> bool {
    let Some(node) = value.as_node().filter(|it| it.kind == "CONST" && it.word("constisnull") == Some("false")) else {
        return false;
    };
    match (node.word("consttype"), node.field("constvalue")) {
        (Some("25"), Some(Value::Datum(_))) => true,
        (Some("23"), Some(Value::Datum(bytes))) => {
            let number = bytes.first_chunk::<4>().map(|it| i64::from(i32::from_le_bytes(*it)));
            number.is_some_and(|it| (1..=SMALL).contains(&it))
        }
        _ => false,
    }
}

/// A query whose one column is a column of a plain type.
fn gives_plain_values(query: &Node<'_>) -> bool {
    let Some(first) = query.list("targetList").first().and_then(Value::as_node) else { return false };
    let kind = first.node("expr").filter(|it| it.kind == "VAR").and_then(|it| it.word("vartype"));
    kind.and_then(|it| it.parse().ok()).is_some_and(|it: u32| SCALARS.contains(&it))
}
