//! From the rows of a catalog to what is known of it: which columns are tagged, and what else shows their values.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::code::{self, CodeRow, Runs, Sensitive};
use super::read::{ANY_CHANGE, ColumnRow, RelationRow, Snapshot, UniqueRow, WHOLE_ROW};
use super::{
    CatalogError, Conflict, Exposure, FIRST_USER_OID, Relation, SEQUENCES, TaggedSet, UserFunction, is_ordinary,
    is_system_schema, is_value_catalog,
};
use crate::mask::{ColumnPattern, MaskKind, MaskRule};
use crate::policy::Glob;

impl TaggedSet {
    /// From a catalog's rows to the set. A pattern that names no column is an error.
    ///
    /// # Errors
    ///
    /// [`CatalogError::Unresolved`].
    pub fn resolve(snapshot: &Snapshot, masks: &[Arc<MaskRule>], fetched_at: SystemTime) -> Result<Self, CatalogError> {
        let by_oid: HashMap<u32, &RelationRow> = snapshot.relations.iter().map(|it| (it.oid, it)).collect();
        let mut tags = tag(&snapshot.columns, &by_oid, masks)?;
        let made = snapshot.made_of.iter().map(|(column, _)| column.clone());
        let keys = snapshot.foreign_keys.iter().flat_map(|(own, other)| [own.clone(), other.clone()]);
        let columns: Vec<ColumnRow> = snapshot.columns.iter().cloned().chain(made).chain(keys).collect();
        loop {
            spread_over_inheritance(&mut tags, &columns, &snapshot.inherits);
            let by_keys = spread_over_keys(&mut tags, &snapshot.foreign_keys);
            if !spread_over_parts(&mut tags, &snapshot.made_of) && !by_keys {
                break;
            }
        }
        cover_what_is_made(&mut tags, &snapshot.made_of);
        let masked_names: HashSet<String> =
            masks.iter().flat_map(|it| &it.columns).map(|it| it.column.clone()).collect();
        let called_so = columns.iter().filter(|it| masked_names.contains(&it.name));
        let mut tagged_names: HashMap<u32, BTreeSet<String>> = HashMap::new();
        for column in &columns {
            if tags.contains_key(&(column.relation, column.number)) {
                tagged_names.entry(column.relation).or_default().insert(column.name.clone());
            }
        }
        let tagged: HashSet<u32> = tags.keys().map(|(relation, _)| *relation).collect();
        let referred = snapshot.foreign_keys.iter().map(|(_, other)| (other.relation, other.number));
        let kin = Kin::new(snapshot);
        let mut referred_to: HashSet<u32> = HashSet::new();
        let mut todo: Vec<u32> = referred.filter(|it| tags.contains_key(it)).map(|(relation, _)| relation).collect();
        while let Some(relation) = todo.pop() {
            if referred_to.insert(relation) {
                todo.extend(kin.parents.get(&relation).into_iter().flatten());
            }
        }
        let mut above: HashMap<u32, HashSet<String>> = HashMap::new();
        let mut todo: Vec<(u32, &str)> = tagged_names
            .iter()
            .flat_map(|(relation, names)| names.iter().map(|name| (*relation, name.as_str())))
            .collect();
        while let Some((relation, name)) = todo.pop() {
            for &parent in kin.parents.get(&relation).into_iter().flatten() {
                if above.entry(parent).or_default().insert(name.to_owned()) {
                    todo.push((parent, name));
                }
            }
        }
        let constrained = constrained(&tags, &tagged, snapshot, &kin);
        let grouping_keys = grouping_keys(&tags, &tagged, snapshot);
        let conflicts = conflicts(&tags, &tagged, snapshot, &kin);
        let by_columns = constrained.iter().chain(conflicts.keys()).map(|(relation, _)| *relation);
        let is_hashed = |masks: &[Arc<MaskRule>]| masks.iter().any(|it| matches!(it.with, MaskKind::Hash { .. }));
        // What a hashed column has by default would be hashed for whoever inserts.
        let hashed = tags.iter().filter(|(_, masks)| is_hashed(masks)).map(|((relation, _), _)| *relation);
        let mixed: HashSet<u32> = by_columns.chain(snapshot.by_rules.iter().copied()).chain(hashed).collect();
        let called = |it: &ColumnRow| {
            let relation = by_oid.get(&it.relation).map_or("", |it| it.name.as_str());
            ((it.relation, it.number), format!("{relation}.{}", it.name))
        };
        let is_tagged = |it: &&ColumnRow| tags.contains_key(&(it.relation, it.number));
        let names = columns.iter().filter(is_tagged).map(called).collect();
        let tagged_columns = tagged_names.values().flatten().cloned().collect();
        let gives = |(_, column): &&(u32, (u32, i16))| tags.contains_key(column);
        let hidden: HashSet<u32> = snapshot.sequences.iter().filter(gives).map(|(sequence, _)| *sequence).collect();
        let derived = derived(&tags, &tagged_names, &by_oid, &hidden, snapshot);
        let masked_less = masked_less(&tags, &derived, &columns, snapshot);
        let runs_code = !snapshot.policy_code.is_empty() || !snapshot.type_code.is_empty();
        let by_code = if !runs_code || tags.is_empty() {
            HashSet::new()
        } else {
            readers(&tagged_names, &derived, &by_oid, snapshot)
        };
        let guarded = guarded(&tags, &derived, &by_code, snapshot);
        let values = snapshot.relations.iter().filter(|it| is_value_catalog(&it.schema, &it.name)).map(|it| it.oid);
        let shown_by = derived.iter().copied().chain(values).collect();
        let ordinary = snapshot.relations.iter().filter(|it| is_ordinary(it.kind)).map(|it| it.oid).collect();
        let row_counts = row_counts(snapshot);
        let mut relations: HashMap<String, Vec<Relation>> = HashMap::new();
        for row in &snapshot.relations {
            let shows_sequences = !hidden.is_empty() && row.name == SEQUENCES && is_system_schema(&row.schema);
            let exposure = if derived.contains(&row.oid) || is_value_catalog(&row.schema, &row.name) || shows_sequences
            {
                Exposure::Derived
            } else {
                tagged_names.remove(&row.oid).map_or(Exposure::Clear, Exposure::Tagged)
            };
            let guarded = guarded.contains(&row.oid);
            let mixed = mixed.contains(&row.oid);
            let rows = row_counts.get(&row.oid).copied().flatten();
            let relation = Relation { schema: row.schema.clone(), exposure, guarded, mixed, rows };
            relations.entry(row.name.clone()).or_default().push(relation);
        }
        let mut functions: HashMap<String, UserFunction> = HashMap::new();
        for (name, function) in &snapshot.functions {
            let known = functions.entry(name.clone()).or_default();
            known.shadows |= function.shadows;
            known.takes_row |= function.takes_row;
            known.planned |= function.planned;
        }
        let types = snapshot.types.iter().filter(|(column, _)| tags.contains_key(column)).copied().collect();
        // Last, since nobody named it.
        cover_the_systems(&mut tags, snapshot);
        let operators = snapshot.operators.iter().cloned().collect();
        let reading = snapshot.type_code.iter().filter(|(_, _, function)| by_code.contains(function));
        let reading_types: HashMap<u32, &String> = reading.map(|(oid, name, _)| (*oid, name)).collect();
        let cast_types = snapshot.cast_types.iter().chain(reading_types.values().copied()).cloned().collect();
        Ok(Self {
            masks: tags,
            relations,
            ordinary,
            tagged_columns,
            functions,
            take_one: snapshot.take_one.clone(),
            operators,
            cast_types,
            reading_types: reading_types.into_keys().collect(),
            types,
            names,
            derived: shown_by,
            known: snapshot.relations.iter().map(|it| (it.oid, it.columns)).collect(),
            called_so: called_so.map(|it| ((it.relation, it.number), it.name.clone())).collect(),
            masked_names,
            constrained,
            conflicts,
            keys: grouping_keys,
            masked_less,
            tagged,
            referred_to,
            above,
            computed: snapshot.computed.iter().copied().collect(),
            code: if hidden.is_empty() {
                Arc::clone(&snapshot.known)
            } else {
                Arc::new(snapshot.known.without_sequences())
            },
            version: snapshot.version,
            has_hidden_sequences: !hidden.is_empty(),
            fetched_at,
        })
    }
}

/// Relations that are looked at to add up rows, some of them more than once.
const MAX_COUNTED: usize = 5_000_000;

/// How many rows relations show: their own, their children's, and those of what a view reads. None: of some of it nobody knows.
fn row_counts(snapshot: &Snapshot) -> HashMap<u32, Option<u64>> {
    let by_oid: HashMap<u32, &RelationRow> = snapshot.relations.iter().map(|it| (it.oid, it)).collect();
    let is_view = |oid: u32| by_oid.get(&oid).is_some_and(|it| it.kind == 'v');
    let mut parts: HashMap<u32, Vec<u32>> = HashMap::new();
    let children = snapshot.inherits.iter().map(|&(child, parent)| (parent, child));
    for (whole, part) in children.chain(snapshot.rewrites.iter().copied().filter(|(view, _)| is_view(*view))) {
        parts.entry(whole).or_default().push(part);
    }
    let mut left = MAX_COUNTED;
    let mut count = |row: &RelationRow| {
        let (mut sum, mut seen, mut todo) = (0_u64, HashSet::from([row.oid]), vec![row.oid]);
        while let Some(oid) = todo.pop() {
            left = left.checked_sub(1)?;
            let row = by_oid.get(&oid)?;
            // A view has none of its own, and neither has a partitioned table.
            sum = sum.saturating_add(if matches!(row.kind, 'v' | 'p') { 0 } else { row.rows? });
            todo.extend(parts.get(&oid).into_iter().flatten().filter(|it| seen.insert(**it)));
        }
        Some(sum)
    };
    snapshot.relations.iter().map(|row| (row.oid, count(row))).collect()
}

type Tags = HashMap<(u32, i16), Vec<Arc<MaskRule>>>;

/// The columns that the patterns name, with the masks of each.
fn tag(
    columns: &[ColumnRow],
    relations: &HashMap<u32, &RelationRow>,
    masks: &[Arc<MaskRule>],
) -> Result<Tags, CatalogError> {
    let mut tags = Tags::new();
    for mask in masks {
        for pattern in &mask.columns {
            let mut resolved = false;
            for column in columns {
                let Some(relation) = relations.get(&column.relation) else { continue };
                if matches(pattern, relation, &column.name) {
                    resolved = true;
                    add(&mut tags, (column.relation, column.number), mask);
                }
            }
            if !resolved {
                return Err(CatalogError::Unresolved {
                    mask: mask.name.clone(),
                    pattern: written(pattern),
                    nearest: None,
                });
            }
        }
    }
    Ok(tags)
}

fn add(tags: &mut Tags, column: (u32, i16), mask: &Arc<MaskRule>) -> bool {
    let masks = tags.entry(column).or_default();
    let new = !masks.iter().any(|it| Arc::ptr_eq(it, mask));
    if new {
        masks.push(Arc::clone(mask));
    }
    new
}

fn matches(pattern: &ColumnPattern, relation: &RelationRow, column: &str) -> bool {
    let fits = |part: &str, name: &str| Glob::new(part).matches(name);
    // A wildcard does not reach into the server's own schemas.
    let schema = pattern.schema.as_deref().filter(|it| !it.contains('*') || !is_system_schema(&relation.schema));
    let anywhere = pattern.schema.is_none() && !is_system_schema(&relation.schema);
    (anywhere || schema.is_some_and(|it| fits(it, &relation.schema)))
        && pattern.table.as_deref().is_none_or(|it| fits(it, &relation.name))
        && fits(&pattern.column, column)
}

fn written(pattern: &ColumnPattern) -> String {
    let part = |it: &Option<String>| it.clone().unwrap_or_else(|| "*".to_owned());
    format!("{}.{}.{}", part(&pattern.schema), part(&pattern.table), pattern.column)
}

/// A partition holds its parent's rows and is read through it: both have the tags of either, by column name.
fn spread_over_inheritance(tags: &mut Tags, columns: &[ColumnRow], inherits: &[(u32, u32)]) {
    let mut kin: HashMap<u32, Vec<u32>> = HashMap::new();
    for &(child, parent) in inherits {
        kin.entry(child).or_default().push(parent);
        kin.entry(parent).or_default().push(child);
    }
    let number: HashMap<(u32, &str), i16> =
        columns.iter().map(|it| ((it.relation, it.name.as_str()), it.number)).collect();
    let name: HashMap<(u32, i16), &str> =
        columns.iter().map(|it| ((it.relation, it.number), it.name.as_str())).collect();

    let mut todo: Vec<(u32, i16)> = tags.keys().copied().collect();
    while let Some(column) = todo.pop() {
        let Some(name) = name.get(&column) else { continue };
        let masks = tags.get(&column).cloned().unwrap_or_default();
        for relative in kin.get(&column.0).into_iter().flatten() {
            let Some(&number) = number.get(&(*relative, *name)) else { continue };
            let mut changed = false;
            for mask in &masks {
                changed |= add(tags, (*relative, number), mask);
            }
            if changed {
                todo.push((*relative, number));
            }
        }
    }
}

/// The columns of a foreign key hold values of those that it refers to. True if it made a difference.
fn spread_over_keys(tags: &mut Tags, foreign_keys: &[(ColumnRow, ColumnRow)]) -> bool {
    let mut changed = false;
    for (one, other) in foreign_keys {
        let (one, other) = ((one.relation, one.number), (other.relation, other.number));
        for (from, to) in [(one, other), (other, one)] {
            for mask in tags.get(&from).cloned().unwrap_or_default() {
                changed |= add(tags, to, &mask);
            }
        }
    }
    changed
}

/// The columns of parents and children, by name and by number.
struct Kin<'s> {
    names: HashMap<(u32, i16), &'s str>,
    numbers: HashMap<(u32, &'s str), i16>,
    parents: HashMap<u32, Vec<u32>>,
}

impl<'s> Kin<'s> {
    fn new(snapshot: &'s Snapshot) -> Self {
        let columns = || snapshot.kin_columns.iter();
        let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
        for &(child, parent) in &snapshot.inherits {
            parents.entry(child).or_default().push(parent);
        }
        Self {
            names: columns().map(|it| ((it.relation, it.number), it.name.as_str())).collect(),
            numbers: columns().map(|it| ((it.relation, it.name.as_str()), it.number)).collect(),
            parents,
        }
    }

    /// The parents of a column's relation, with the number that each has for it, if it has one. All of a row is that everywhere.
    fn above(&self, (relation, column): (u32, i16)) -> impl Iterator<Item = (u32, i16)> {
        let name = self.names.get(&(relation, column));
        let number = move |parent: u32| match (column, name) {
            (WHOLE_ROW, _) | (_, None) => Some(WHOLE_ROW),
            (_, Some(name)) => self.numbers.get(&(parent, *name)).copied(),
        };
        let parents = self.parents.get(&relation).into_iter().flatten();
        parents.filter_map(move |&parent| Some((parent, number(parent)?)))
    }
}

/// The untagged columns that are in a constraint or an index with a tagged one, that a tagged one is generated from, or that tell where
/// a row with a tagged one is kept. All of a relation's, where a constraint has whole rows.
fn constrained(tags: &Tags, tagged: &HashSet<u32>, snapshot: &Snapshot, kin: &Kin<'_>) -> HashSet<(u32, i16)> {
    let is_tagged = |relation: u32, column: i16| tags.contains_key(&(relation, column));
    let mut constrained = HashSet::new();
    for (relation, columns) in &snapshot.together {
        let has_tagged = columns.iter().any(|it| is_tagged(*relation, *it));
        let whole = columns.contains(&WHOLE_ROW) && tagged.contains(relation);
        if has_tagged || whole {
            let untagged = columns.iter().filter(|it| !is_tagged(*relation, **it));
            constrained.extend(untagged.map(|it| (*relation, if *it == ANY_CHANGE { WHOLE_ROW } else { *it })));
        }
    }
    for (column, part) in snapshot.made_of.iter().filter(|(column, part)| part.0 == column.relation) {
        if is_tagged(column.relation, column.number) && !is_tagged(part.0, part.1) {
            constrained.insert(*part);
        }
    }
    // In another partition other constraints hold, of its own.
    for (relation, columns) in snapshot.partition_keys.iter().filter(|(relation, _)| tagged.contains(relation)) {
        let plain = columns.iter().filter(|it| **it > 0 && !is_tagged(*relation, **it));
        constrained.extend(plain.map(|it| (*relation, *it)));
    }
    // By a parent's name its children are written, too.
    let mut todo: Vec<(u32, i16)> = constrained.iter().copied().collect();
    while let Some(column) = todo.pop() {
        todo.extend(kin.above(column).filter(|it| constrained.insert(*it)));
    }
    constrained
}

/// The tagged columns by whose values a row may be in the way of a new one, and those that such ones are generated from. All of a
/// relation's, where NULLs may be in the way as well.
fn conflicts(tags: &Tags, tagged: &HashSet<u32>, snapshot: &Snapshot, kin: &Kin<'_>) -> HashMap<(u32, i16), Conflict> {
    let mut conflicts: HashMap<(u32, i16), Conflict> = HashMap::new();
    let mut todo = Vec::new();
    for key in &snapshot.conflicting {
        let is_tagged = |it: &i16| match *it {
            WHOLE_ROW => tagged.contains(&key.relation),
            column => tags.contains_key(&(key.relation, column)),
        };
        let computes = key.computed.iter().any(is_tagged);
        if !computes && !key.columns.iter().any(is_tagged) {
            continue;
        }
        let conflict = if key.by_equality && !computes { Conflict::ByEquality } else { Conflict::Otherwise };
        let columns = key.columns.iter().chain(&key.computed).filter(|it| **it > 0 && is_tagged(it));
        todo.extend(columns.map(|it| ((key.relation, *it), conflict)));
        if !key.is_strict || computes && !key.by_expressions {
            todo.push(((key.relation, WHOLE_ROW), Conflict::Otherwise));
        }
    }
    while let Some((column, conflict)) = todo.pop() {
        let known = conflicts.entry(column).or_insert(Conflict::Never);
        if *known >= conflict {
            continue;
        }
        *known = conflict;
        let parts = snapshot.made_of.iter().filter(|(made, part)| part.0 == made.relation);
        for (_, part) in parts.filter(|(made, _)| (made.relation, made.number) == column) {
            todo.push((*part, Conflict::Otherwise));
            todo.push(((column.0, WHOLE_ROW), Conflict::Otherwise));
        }
        todo.extend(kin.above(column).map(|it| (it, conflict)));
    }
    conflicts
}

/// A mask of nobody's configuration, of which nothing is seen.
fn cover(name: &str) -> Arc<MaskRule> {
    Arc::new(MaskRule {
        name: name.to_owned(),
        targets: Vec::new(),
        columns: Vec::new(),
        detectors: Vec::new(),
        with: MaskKind::Redact,
        lookups_per_minute: None,
    })
}

/// A hash of what is computed from a column that agents write would tell them the hash of any value they like.
fn cover_what_is_made(tags: &mut Tags, made_of: &[(ColumnRow, (u32, i16))]) {
    let mask = cover("computed from what has no hash");
    for (made, part) in made_of {
        let column = (made.relation, made.number);
        let has = |it: &Arc<MaskRule>| tags.get(part).is_some_and(|of| of.iter().any(|mask| Arc::ptr_eq(mask, it)));
        let mut hashes = tags.get(&column).into_iter().flatten().filter(|it| matches!(it.with, MaskKind::Hash { .. }));
        if hashes.any(|it| !has(it)) {
            add(tags, column, &mask);
        }
    }
}

/// Columns of the system's own are covered wherever anything is.
fn cover_the_systems(tags: &mut Tags, snapshot: &Snapshot) {
    let mask = cover("what a system catalog holds");
    if !tags.is_empty() {
        tags.extend(snapshot.covered.iter().map(|column| (*column, vec![Arc::clone(&mask)])));
    }
}

/// The primary keys that a planner groups by, whatever else it is told to group by. From PostgreSQL 18 on it takes any unique
/// index, the shortest: so there is none that has a tagged column.
fn grouping_keys(tags: &Tags, tagged: &HashSet<u32>, snapshot: &Snapshot) -> HashMap<u32, Vec<i16>> {
    let is_tagged = |row: &&UniqueRow| row.columns.iter().any(|column| tags.contains_key(&(row.relation, *column)));
    let by_values: HashSet<u32> = snapshot.unique.iter().filter(is_tagged).map(|row| row.relation).collect();
    let goes_by = |row: &&UniqueRow| row.is_key && tagged.contains(&row.relation) && !by_values.contains(&row.relation);
    snapshot.unique.iter().filter(goes_by).map(|row| (row.relation, row.columns.clone())).collect()
}

/// Relations that are masked less than another one of their name: what is traced as one of these may run as that. By names of
/// columns and masks; of a derived relation nobody knows.
fn masked_less(tags: &Tags, derived: &HashSet<u32>, columns: &[ColumnRow], snapshot: &Snapshot) -> HashSet<u32> {
    let mut masked: HashMap<u32, BTreeSet<(&str, &str)>> = HashMap::new();
    for column in columns {
        for mask in tags.get(&(column.relation, column.number)).into_iter().flatten() {
            masked.entry(column.relation).or_default().insert((&column.name, &mask.name));
        }
    }
    let mut by_name: HashMap<&str, Vec<u32>> = HashMap::new();
    for row in &snapshot.relations {
        by_name.entry(&row.name).or_default().push(row.oid);
    }
    let mut less = HashSet::new();
    for same in by_name.into_values().filter(|it| it.len() > 1) {
        let all: BTreeSet<_> = same.iter().filter_map(|it| masked.get(it)).flatten().collect();
        for oid in &same {
            let beside_derived = same.iter().any(|it| it != oid && derived.contains(it));
            if beside_derived || masked.get(oid).map_or(0, BTreeSet::len) < all.len() {
                less.insert(*oid);
            }
        }
    }
    less
}

/// A generated column shows what it is computed from, and a row of another table in a column what is in that. What is
/// generated in one table is a plain column in its kin, from which others may be generated. True if it made a difference.
fn spread_over_parts(tags: &mut Tags, made_of: &[(ColumnRow, (u32, i16))]) -> bool {
    let mut changed = false;
    let mut rows: HashMap<u32, Vec<Arc<MaskRule>>> = HashMap::new();
    for ((relation, _), masks) in &*tags {
        let row = rows.entry(*relation).or_default();
        let new = masks.iter().filter(|mask| !row.iter().any(|it| Arc::ptr_eq(it, mask))).cloned();
        let new: Vec<_> = new.collect();
        row.extend(new);
    }
    for (column, part) in made_of {
        let masks = if part.1 == WHOLE_ROW { rows.get(&part.0) } else { tags.get(part) };
        for mask in masks.cloned().unwrap_or_default() {
            changed |= add(tags, (column.relation, column.number), &mask);
        }
    }
    changed
}

/// Relations that show tagged values under names of their own: views, materialized views, tables with rules, tagged
/// relations that are no ordinary table, foreign tables (which may lead back here), sequences that give tagged columns their
/// values, tables into whose rows the database's own code puts what it reads elsewhere, and all that builds on these.
fn derived(
    tags: &Tags,
    tagged: &HashMap<u32, BTreeSet<String>>,
    relations: &HashMap<u32, &RelationRow>,
    sequences: &HashSet<u32>,
    snapshot: &Snapshot,
) -> HashSet<u32> {
    if tags.is_empty() {
        return HashSet::new();
    }
    let mut readers: HashMap<u32, Vec<u32>> = HashMap::new();
    for &(reader, read) in &snapshot.rewrites {
        readers.entry(read).or_default().push(reader);
    }
    // Rows of a partition are its parent's too, and those written through the parent are in a partition.
    let mut kin: HashMap<u32, Vec<u32>> = HashMap::new();
    for &(child, parent) in &snapshot.inherits {
        kin.entry(child).or_default().push(parent);
        kin.entry(parent).or_default().push(child);
    }
    // What a view showed may be kept in a column, as a row of its type; rows of tagged relations are masked as such.
    for (column, (relation, _)) in snapshot.made_of.iter().filter(|(_, part)| part.1 == WHOLE_ROW) {
        if !tagged.contains_key(relation) {
            kin.entry(*relation).or_default().push(column.relation);
        }
    }
    let values = snapshot.relations.iter().filter(|it| is_value_catalog(&it.schema, &it.name)).map(|it| it.oid);
    let foreign = snapshot.relations.iter().filter(|it| it.kind == 'f').map(|it| it.oid);
    let opaque = snapshot.opaque.iter().copied().filter(|it| *it >= FIRST_USER_OID);
    let unordinary = tagged.keys().copied().filter(|it| relations.get(it).is_none_or(|row| !is_ordinary(row.kind)));
    let mut derived: HashSet<u32> = foreign.chain(opaque).chain(unordinary).chain(sequences.iter().copied()).collect();
    if !sequences.is_empty() {
        derived.extend(&snapshot.by_sequences);
    }
    let mut todo: Vec<u32> = derived.iter().copied().chain(tagged.keys().copied()).chain(values).collect();
    loop {
        while let Some(relation) = todo.pop() {
            let kin = kin.get(&relation).filter(|_| derived.contains(&relation));
            for &reader in readers.get(&relation).into_iter().chain(kin).flatten() {
                if derived.insert(reader) {
                    todo.push(reader);
                }
            }
        }
        let written = written_by_code(tagged, &derived, relations, snapshot);
        todo.extend(written.into_iter().filter(|it| derived.insert(*it)));
        if todo.is_empty() {
            return derived;
        }
    }
}

/// Tables into whose rows a default, a generated column or a trigger puts what it reads of tagged or derived relations, or of which a
/// trigger puts that where the session reads it. Whoever tags a table has looked at it: its own triggers, which may well compare the
/// tagged values, change nothing else.
fn written_by_code(
    tagged: &HashMap<u32, BTreeSet<String>>,
    derived: &HashSet<u32>,
    relations: &HashMap<u32, &RelationRow>,
    snapshot: &Snapshot,
) -> Vec<u32> {
    if snapshot.code.is_empty() {
        return Vec::new();
    }
    let readers = readers(tagged, derived, relations, snapshot);
    let keepers = code::keepers(&snapshot.bodies);
    let puts = |it: &&CodeRow| {
        let (reads, own) = (readers.contains(&it.function), tagged.get(&it.relation));
        let reads_own = || {
            let body = snapshot.bodies.get(&it.function);
            own.is_some_and(|columns| body.is_none_or(|it| it.reads_own(columns)))
        };
        match it.runs {
            Runs::Value => reads,
            Runs::TriggerBefore if own.is_none() => reads,
            Runs::TriggerBefore | Runs::TriggerAfter => keepers.contains(&it.function) && (reads || reads_own()),
        }
    };
    snapshot.code.iter().filter(puts).map(|it| it.relation).collect()
}

/// Functions whose texts read tagged or derived relations.
fn readers(
    tagged: &HashMap<u32, BTreeSet<String>>,
    derived: &HashSet<u32>,
    relations: &HashMap<u32, &RelationRow>,
    snapshot: &Snapshot,
) -> HashSet<u32> {
    let name = |oid: &u32| relations.get(oid).map(|it| it.name.as_str());
    let sensitive = Sensitive {
        tagged: tagged.iter().filter_map(|(oid, columns)| Some((name(oid)?, columns))).collect(),
        derived: derived.iter().filter_map(name).collect(),
    };
    code::readers(&snapshot.bodies, &sensitive)
}

/// Relations whose row security policies read tagged values, or whose children have some of which they know nothing, and all
/// that builds on these.
fn guarded(tags: &Tags, derived: &HashSet<u32>, readers: &HashSet<u32>, snapshot: &Snapshot) -> HashSet<u32> {
    let by_code = snapshot.policy_code.iter().filter(|(_, function)| readers.contains(function));
    let mut guarded: HashSet<u32> = by_code.map(|(relation, _)| *relation).collect();
    if guarded.is_empty() && snapshot.policies.is_empty() && snapshot.inherits.is_empty() {
        return guarded;
    }
    let mut users: HashMap<u32, Vec<u32>> = HashMap::new();
    let parents = snapshot.inherits.iter().map(|&(child, parent)| (parent, child));
    for (user, used) in snapshot.policies.iter().chain(&snapshot.rewrites).copied().chain(parents) {
        users.entry(used).or_default().push(user);
    }
    let tagged = tags.keys().map(|(relation, _)| *relation);
    let mut todo: Vec<u32> = tagged.chain(derived.iter().copied()).chain(guarded.iter().copied()).collect();
    while let Some(relation) = todo.pop() {
        for &user in users.get(&relation).into_iter().flatten() {
            if guarded.insert(user) {
                todo.push(user);
            }
        }
    }
    guarded
}
