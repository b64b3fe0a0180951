//! What a statement would do and show: from its text alone, or with what its target makes of it. Nothing of it runs.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::timeout;

use super::lineage::{self, Flow, Form, Lineage, Shows};
use super::operation::{self, Analyser, Class, Parsed};
use super::relay::Encoding;
use super::reply::Checked;
use super::shared::{LOAD_TIMEOUT, OwnClient, Wanted, Way, load};
use super::statement::{ONLY_READS, must_be_plain};
use super::wire::Column;
use super::{State, catalog, traced};
use crate::engine::Engine;
use crate::policy::{Operation, ResultColumn};
use crate::target::{Host, Target, Upstream, full_length};

/// Trees that are kept of what the target prints: the first is the statement's, and a library's own questions may follow.
const MAX_TREES: usize = 1;
const PRINT: &str = "BEGIN READ ONLY; SET LOCAL client_min_messages = log; SET LOCAL debug_pretty_print = off; \
                     SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = '5s'; SET LOCAL debug_print_rewritten = on";

/// What a text would do, without the target's catalog. Blocks.
pub fn explain(database: Option<String>, text: &str) -> Operation {
    let parsed = operation::analyse_blocking(text, &catalog::TaggedSet::empty(std::time::SystemTime::now()));
    facts(&parsed, database)
}

fn facts(parsed: &Parsed, database: Option<String>) -> Operation {
    Operation {
        text: parsed.redacted(),
        database,
        actions: parsed.actions().into(),
        statements: parsed.count(),
        refusal: parsed.refusal().map(str::to_owned),
    }
}

/// The same by the target's catalog, and where the columns of its result come from; a refusal says what is wrong with it, as a session
/// would that is only to read (`reads_only`) or not. The error is for people.
pub async fn explain_at_target(
    engine: &Engine,
    target: &Target,
    database: &str,
    text: &str,
    reads_only: bool,
) -> Result<(Operation, Vec<ResultColumn>), String> {
    let state = &engine.protocols().postgres;
    // Each takes connections of the target's.
    let _turn = state.explaining.lock().await;
    let way = way(engine, state, target, database).await?;
    let in_force = engine.in_force();
    let masks = Engine::masker(&in_force.config, target).rules().to_vec();
    let counts = in_force.config.policy.asks_of_catalog(&target.name);
    let wanted = Wanted { masks: &masks, target: &target.name, counts };
    let catalog = load(&way, wanted, in_force.masks_version).await?;
    let parsed = understood(&state.analyser, text, &catalog.set).await;
    let mut operation = facts(&parsed, Some(database.to_owned()));
    if reads_only && parsed.lets_write() {
        operation.refusal.get_or_insert_with(|| ONLY_READS.to_owned());
    }
    let (Parsed::Statements(statements), None) = (&*parsed, &operation.refusal) else {
        return Ok((operation, Vec::new()));
    };
    let [statement] = statements.as_slice() else { return Ok((operation, Vec::new())) };
    let query = if let Class::Traced { query, .. } = &statement.class { Some(query) } else { None };
    let asked = query.and_then(|it| it.text(text)).unwrap_or(text);
    let (columns, tree) = timeout(LOAD_TIMEOUT, described(&way, asked))
        .await
        .map_err(|_elapsed| "the target did not answer in time".to_owned())??;
    let columns = (!columns.is_empty()).then(|| Arc::from(columns));
    let checked = match (query, tree) {
        (Some(query), Some(tree)) => traced::checked(query, &tree, columns, &catalog.set, statement.is_qualified()),
        (Some(_), None) => Err("the target does not show what it makes of the statement".to_owned()),
        (None, _) => {
            let is_plain = matches!(statement.class, Class::Plain { .. });
            let plain = if is_plain { must_be_plain(statements, &catalog.set, columns.as_deref()) } else { Ok(()) };
            plain.map(|()| Checked::described(columns, None))
        }
    };
    Ok(match checked {
        Ok(Checked { columns, lineage, .. }) => {
            (operation, shown(columns.as_deref().unwrap_or_default(), lineage.as_deref(), &catalog.set))
        }
        Err(refusal) => (Operation { refusal: Some(refusal), ..operation }, Vec::new()),
    })
}

async fn understood(analyser: &Analyser, text: &str, set: &Arc<catalog::TaggedSet>) -> Arc<Parsed> {
    match analyser.analyse(&Arc::from(text), set).await {
        Ok(parsed) | Err(parsed) => parsed,
    }
}

/// To where sessions have found the database, or else to an address that the target is given by number.
async fn way(engine: &Engine, state: &State, target: &Target, database: &str) -> Result<Way, String> {
    let by_number = || {
        target.address.iter().find_map(|it| match it.host {
            Host::Network(ip, prefix) if prefix == full_length(ip) => Some((ip, it.port).into()),
            _ => None,
        })
    };
    let address = state.address_of(&target.name, database).or_else(by_number).ok_or_else(|| {
        format!(
            "no session has been at database {database:?} of target {:?} since the gateway began, so that its address is not \
             known; ask again when one has",
            target.name
        )
    })?;
    let upstream = Upstream { address, server_name: None };
    Way::new(engine, target, &upstream, database.to_owned()).await.map_err(|error| error.to_string())
}

/// A query's result as the target describes it, and the tree that it makes of the query.
async fn described(way: &Way, query: &str) -> Result<(Vec<Column>, Option<String>), String> {
    let trees = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&trees);
    let own = OwnClient::connect(way, "weir explain", move |notice| {
        let is_tree = (notice.file(), notice.routine()) == (Some("print.c"), Some("elog_node_display"));
        let mut trees = heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = notice.detail().filter(|it| is_tree && it.len() <= lineage::MAX_BYTES)
            && trees.len() < MAX_TREES
        {
            trees.push(tree.to_owned());
        }
    })
    .await?;
    if Encoding::named(own.encoding.as_deref()) == Encoding::Other {
        return Err("masked columns are traced in databases in UTF-8 and LATIN1 only".to_owned());
    }
    let told = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(error) => format!("the target says: {} ({})", error.message(), error.code().code()),
        None => error.to_string(),
    };
    own.client.batch_execute(PRINT).await.map_err(told)?;
    let statement = own.client.prepare(query).await.map_err(told)?;
    let columns = statement.columns().iter().map(|it| Column {
        name: it.name().as_bytes().to_vec(),
        table: it.table_oid().unwrap_or(0),
        attribute: it.column_id().unwrap_or(0),
        type_oid: it.type_().oid(),
        // No value comes of it.
        modifier: -1,
        format: 0,
    });
    let tree = trees.lock().unwrap_or_else(PoisonError::into_inner).pop();
    Ok((columns.collect(), tree))
}

fn shown(columns: &[Column], lineage: Option<&Lineage>, set: &catalog::TaggedSet) -> Vec<ResultColumn> {
    let mut traced = lineage.map(Lineage::shows);
    let shown = columns.iter().map(|column| {
        let name = String::from_utf8_lossy(&column.name).into_owned();
        match traced.as_mut().and_then(Iterator::next) {
            // Of what was not traced the description alone tells.
            Some(Shows::Clear) | None if set.masks(column.table, column.attribute).is_empty() => {
                result_column(name, Shows::Clear, set)
            }
            Some(Shows::Clear) | None => result_column(name, Shows::Column(column.table, column.attribute), set),
            Some(shows) => result_column(name, shows, set),
        }
    });
    shown.collect()
}

fn result_column(name: String, shows: Shows<'_>, set: &catalog::TaggedSet) -> ResultColumn {
    let (sources, computed): (Vec<(u32, i16)>, bool) = match shows {
        Shows::Clear => (Vec::new(), false),
        Shows::Column(table, number) => (vec![(table, number)], false),
        Shows::Computed(sources) => (sources.iter().copied().collect(), true),
        Shows::Together(_, sources) => (sources.iter().copied().collect(), false),
    };
    let mut masks: Vec<String> = Vec::new();
    for mask in sources.iter().flat_map(|&(table, number)| set.masks(table, number)) {
        if !masks.contains(&mask.name) {
            masks.push(mask.name.clone());
        }
    }
    let part = |(name, flow): (&str, &Flow)| match flow.shows() {
        Shows::Clear => None,
        shows => Some(result_column(name.to_owned(), shows, set)),
    };
    let parts = match shows {
        Shows::Together(parts, _) => match &parts.form {
            Form::Fields(fields) => fields.iter().filter_map(|(name, flow)| part((name, flow))).collect(),
            Form::Items(item) => part(("[]", item)).into_iter().collect(),
        },
        _ => Vec::new(),
    };
    let from = sources.iter().map(|&source| set.column_name(source).to_owned()).collect();
    ResultColumn { name, from, masks, computed, parts }
}
