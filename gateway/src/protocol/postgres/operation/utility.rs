//! Statements other than queries: what kind of action each is, and what it may do to tagged data.

use pg_query::protobuf::{self, DropBehavior, ObjectType, VariableSetKind, a_const};
use pg_query::{Node, NodeEnum, NodeRef};

use super::Name;
use super::descent::Unknown;
use super::looks_secret;
use super::walk::{name_parts, string};
use crate::policy::{Access, Kind};
use crate::protocol::postgres::wire::OWN_NAME;

/// What is known of a utility statement before its children are walked.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "properties that have nothing to do with each other")]
pub(super) struct Utility<'a> {
    pub(super) kind: Kind,
    /// What people call it.
    pub(super) word: &'static str,
    /// How it uses the relations that it names.
    pub(super) access: Access,
    /// Relations that it names by plain strings.
    pub(super) tables: Vec<Vec<&'a str>>,
    /// Kinds of action that its options add.
    pub(super) also: Vec<Kind>,
    /// Why it is refused on any target with tagged data.
    pub(super) hazard: Option<String>,
    /// Why it is refused on every target.
    pub(super) pinned: Option<String>,
    /// What depends on it goes with it: keys by which columns of other tables are known to be tagged.
    pub(super) cascades: bool,
    /// It would let a session write that is only to read.
    pub(super) lets_write: bool,
    /// A SET of something by which nothing comes to mean something else.
    pub(super) keeps_meanings: bool,
    pub(super) name: Option<Name>,
    /// Its strings are secrets.
    pub(super) secret: bool,
}

/// Settings that decide how the server reads a statement. The gateway pins them at start-up, because it reads the same
/// bytes with its own parser, and refuses statements that change them; a `ParameterStatus` that reports another value ends
/// the session.
pub const PINNED_SETTINGS: &[(&str, &str)] = &[("standard_conforming_strings", "on"), ("client_encoding", "utf8")];

/// Settings, by how their names begin, that make the server print plans and trees as notices.
const REVEALING_SETTINGS: &[&str] = &["auto_explain.", "debug_", "trace_"];

/// Why a setting may not be changed to this value (None: not a literal), if so.
pub(in crate::protocol::postgres) fn pinned(name: &str, value: Option<&str>) -> Option<String> {
    let (name, required) = PINNED_SETTINGS.iter().find(|(pinned, _)| name.eq_ignore_ascii_case(pinned))?;
    let value: String = value.unwrap_or("").chars().filter(char::is_ascii_alphanumeric).collect();
    let value = value.to_ascii_lowercase();
    let same = value == *required || matches!((*name, value.as_str()), ("client_encoding", "unicode") | (_, "true"));
    (!same).then(|| format!("{name} stays \"{required}\": the gateway must read statements as the server does"))
}

/// Settings that clients begin their sessions with, of how values are written and how long things may take.
const SETTINGS_OF_FORM: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronous_commit",
    "timezone",
    "work_mem",
];

/// Settings by which a session is held to reading; the first is that of sessions.
pub const WRITING_SETTINGS: &[&str] = &["default_transaction_read_only", "transaction_read_only"];

/// Whether a setting's value (None: not a literal) lets a session write.
pub(super) fn lets_write(name: &str, value: Option<&str>) -> bool {
    let is_on = value.is_some_and(|it| ["on", "true", "yes", "1"].iter().any(|on| it.eq_ignore_ascii_case(on)));
    WRITING_SETTINGS.iter().any(|it| name.eq_ignore_ascii_case(it)) && !is_on
}

/// Whether transaction modes (`READ WRITE`) do.
fn modes_let_write(modes: &[Node]) -> bool {
    let value = |it: &protobuf::DefElem| match it.arg.as_deref().and_then(|arg| arg.node.as_ref()) {
        Some(NodeEnum::AConst(it)) => match it.val {
            Some(a_const::Val::Ival(protobuf::Integer { ival })) => Some(ival),
            _ => None,
        },
        _ => None,
    };
    modes.iter().any(|it| match &it.node {
        Some(NodeEnum::DefElem(mode)) => mode.defname == "transaction_read_only" && value(mode) != Some(1),
        _ => true,
    })
}

/// SET ROLE is a kind of its own under any spelling.
pub(super) fn setting_kind(name: &str) -> Kind {
    let is = |word: &str| name.eq_ignore_ascii_case(word);
    if is("role") || is("session_authorization") { Kind::SetRole } else { Kind::Set }
}

impl Utility<'_> {
    fn new(kind: Kind, word: &'static str) -> Self {
        Self {
            kind,
            word,
            access: Access::Write,
            tables: Vec::new(),
            also: Vec::new(),
            hazard: None,
            pinned: None,
            cascades: false,
            lets_write: false,
            keeps_meanings: false,
            name: None,
            secret: false,
        }
    }

    fn reading(mut self) -> Self {
        self.access = Access::Read;
        self
    }

    /// It defines, or makes reachable, code or data that the gateway cannot see into.
    fn hazard(mut self) -> Self {
        self.hazard = Some(format!("{} can make masked data readable in ways that the gateway cannot see", self.word));
        self
    }

    fn secret(self) -> Self {
        self.secret_if(true)
    }

    fn secret_if(mut self, secret: bool) -> Self {
        self.secret = secret;
        self
    }

    fn named(mut self, name: Name) -> Self {
        self.name = Some(name);
        self
    }
}

/// The utility statement that a node is; None for a node that is no statement.
pub(super) fn classify(node: NodeRef<'_>) -> Result<Option<Utility<'_>>, Unknown> {
    use Kind as K;
    let new = Utility::new;
    let word = match node {
        NodeRef::PrepareStmt(it) => &it.name,
        NodeRef::ExecuteStmt(it) => &it.name,
        NodeRef::DeclareCursorStmt(it) => &it.portalname,
        NodeRef::FetchStmt(it) => &it.portalname,
        _ => "",
    };
    if !word.is_ascii() {
        // Cut and folded as this server's encoding has it: it may be another name there than here.
        return Err(Unknown("a name of a prepared statement or cursor that is not plain ASCII"));
    }
    Ok(Some(match node {
        NodeRef::ExplainStmt(_) => new(K::Explain, "EXPLAIN").reading(),
        NodeRef::PrepareStmt(it) => new(K::Prepare, "PREPARE").reading().named(Name::Prepares(it.name.clone())),
        NodeRef::ExecuteStmt(it) => new(K::Execute, "EXECUTE").reading().named(Name::Executes(it.name.clone())),
        NodeRef::DeallocateStmt(_) => new(K::Deallocate, "DEALLOCATE"),
        NodeRef::DeclareCursorStmt(it) => {
            new(K::Declare, "DECLARE CURSOR").reading().named(Name::Declares(it.portalname.clone()))
        }
        // MOVE runs what is behind the name as FETCH does.
        NodeRef::FetchStmt(it) => {
            new(K::Fetch, if it.ismove { "MOVE" } else { "FETCH" }).named(Name::Fetches(it.portalname.clone()))
        }
        NodeRef::ClosePortalStmt(_) => new(K::Fetch, "CLOSE"),
        NodeRef::CopyStmt(it) => copy(it),
        NodeRef::TransactionStmt(it) => {
            let mut utility = new(K::Transaction, "a transaction command");
            utility.lets_write = modes_let_write(&it.options);
            // The gateway's own savepoint would be taken for it.
            utility.pinned = (it.savepoint_name.as_bytes() == OWN_NAME).then(super::own_name);
            utility
        }
        NodeRef::ConstraintsSetStmt(_) => new(K::Transaction, "SET CONSTRAINTS"),
        NodeRef::VariableSetStmt(it) => set(it)?,
        NodeRef::VariableShowStmt(_) => new(K::Show, "SHOW"),
        NodeRef::DiscardStmt(_) => new(K::Discard, "DISCARD"),
        NodeRef::ListenStmt(_) => new(K::Listen, "LISTEN"),
        NodeRef::UnlistenStmt(_) => new(K::Listen, "UNLISTEN"),
        NodeRef::NotifyStmt(_) => new(K::Notify, "NOTIFY"),
        NodeRef::LockStmt(_) => new(K::Lock, "LOCK"),
        NodeRef::DoStmt(_) => new(K::Do, "DO").hazard(),
        NodeRef::CallStmt(_) => new(K::Call, "CALL").hazard(),
        NodeRef::TruncateStmt(_) => new(K::Truncate, "TRUNCATE"),
        NodeRef::VacuumStmt(it) => new(K::Vacuum, if it.is_vacuumcmd { "VACUUM" } else { "ANALYZE" }),
        NodeRef::ClusterStmt(_) => new(K::Vacuum, "CLUSTER"),
        NodeRef::ReindexStmt(it) => reindex(it),
        NodeRef::CheckPointStmt(_) => new(K::Admin, "CHECKPOINT"),
        NodeRef::LoadStmt(_) => new(K::Admin, "LOAD").hazard(),
        NodeRef::AlterSystemStmt(_) => new(K::Admin, "ALTER SYSTEM").hazard(),
        NodeRef::DropStmt(it) => drop_objects(it)?,
        NodeRef::RenameStmt(it) => rename(it),
        NodeRef::AlterObjectSchemaStmt(it) => alter_schema(it),
        other => return Ok(definition(other).or_else(|| access_control(other))),
    }))
}

/// CREATE, ALTER and DROP.
fn definition(node: NodeRef<'_>) -> Option<Utility<'_>> {
    let create = |word| Utility::new(Kind::Create, word);
    let alter = |word| Utility::new(Kind::Alter, word);
    let drop = |word| Utility::new(Kind::Drop, word);
    Some(match node {
        // Relations: their own names tell what they touch.
        NodeRef::CreateStmt(_) => create("CREATE TABLE"),
        NodeRef::CreateTableAsStmt(_) => create("CREATE TABLE AS"),
        NodeRef::ViewStmt(_) => create("CREATE VIEW"),
        NodeRef::IndexStmt(_) => create("CREATE INDEX"),
        NodeRef::CreateSeqStmt(_) => create("CREATE SEQUENCE"),
        NodeRef::CreateSchemaStmt(_) => create("CREATE SCHEMA"),
        NodeRef::CreateStatsStmt(_) => create("CREATE STATISTICS"),
        NodeRef::CreateEnumStmt(_) | NodeRef::CompositeTypeStmt(_) => create("CREATE TYPE"),
        NodeRef::CreateDomainStmt(_) => create("CREATE DOMAIN"),
        NodeRef::CreatedbStmt(_) => create("CREATE DATABASE"),
        NodeRef::CreateTableSpaceStmt(_) => create("CREATE TABLESPACE"),
        // A new type for an attribute is computed on the values of every table of that type, as a domain's CHECK is.
        NodeRef::AlterTableStmt(it) if it.objtype() == ObjectType::ObjectType => alter("ALTER TYPE").hazard(),
        NodeRef::AlterTableStmt(_) | NodeRef::ReplicaIdentityStmt(_) => alter("ALTER TABLE"),
        NodeRef::AlterTableMoveAllStmt(_) => alter("ALTER TABLE ALL IN TABLESPACE"),
        NodeRef::AlterSeqStmt(_) => alter("ALTER SEQUENCE"),
        NodeRef::AlterStatsStmt(_) => alter("ALTER STATISTICS"),
        NodeRef::AlterEnumStmt(_) => alter("ALTER TYPE"),
        NodeRef::AlterDatabaseStmt(_) | NodeRef::AlterDatabaseRefreshCollStmt(_) => alter("ALTER DATABASE"),
        NodeRef::AlterDatabaseSetStmt(it) => alter("ALTER DATABASE").secret_if(is_of_a_secret(it.setstmt.as_ref())),
        NodeRef::AlterTableSpaceOptionsStmt(_) => alter("ALTER TABLESPACE"),
        NodeRef::AlterCollationStmt(_) => alter("ALTER COLLATION"),
        NodeRef::AlterOwnerStmt(_) => alter("ALTER ... OWNER"),
        NodeRef::CommentStmt(_) => alter("COMMENT"),
        NodeRef::SecLabelStmt(_) => alter("SECURITY LABEL"),
        NodeRef::RefreshMatViewStmt(_) => alter("REFRESH MATERIALIZED VIEW"),
        NodeRef::DropdbStmt(_) => drop("DROP DATABASE"),
        NodeRef::DropTableSpaceStmt(_) => drop("DROP TABLESPACE"),
        // Code, and ways to other servers.
        NodeRef::CreateFunctionStmt(_) => create("CREATE FUNCTION").hazard(),
        NodeRef::CreateTrigStmt(_) => create("CREATE TRIGGER").hazard(),
        NodeRef::CreateEventTrigStmt(_) => create("CREATE EVENT TRIGGER").hazard(),
        NodeRef::RuleStmt(_) => create("CREATE RULE").hazard(),
        NodeRef::CreatePolicyStmt(_) => create("CREATE POLICY").hazard(),
        NodeRef::DefineStmt(_) => create("CREATE AGGREGATE, OPERATOR or TYPE").hazard(),
        NodeRef::CreateCastStmt(_) => create("CREATE CAST").hazard(),
        NodeRef::CreateTransformStmt(_) => create("CREATE TRANSFORM").hazard(),
        NodeRef::CreateConversionStmt(_) => create("CREATE CONVERSION").hazard(),
        NodeRef::CreateOpClassStmt(_) | NodeRef::CreateOpFamilyStmt(_) => create("CREATE OPERATOR CLASS").hazard(),
        NodeRef::CreateRangeStmt(_) => create("CREATE TYPE").hazard(),
        NodeRef::CreatePlangStmt(_) => create("CREATE LANGUAGE").hazard(),
        NodeRef::CreateAmStmt(_) => create("CREATE ACCESS METHOD").hazard(),
        NodeRef::CreateExtensionStmt(_) => create("CREATE EXTENSION").hazard(),
        NodeRef::CreateFdwStmt(_) => create("CREATE FOREIGN DATA WRAPPER").hazard().secret(),
        NodeRef::CreateForeignServerStmt(_) => create("CREATE SERVER").hazard().secret(),
        NodeRef::CreateForeignTableStmt(_) => create("CREATE FOREIGN TABLE").hazard().secret(),
        NodeRef::ImportForeignSchemaStmt(_) => create("IMPORT FOREIGN SCHEMA").hazard().secret(),
        NodeRef::CreateUserMappingStmt(_) => create("CREATE USER MAPPING").hazard().secret(),
        NodeRef::CreatePublicationStmt(_) => create("CREATE PUBLICATION").hazard(),
        NodeRef::CreateSubscriptionStmt(_) => create("CREATE SUBSCRIPTION").hazard().secret(),
        NodeRef::AlterFunctionStmt(_) => alter("ALTER FUNCTION").hazard(),
        NodeRef::AlterEventTrigStmt(_) => alter("ALTER EVENT TRIGGER").hazard(),
        NodeRef::AlterPolicyStmt(_) => alter("ALTER POLICY").hazard(),
        NodeRef::AlterOperatorStmt(_) => alter("ALTER OPERATOR").hazard(),
        NodeRef::AlterOpFamilyStmt(_) => alter("ALTER OPERATOR FAMILY").hazard(),
        NodeRef::AlterTypeStmt(_) => alter("ALTER TYPE").hazard(),
        // A new CHECK is computed on the values of every column of the domain, and its error tells what it could not take.
        NodeRef::AlterDomainStmt(_) => alter("ALTER DOMAIN").hazard(),
        NodeRef::AlterObjectDependsStmt(_) => alter("ALTER ... DEPENDS ON EXTENSION").hazard(),
        NodeRef::AlterExtensionStmt(_) | NodeRef::AlterExtensionContentsStmt(_) => alter("ALTER EXTENSION").hazard(),
        NodeRef::AlterFdwStmt(_) => alter("ALTER FOREIGN DATA WRAPPER").hazard().secret(),
        NodeRef::AlterForeignServerStmt(_) => alter("ALTER SERVER").hazard().secret(),
        NodeRef::AlterUserMappingStmt(_) => alter("ALTER USER MAPPING").hazard().secret(),
        NodeRef::AlterPublicationStmt(_) => alter("ALTER PUBLICATION").hazard(),
        NodeRef::AlterSubscriptionStmt(_) => alter("ALTER SUBSCRIPTION").hazard().secret(),
        NodeRef::AlterTsdictionaryStmt(_) => alter("ALTER TEXT SEARCH DICTIONARY").hazard(),
        NodeRef::AlterTsconfigurationStmt(_) => alter("ALTER TEXT SEARCH CONFIGURATION").hazard(),
        NodeRef::DropUserMappingStmt(_) => drop("DROP USER MAPPING"),
        NodeRef::DropSubscriptionStmt(_) => drop("DROP SUBSCRIPTION"),
        _ => return None,
    })
}

/// Roles and privileges.
fn access_control(node: NodeRef<'_>) -> Option<Utility<'_>> {
    let grant = |is_grant: bool| {
        if is_grant { Utility::new(Kind::Grant, "GRANT") } else { Utility::new(Kind::Revoke, "REVOKE") }
    };
    Some(match node {
        NodeRef::GrantStmt(it) => grant(it.is_grant),
        NodeRef::GrantRoleStmt(it) => grant(it.is_grant),
        NodeRef::AlterDefaultPrivilegesStmt(it) => grant(it.action.as_ref().is_some_and(|it| it.is_grant)),
        NodeRef::CreateRoleStmt(_) => Utility::new(Kind::Create, "CREATE ROLE").secret(),
        NodeRef::AlterRoleStmt(_) => Utility::new(Kind::Alter, "ALTER ROLE").secret(),
        NodeRef::AlterRoleSetStmt(it) => {
            Utility::new(Kind::Alter, "ALTER ROLE").secret_if(is_of_a_secret(it.setstmt.as_ref()))
        }
        NodeRef::DropRoleStmt(_) => Utility::new(Kind::Drop, "DROP ROLE"),
        NodeRef::DropOwnedStmt(_) => Utility::new(Kind::Drop, "DROP OWNED"),
        NodeRef::ReassignOwnedStmt(_) => Utility::new(Kind::Alter, "REASSIGN OWNED"),
        _ => return None,
    })
}

fn copy(copy: &protobuf::CopyStmt) -> Utility<'_> {
    let kind = match (copy.is_program, copy.is_from) {
        (true, _) => Kind::CopyProgram,
        (false, true) => Kind::CopyIn,
        (false, false) => Kind::CopyOut,
    };
    let mut utility = Utility::new(kind, "COPY").reading();
    if !copy.is_program && !copy.filename.is_empty() {
        utility.also.push(Kind::ServerFile);
    }
    // The server's own files hold every table.
    if copy.filename.is_empty() { utility } else { utility.hazard() }
}

pub(super) fn set(set: &protobuf::VariableSetStmt) -> Result<Utility<'_>, Unknown> {
    let value = set.args.first().and_then(string);
    let (kind, pinned) = match set.kind() {
        VariableSetKind::Undefined => return Err(Unknown("a SET of an unknown kind")),
        VariableSetKind::VarSetMulti if set.name == "SESSION CHARACTERISTICS" => (Kind::Set, None),
        VariableSetKind::VarSetMulti => (Kind::Transaction, None),
        VariableSetKind::VarSetValue => (setting_kind(&set.name), pinned(&set.name, value)),
        // Back to what the gateway set at start-up.
        VariableSetKind::VarSetDefault
        | VariableSetKind::VarSetCurrent
        | VariableSetKind::VarReset
        | VariableSetKind::VarResetAll => (setting_kind(&set.name), None),
    };
    let mut utility = Utility::new(kind, "SET");
    utility.pinned = pinned;
    utility.lets_write = match set.kind() {
        VariableSetKind::VarSetMulti => set.name != "TRANSACTION SNAPSHOT" && modes_let_write(&set.args),
        VariableSetKind::VarSetValue => lets_write(&set.name, value),
        // Of the first of these a reset is not that to the start-up's value.
        _ => set.name.eq_ignore_ascii_case("transaction_read_only"),
    };
    let name = set.name.to_ascii_lowercase();
    utility.keeps_meanings = SETTINGS_OF_FORM.contains(&name.as_str());
    utility.hazard = revealing(&name);
    Ok(utility.secret_if(is_of_a_secret(Some(set))))
}

/// Whether a setting's name says that its value is one.
fn is_of_a_secret(set: Option<&protobuf::VariableSetStmt>) -> bool {
    set.is_some_and(|set| looks_secret(&set.name))
}

/// Why a setting may not be changed where data is tagged, if so.
pub(super) fn revealing(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let reveals = REVEALING_SETTINGS.iter().any(|it| name.starts_with(it));
    reveals.then(|| format!("{name} makes the server show plans, with values of the tables in them"))
}

/// While it holds an index for itself, who waits for that has read by it: a value that lies outside of its row, say, which a masked
/// one decides about.
fn reindex(it: &protobuf::ReindexStmt) -> Utility<'_> {
    let lets_others_read = it
        .params
        .iter()
        .any(|it| matches!(&it.node, Some(NodeEnum::DefElem(it)) if it.defname == "concurrently" && it.arg.is_none()));
    let reindex = Utility::new(Kind::Vacuum, "REINDEX");
    let why = "REINDEX lets nobody else read by the index, and who waits for it may do so by a masked value; write REINDEX ... CONCURRENTLY";
    Utility { hazard: (!lets_others_read).then(|| why.to_owned()), ..reindex }
}

fn drop_objects(drop: &protobuf::DropStmt) -> Result<Utility<'_>, Unknown> {
    let cascades = drop.behavior() == DropBehavior::DropCascade;
    let mut utility = Utility::new(Kind::Drop, if cascades { "DROP ... CASCADE" } else { "DROP" });
    // How many trailing names are not the relation's: `DROP TRIGGER t ON schema.relation`.
    let own = match drop.remove_type() {
        ObjectType::Undefined => return Err(Unknown("a DROP of an unknown kind")),
        ObjectType::ObjectTable
        | ObjectType::ObjectView
        | ObjectType::ObjectMatview
        | ObjectType::ObjectForeignTable
        | ObjectType::ObjectSequence => 0,
        ObjectType::ObjectTrigger | ObjectType::ObjectRule | ObjectType::ObjectPolicy => 1,
        // What is in it is not named.
        ObjectType::ObjectSchema if cascades => return Ok(utility.hazard()),
        _ => return Ok(utility),
    };
    utility.cascades = cascades;
    for object in &drop.objects {
        let mut parts = qualified_name(object)?;
        parts.truncate(parts.len().saturating_sub(own));
        utility.tables.push(parts);
    }
    Ok(utility)
}

fn qualified_name(object: &Node) -> Result<Vec<&str>, Unknown> {
    match &object.node {
        Some(NodeEnum::List(it)) => name_parts(&it.items),
        _ => Err(Unknown("a DROP of something without a name")),
    }
}

/// Renaming a relation or a part of one is seen by its name; renaming a schema moves tagged relations out of sight, and
/// renaming a function gives it a name that may be known to be safe.
fn rename(rename: &protobuf::RenameStmt) -> Utility<'_> {
    let utility = Utility::new(Kind::Alter, "ALTER ... RENAME");
    match rename.rename_type() {
        ObjectType::ObjectTable
        | ObjectType::ObjectColumn
        | ObjectType::ObjectIndex
        | ObjectType::ObjectView
        | ObjectType::ObjectMatview
        | ObjectType::ObjectSequence
        | ObjectType::ObjectTabconstraint
        | ObjectType::ObjectDatabase
        | ObjectType::ObjectTablespace
        | ObjectType::ObjectRole => utility,
        _ => utility.hazard(),
    }
}

fn alter_schema(alter: &protobuf::AlterObjectSchemaStmt) -> Utility<'_> {
    let utility = Utility::new(Kind::Alter, "ALTER ... SET SCHEMA");
    match alter.object_type() {
        ObjectType::ObjectTable | ObjectType::ObjectSequence | ObjectType::ObjectView | ObjectType::ObjectMatview => {
            utility
        }
        _ => utility.hazard(),
    }
}
