//! Functions and operators: code that a statement runs.

use pg_query::protobuf::JsonExprOp;
use pg_query::{Node, NodeEnum, NodeRef, protobuf};

use super::{Walk, name_parts, string};
use crate::policy::Kind;
use crate::protocol::postgres::catalog::Exposure;
use crate::protocol::postgres::operation::descent::{Unknown, Walked};
use crate::protocol::postgres::operation::{functions, looks_secret, utility};
use crate::protocol::postgres::wire::MAX_NAME;

/// The setting by which pg_dump restricts its own queries (CVE-2024-7348), where the server has it, and its value.
const RESTRICTION: &str = "restrict_nonsystem_relation_kind";
const RESTRICTED: &str = "view, foreign-table";

/// `... FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'`: the one query by which every pg_dump begins that calls
/// set_config with a column for a name. Whatever relation is meant and however it compares, the value is the literal that pg_dump
/// sends, which no setting takes on which the reading of statements rests.
pub(super) fn pg_dumps_setting(select: &protobuf::SelectStmt) -> Option<&'static str> {
    let [Node { node: Some(NodeEnum::RangeVar(relation)) }] = select.from_clause.as_slice() else { return None };
    let Some(Node { node: Some(NodeEnum::AExpr(condition)) }) = select.where_clause.as_deref() else { return None };
    let is_it = relation.relname == "pg_settings"
        && ["", "pg_catalog"].contains(&relation.schemaname.as_str())
        // IS DISTINCT FROM, ANY and others are written with the same operator.
        && condition.kind() == protobuf::AExprKind::AexprOp
        && condition.lexpr.as_deref().is_some_and(is_name)
        && condition.rexpr.as_deref().and_then(string) == Some(RESTRICTION)
        && name_parts(&condition.name).is_ok_and(|operator| operator == ["="]);
    is_it.then_some(RESTRICTION)
}

/// `SELECT 1 FROM pg_catalog.pg_cursors WHERE name = '...'`: how psycopg finds out whether its cursor is still there. The view shows
/// what statements cursors were made with, which may hold anything; this tells of a name.
pub(super) fn is_about_a_cursor(select: &protobuf::SelectStmt) -> bool {
    let protobuf::SelectStmt { target_list, from_clause, where_clause, .. } = select;
    let [Node { node: Some(NodeEnum::RangeVar(relation)) }] = from_clause.as_slice() else { return false };
    let [Node { node: Some(NodeEnum::ResTarget(target)) }] = target_list.as_slice() else { return false };
    let Some(Node { node: Some(NodeEnum::AExpr(condition)) }) = where_clause.as_deref() else { return false };
    let is_constant = |node: &Node| matches!(node.node, Some(NodeEnum::AConst(_)));
    let is_question = relation.schemaname == "pg_catalog"
        && relation.relname == "pg_cursors"
        && relation.alias.is_none()
        && target.val.as_deref().is_some_and(is_constant)
        && condition.kind() == protobuf::AExprKind::AexprOp
        && name_parts(&condition.name).is_ok_and(|operator| operator == ["="])
        && condition.lexpr.as_deref().is_some_and(is_name)
        && condition.rexpr.as_deref().is_some_and(is_constant);
    // Nothing else is in it.
    let no_more = || {
        let (limit_option, op) = (select.limit_option, protobuf::SetOperation::SetopNone.into());
        let (target_list, from_clause) = (target_list.clone(), from_clause.clone());
        let where_clause = where_clause.clone();
        *select
            == protobuf::SelectStmt { target_list, from_clause, where_clause, limit_option, op, ..Default::default() }
    };
    is_question && no_more()
}

/// A string that nothing is done to: a cast can cut it.
fn plain_string(node: &Node) -> Option<&str> {
    matches!(node.node, Some(NodeEnum::AConst(_))).then(|| string(node)).flatten()
}

/// The same with casts that do not cut it.
fn plain_name(node: &Node) -> Option<&str> {
    let Some(NodeEnum::TypeCast(cast)) = &node.node else { return plain_string(node) };
    let parts = name_parts(&cast.type_name.as_ref()?.names).ok()?;
    let keeps = matches!(parts.as_slice(), ["regclass" | "text"] | ["pg_catalog", "regclass" | "text"]);
    keeps.then(|| cast.arg.as_deref().and_then(plain_name)).flatten()
}

/// What the server takes a text for that is to name a relation, with its schema if it has one. None: that is not certain here.
fn relation_name(text: &str) -> Option<(Option<String>, String)> {
    let part = |part: &str| {
        let name = match part.strip_prefix('"').and_then(|it| it.strip_suffix('"')) {
            Some(quoted) if !quoted.contains('"') => quoted.to_owned(),
            Some(_) => return None,
            None => part.to_ascii_lowercase(),
        };
        let is_word = |it: &str| it.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
        let begins = name.bytes().next().is_some_and(|it| !it.is_ascii_digit());
        (begins && is_word(&name) && name.len() <= MAX_NAME).then_some(name)
    };
    match text.split('.').map(part).collect::<Option<Vec<_>>>()?.as_mut_slice() {
        [name] => Some((None, std::mem::take(name))),
        [schema, name] => Some((Some(std::mem::take(schema)), std::mem::take(name))),
        _ => None,
    }
}

/// The plain column `name`.
fn is_name(node: &Node) -> bool {
    let Some(NodeEnum::ColumnRef(column)) = &node.node else { return false };
    name_parts(&column.fields).is_ok_and(|parts| parts == ["name"])
}

impl<'a> Walk<'a> {
    pub(super) fn call(&mut self, call: &'a protobuf::FuncCall) -> Walked {
        let protobuf::FuncCall {
            funcname,
            args,
            agg_order,
            agg_filter,
            over,
            agg_within_group: _,
            agg_star: _,
            agg_distinct: _,
            func_variadic: _,
            funcformat: _,
            location: _,
        } = call;
        let parts = name_parts(funcname)?;
        if parts == ["pg_catalog", "system_user"] {
            return Err(Unknown("SYSTEM_USER, which is a column or a table of that name to older servers"));
        }
        let is_systems = matches!(parts.as_slice(), ["set_config"] if !self.set.user_function("set_config").shadows)
            || parts == ["pg_catalog", "set_config"];
        match self.setting_of(args).filter(|_| is_systems) {
            // SET, which is none that reads anything.
            Some(setting) => {
                let written = parts.join(".");
                self.seen.effect.get_or_insert_with(|| written.clone());
                self.note_function(written);
                if let Some(why) = utility::revealing(setting) {
                    self.hazard(why);
                }
            }
            None => self.function(&parts)?,
        }
        if parts.last() == Some(&"set_config") {
            self.seen.secret_strings |= args.first().and_then(plain_name).is_some_and(looks_secret);
            self.set_config(args);
        }
        self.sequence(parts.last().copied().unwrap_or_default(), args);
        self.all(args)?;
        self.all(agg_order)?;
        self.maybe(agg_filter.as_deref())?;
        match over {
            Some(over) => self.children(NodeRef::WindowDef(over)),
            None => Ok(()),
        }
    }

    /// Where a sequence gives values to a masked column, functions of sequences say plainly which one they are about, and it is not that.
    fn sequence(&mut self, function: &str, args: &[Node]) {
        if !functions::is_of_sequences(function) || !self.set.has_hidden_sequences() {
            return;
        }
        let why = match args.first().and_then(plain_name).and_then(relation_name) {
            None => "it may be about a sequence that a masked column has its values of; name one by a plain literal",
            Some((schema, name)) => match self.set.exposure(schema.as_deref(), &name) {
                Exposure::Clear => return,
                Exposure::Unknown => {
                    self.seen.unknown.insert((schema, name));
                    "it is not known what its sequence is for"
                }
                Exposure::Tagged(_) | Exposure::Derived => "a masked column has its values of the sequence",
            },
        };
        self.hazard(why.to_owned());
    }

    pub(super) fn function(&mut self, parts: &[&str]) -> Walked {
        let Some(name) = parts.last() else { return Err(Unknown("a function without a name")) };
        let written = parts.join(".");
        if let Some(kind) = functions::also(name) {
            self.add_action(kind, Some(&written));
            if kind == Kind::Do {
                self.not_understood(format!("what {written} runs"));
            }
        }
        self.seen.secret_strings |= functions::takes_secrets(name);
        let shadowed = parts.len() == 1 && self.set.user_function(name).shadows;
        match functions::nature(parts) {
            functions::Nature::Pure if !shadowed => {}
            // What it is called with, and whether it is, the server's tree tells of a statement that stores something.
            functions::Nature::Effect if !shadowed && self.storing && *name == "nextval" => {}
            functions::Nature::Effect if !shadowed => {
                self.seen.effect.get_or_insert_with(|| written.clone());
            }
            _ => {
                self.seen.opaque_code.get_or_insert_with(|| written.clone());
            }
        }
        self.note_function(written);
        Ok(())
    }

    /// What this grammar knows by a word of its own is to an older server a call of whatever function has that name.
    pub(super) fn word_of_newer_servers(&mut self, node: NodeRef<'_>) {
        let word = match node {
            NodeRef::JsonFuncExpr(it) => match it.op() {
                JsonExprOp::JsonExistsOp => "json_exists",
                JsonExprOp::JsonQueryOp => "json_query",
                JsonExprOp::JsonValueOp => "json_value",
                JsonExprOp::JsonTableOp | JsonExprOp::Undefined => "json_table",
            },
            NodeRef::JsonTable(_) => "json_table",
            NodeRef::JsonScalarExpr(_) => "json_scalar",
            NodeRef::JsonSerializeExpr(_) => "json_serialize",
            NodeRef::JsonParseExpr(_) => "json",
            NodeRef::JsonObjectConstructor(_) => "json_object",
            NodeRef::JsonArrayConstructor(_) | NodeRef::JsonArrayQueryConstructor(_) => "json_array",
            NodeRef::JsonObjectAgg(_) => "json_objectagg",
            NodeRef::JsonArrayAgg(_) => "json_arrayagg",
            NodeRef::MergeSupportFunc(_) => "merge_action",
            // The grammar itself puts it into pg_catalog.
            NodeRef::FuncCall(it)
                if matches!(name_parts(&it.funcname).as_deref(), Ok(["pg_catalog", "json_object"])) =>
            {
                "json_object"
            }
            _ => return,
        };
        if self.set.user_function(word).shadows {
            self.seen.opaque_code.get_or_insert_with(|| word.to_owned());
        }
    }

    /// A cast can be a function's.
    pub(super) fn type_name(&mut self, parts: &[&str]) {
        if let Some(name) = parts.last()
            && self.set.is_cast_by_code(name)
        {
            self.seen.opaque_code.get_or_insert_with(|| format!("a cast from or to {name}"));
        }
    }

    pub(super) fn note_function(&mut self, name: String) {
        self.spend(self.actions.get(self.at).map_or(0, |it| it.functions.len()));
        let computes = functions::only_computes(&name);
        if let Some(action) = self.action() {
            action.runs_code |= !computes;
            if !action.functions.contains(&name) {
                action.functions.push(name);
            }
        }
    }

    /// The setting that a call of `set_config` names, if it does so plainly.
    fn setting_of<'n>(&self, args: &'n [Node]) -> Option<&'n str> {
        let (name, value) = (args.first()?, args.get(1).and_then(plain_string));
        let restricts = is_name(name) && value == Some(RESTRICTED);
        plain_string(name).or(self.setting.filter(|_| restricts))
    }

    /// `set_config` is SET by another name.
    pub(super) fn set_config(&mut self, args: &[Node]) {
        if let Some(name) = self.setting_of(args) {
            self.add_action(utility::setting_kind(name), Some("set_config"));
            let value = args.get(1).and_then(plain_string);
            let refused = utility::pinned(name, value);
            self.seen.lets_write |= utility::lets_write(name, value);
            self.seen.pinned = self.seen.pinned.take().or(refused);
        } else {
            self.add_action(Kind::Set, Some("set_config"));
            self.add_action(Kind::SetRole, Some("set_config"));
            // It could be one that decides how statements are read, and the next one may be on its way already.
            let why = "set_config takes the setting's name as a plain literal, in the first place".to_owned();
            self.seen.pinned.get_or_insert(why);
        }
    }

    pub(super) fn operator(&mut self, name: &[Node]) -> Walked {
        let parts = name_parts(name)?;
        match parts.as_slice() {
            [] => {}
            [.., schema, operator] => {
                let written = format!("operator({schema}.{operator})");
                if *schema != "pg_catalog" {
                    self.seen.opaque_code.get_or_insert_with(|| written.clone());
                    self.note_function(written);
                }
            }
            [operator] => {
                if self.set.is_user_operator(operator) {
                    self.seen.opaque_code.get_or_insert_with(|| format!("operator({operator})"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn operator_expression(&mut self, expression: &'a protobuf::AExpr) -> Walked {
        self.operator(&expression.name)?;
        let sides = (expression.lexpr.as_deref(), expression.rexpr.as_deref());
        if let (Some(left), Some(right)) = sides {
            if self.is_plain_column(left) {
                self.show(right);
            }
            if self.is_plain_column(right) {
                self.show(left);
            }
        }
        self.maybe(sides.0)?;
        self.maybe(sides.1)
    }
}

#[cfg(test)]
mod tests {
    use super::relation_name;

    #[test]
    fn a_relations_name_is_taken_as_the_server_takes_it() {
        let name = |schema: Option<&str>, name: &str| Some((schema.map(str::to_owned), name.to_owned()));
        assert_eq!(relation_name("orders_id_seq"), name(None, "orders_id_seq"));
        assert_eq!(relation_name("Public.ORDERS"), name(Some("public"), "orders"));
        assert_eq!(relation_name("public.\"Orders\""), name(Some("public"), "Orders"));
        for uncertain in [
            "",
            ".",
            "a.",
            "16384",
            "1a",
            "a b",
            " a",
            "a.b.c",
            "\"a\"\"b\"",
            "\"a.b\"",
            "\"a",
            "-",
            "é",
            &"a".repeat(64),
        ] {
            assert_eq!(relation_name(uncertain), None, "{uncertain}");
        }
    }
}
