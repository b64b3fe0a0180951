//! Functions and operators: code that a statement runs.

use pg_query::protobuf::JsonExprOp;
use pg_query::{Node, NodeEnum, NodeRef, protobuf};

use super::{Walk, name_parts, string};
use crate::policy::Kind;
use crate::protocol::postgres::operation::descent::{Unknown, Walked};
use crate::protocol::postgres::operation::{functions, utility};

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
        self.function(&parts)?;
        if parts.last() == Some(&"set_config") {
            self.set_config(args);
        }
        self.all(args)?;
        self.all(agg_order)?;
        self.maybe(agg_filter.as_deref())?;
        match over {
            Some(over) => self.children(NodeRef::WindowDef(over)),
            None => Ok(()),
        }
    }

    pub(super) fn function(&mut self, parts: &[&str]) -> Walked {
        let Some(name) = parts.last() else { return Err(Unknown("a function without a name")) };
        let written = parts.join(".");
        if let Some(kind) = functions::also(name) {
            self.add_action(kind, Some(&written));
        }
        self.seen.secret_strings |= functions::takes_secrets(name);
        let shadowed = parts.len() == 1 && self.set.user_function(name).shadows;
        match functions::nature(parts) {
            functions::Nature::Pure if !shadowed => {}
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
        if let Some(action) = self.action()
            && !action.functions.contains(&name)
        {
            action.functions.push(name);
        }
    }

    /// `set_config` is SET by another name.
    pub(super) fn set_config(&mut self, args: &[Node]) {
        let (name, value) = (args.first().and_then(string), args.get(1).and_then(string));
        let restricts = args.first().is_some_and(is_name) && value == Some(RESTRICTED);
        if let Some(name) = name.or(self.setting.filter(|_| restricts)) {
            self.add_action(utility::setting_kind(name), Some("set_config"));
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
