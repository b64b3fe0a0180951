//! Values that are put together of others: rows, arrays, and JSON that is made of values. Their form shows which part is which, so
//! that what is masked can be masked where it stands, and everything else shown.
//!
//! What is known of the parts comes from the tree alone. That a value has other parts than those is seen when it comes, and then it
//! is covered whole.

use std::collections::HashSet;
use std::sync::Arc;

use super::query::{Frame, Walk};
use super::tree::{Node, Value};
use super::{Flow, Refusal, Shows, Tagged, Traced, unescaped};
use crate::mask::Syntax;
use crate::protocol::postgres::catalog::Maker;
use crate::protocol::postgres::operation::SCALARS;

/// Parts, and parts of these, that are told apart in one result. Values beyond that are covered whole.
const MAX_PARTS: usize = 4_000;
/// Parts within parts.
const MAX_DEPTH: usize = 32;
/// `record`, the type of rows that have none of their own.
const RECORD: &str = "2249";
const TEXT: &str = "25";
/// A constant whose type nobody has asked for: it ends with a byte of zeros.
const UNKNOWN: &str = "705";

/// What a value is put together of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol::postgres) struct Parts {
    pub(in crate::protocol::postgres) syntax: Syntax,
    pub(in crate::protocol::postgres) form: Form,
    /// How many there are in all, and how deep.
    count: usize,
    depth: usize,
    /// Two fields of a row in it have one name: as JSON they could not be told apart.
    has_twins: bool,
    /// Of a field of a row the server looks for what sends it only if it is not NULL, and not for every type there is such a thing.
    pub(in crate::protocol::postgres) as_text_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol::postgres) enum Form {
    /// A row or an object: the names of its fields, in the order of a row.
    Fields(Vec<(String, Flow)>),
    /// An array of these.
    Items(Flow),
}

impl Form {
    fn flows(&self) -> impl Iterator<Item = &Flow> {
        let (fields, item) = match self {
            Self::Fields(fields) => (fields.as_slice(), None),
            Self::Items(item) => ([].as_slice(), Some(item)),
        };
        fields.iter().map(|(_, flow)| flow).chain(item)
    }
}

impl Parts {
    /// Bytes of memory, more or less.
    pub(super) fn size(&self) -> usize {
        let names: usize = match &self.form {
            Form::Fields(fields) => fields.iter().map(|(name, _)| name.len() + size_of::<(String, Flow)>()).sum(),
            Form::Items(_) => 0,
        };
        size_of::<Self>() + names + self.form.flows().map(Flow::size).sum::<usize>()
    }
}

/// An argument of a call.
pub(super) struct Argument<'v, 't> {
    value: &'v Value<'t>,
    pub(super) flow: Flow,
    /// What an aggregate sorts by, which is not part of what it gives.
    junk: bool,
}

impl Flow {
    /// Of a value that is put together of these. `fallible`: making it may fail, whatever they are.
    fn together(syntax: Syntax, form: Form, fallible: bool, is_scalar: impl Fn(Tagged) -> bool) -> Self {
        let mut all = Self::default();
        let (mut count, mut depth) = (0, 0);
        let mut names = HashSet::new();
        let mut has_twins = match &form {
            Form::Fields(fields) => !fields.iter().all(|(name, _)| names.insert(name)),
            Form::Items(_) => false,
        };
        let mut as_text_only = false;
        for flow in form.flows() {
            count += 1;
            as_text_only |= match flow.shows() {
                Shows::Clear => false,
                Shows::Column(table, number) => !is_scalar((table, number)),
                Shows::Computed(_) => true,
                Shows::Together(inner, _) => inner.as_text_only,
            };
            if let Some(inner) = &flow.parts {
                (count, depth) = (count + inner.count, depth.max(inner.depth));
                has_twins |= inner.has_twins;
            }
            all.add(flow.clone());
        }
        // In a row of PostgreSQL's places count, and not names.
        let can_be_told_apart = syntax == Syntax::Native || !has_twins;
        if !all.sources.is_empty() && can_be_told_apart && count <= MAX_PARTS && depth < MAX_DEPTH {
            // JSON is text, whatever is in it.
            as_text_only &= syntax == Syntax::Native;
            all.parts = Some(Arc::new(Parts { syntax, form, count, depth: depth + 1, has_twins, as_text_only }));
        }
        all.fallible |= fallible;
        all
    }

    /// Whether making jsonb of it cannot fail: of text as JSON it could, by a character.
    fn is_plain(&self, is_scalar: &impl Fn(Tagged) -> bool) -> bool {
        match (&self.parts, self.sources.first()) {
            (_, None) => true,
            (Some(parts), Some(_)) => parts.form.flows().all(|it| it.is_plain(is_scalar)),
            (None, Some(column)) => self.exact && is_scalar(*column),
        }
    }
}

/// Of a result's columns, those parts that there are too many of are not told apart.
pub(super) fn bounded(columns: &mut [Traced]) {
    let mut left = MAX_PARTS;
    for column in columns {
        let count = column.flow.parts.as_ref().map_or(0, |it| it.count);
        match left.checked_sub(count) {
            Some(rest) => left = rest,
            None => column.flow.parts = None,
        }
    }
}

impl Walk<'_> {
    /// A whole row: the fields of an item of FROM.
    pub(super) fn whole_row(
        &self,
        node: &Node<'_>,
        item: Option<&Node<'_>>,
        columns: &[Flow],
        row: Flow,
    ) -> Result<Flow, Refusal> {
        // The row's own columns may have others' names, or be more, than those that were there when a view was made.
        let Some(item) = item.filter(|_| !row.sources.is_empty() && !self.in_view.get()) else { return Ok(row) };
        // A row that has a type of its own has that one's names, whatever the statement calls its columns.
        let is_renamed = item.node("alias").is_some_and(|it| !it.is_empty("colnames"));
        let names = item.node("eref").map(|it| it.list("colnames")).unwrap_or_default();
        if is_renamed && node.word("vartype") != Some(RECORD) || names.len() != columns.len() {
            return Ok(row);
        }
        let mut fields = Vec::with_capacity(columns.len());
        for (name, flow) in names.iter().zip(columns) {
            match name_of(name) {
                // A column that was dropped is in no row.
                Some(name) if name.is_empty() => {}
                Some(name) => fields.push((name, flow.clone())),
                None => return Ok(row),
            }
        }
        let is_of_table = item.word("rtekind") == Some("0");
        // What is remembered of it would not be seen to be another table's by now.
        self.by_code.set(self.by_code.get() || is_of_table);
        let fallible = row.fallible;
        let whole = self.together(Syntax::Native, Form::Fields(fields), fallible)?;
        // What the catalog knows of that the statement does not name is in no field.
        Ok(if whole.sources == row.sources { whole } else { row })
    }

    /// `ROW(a, b)`
    pub(super) fn row(&self, node: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let flows = node.list("args").iter().map(|it| self.flow(it, frame)).collect::<Result<Vec<Flow>, Refusal>>()?;
        let names: Option<Vec<String>> = node.list("colnames").iter().map(name_of).collect();
        let mut all = Flow::default();
        match names.filter(|it| node.word("row_typeid") == Some(RECORD) && it.len() == flows.len()) {
            Some(names) => {
                let fields = names.into_iter().zip(flows).collect();
                return self.together(Syntax::Native, Form::Fields(fields), false);
            }
            None => flows.into_iter().for_each(|it| all.add(it)),
        }
        Ok(all)
    }

    /// The arguments of a call, junk included.
    pub(super) fn arguments<'v, 't>(
        &self,
        node: &'v Node<'t>,
        frame: &Frame<'_, '_>,
    ) -> Result<Vec<Argument<'v, 't>>, Refusal> {
        let argument = |it: &'v Value<'t>| {
            let entry = it.as_node().filter(|it| it.kind == "TARGETENTRY");
            let junk = entry.is_some_and(|it| it.word("resjunk") != Some("false"));
            let value = entry.and_then(|it| it.field("expr")).unwrap_or(it);
            Ok(Argument { value, flow: self.flow(value, frame)?, junk })
        };
        node.list("args").iter().map(argument).collect()
    }

    /// What a function puts together of its arguments. None: it is a value like any other's.
    pub(super) fn made(
        &self,
        maker: Maker,
        node: &Node<'_>,
        arguments: &[Argument<'_, '_>],
        filter: &Flow,
    ) -> Result<Option<Flow>, Refusal> {
        // Which of the rows are taken would be seen by how many items there are.
        let is_plain_call = node.word("funcretset") != Some("true") && node.word("funcvariadic") != Some("true");
        if !is_plain_call || !filter.sources.is_empty() {
            return Ok(None);
        }
        let own: Vec<&Argument<'_, '_>> = arguments.iter().filter(|it| !it.junk).collect();
        // Text as JSON may be none of jsonb's, and a type may have a cast to JSON that runs somebody's code.
        let may_fail = maker.syntax() == Syntax::Jsonb || matches!(maker, Maker::Object(_));
        let fallible = may_fail || arguments.iter().any(|it| it.flow.fallible);
        let made = match (maker, own.as_slice()) {
            (Maker::ToJson(syntax), [value, options @ ..]) => {
                let parts = value.flow.parts.as_deref().filter(|_| options.iter().all(|it| it.flow.sources.is_empty()));
                // What is within JSON is JSON.
                parts.map(|it| self.together(syntax, it.form.clone(), fallible))
            }
            (Maker::Items(syntax), [item]) => {
                self.can_be_items(&item.flow).then(|| self.together(syntax, Form::Items(item.flow.clone()), fallible))
            }
            (Maker::Object(syntax), own) if own.len() % 2 == 0 => {
                let field = |pair: &[&Argument<'_, '_>]| match pair {
                    [name, value] => Some((key(name.value)?, value.flow.clone())),
                    _ => None,
                };
                let fields: Option<Vec<(String, Flow)>> = own.chunks(2).map(field).collect();
                fields.map(|it| self.together(syntax, Form::Fields(it), fallible))
            }
            _ => None,
        };
        let fits = |flow: &Flow| {
            let is_jsonb = maker.syntax() == Syntax::Jsonb;
            flow.parts.is_some() && (!is_jsonb || flow.is_plain(&|column| self.is_scalar(column)))
        };
        Ok(made.transpose()?.filter(fits))
    }

    fn together(&self, syntax: Syntax, form: Form, fallible: bool) -> Result<Flow, Refusal> {
        self.spend(form.flows().map(|it| 1 + it.sources.len()).sum())?;
        Ok(Flow::together(syntax, form, fallible, |column| self.is_scalar(column)))
    }

    /// COALESCE: whether something that has parts is NULL is not up to what is in them.
    pub(super) fn first_of(&self, node: &Node<'_>, frame: &Frame<'_, '_>) -> Result<Flow, Refusal> {
        let (mut deciding, mut all) = (Flow::default(), Flow::default());
        let mut parts: Option<Arc<Parts>> = None;
        let mut is_one = true;
        for argument in node.list("args") {
            let flow = self.flow(argument, frame)?;
            self.must_not_decide(&deciding, flow.fallible)?;
            if let Some(its) = &flow.parts {
                is_one &= parts.as_ref().is_none_or(|it| it == its);
                parts = Some(Arc::clone(its));
            } else {
                is_one &= flow.sources.is_empty();
                deciding.add(flow.clone());
            }
            all.add(flow);
        }
        all.parts = parts.filter(|_| is_one);
        Ok(all)
    }

    /// The parts of what a subquery gives: its value, or an array of its values.
    pub(super) fn of_subquery(&self, link: &Node<'_>, columns: &[Flow]) -> Result<Option<Arc<Parts>>, Refusal> {
        let [column] = columns else { return Ok(None) };
        match link.word("subLinkType") {
            Some("4") => Ok(column.parts.clone()),
            Some("6") if self.can_be_items(column) => {
                Ok(self.together(Syntax::Native, Form::Items(column.clone()), false)?.parts)
            }
            _ => Ok(None),
        }
    }

    /// In the text of an array only what is written by rules that are known is found for certain.
    fn can_be_items(&self, flow: &Flow) -> bool {
        flow.parts.is_some() || flow.exact && flow.sources.iter().all(|it| self.is_scalar(*it))
    }

    fn is_scalar(&self, column: Tagged) -> bool {
        self.set.column_type(column).is_some_and(|it| SCALARS.contains(&it.oid))
    }
}

/// A name in a list of names.
fn name_of(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Word(name) => {
            Some(unescaped(name.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(name)))
        }
        _ => None,
    }
}

/// A text that the statement has as a constant, if all of it is known.
fn key(value: &Value<'_>) -> Option<String> {
    /// Bytes before a text's own: its length with these, in the upper bits.
    const HEADER: usize = 4;
    let node = value.as_node().filter(|it| it.kind == "CONST" && it.word("constisnull") == Some("false"))?;
    let Some(Value::Datum(bytes)) = node.field("constvalue") else { return None };
    let text = match node.word("consttype")? {
        TEXT => {
            let (header, text) = bytes.split_first_chunk::<HEADER>()?;
            let length = usize::try_from(u32::from_le_bytes(*header) >> 2).ok()?;
            (length == bytes.len()).then_some(text)?
        }
        UNKNOWN => bytes.strip_suffix(&[0])?,
        _ => return None,
    };
    String::from_utf8(text.to_vec()).ok()
}
