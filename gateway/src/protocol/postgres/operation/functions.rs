//! Which functions are known to do no more than their name says.
//!
//! A function's body can read any table, so on a target with tagged data only functions of the server's own that are on
//! one of these lists may be called. [`PURE`] ones compute their result from their arguments, from the catalog or from the
//! session; [`EFFECT`] ones also leave or show a trace outside of their result (a notification, a lock, a sequence, the
//! time they take), through which a value could leave, so they may not stand beside tagged data.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::policy::Kind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    Pure,
    Effect,
    /// Anything may happen.
    Unknown,
}

// What counts bytes, pages or what was read is on neither: how far the log has grown behind a change of a row says how long the row
// is, and whether a value outside of its row was fetched, what a condition was. Nor is what shows who holds a lock.

/// What a call by this name, qualified or not, may do.
pub(super) fn nature(parts: &[&str]) -> Nature {
    let name = match parts {
        [name] | ["pg_catalog", name] => *name,
        _ => return Nature::Unknown,
    };
    if PURE.contains(name) {
        Nature::Pure
    } else if EFFECT.contains(name) {
        Nature::Effect
    } else {
        Nature::Unknown
    }
}

/// True for a function of the server's own that gives one value, and no rows.
pub(super) fn gives_one_value(parts: &[&str]) -> bool {
    /// Of those that are known, those that give rows (`proretset` of `pg_proc.dat`).
    const ROWS: &str = "\
        aclexplode generate_series generate_subscripts json_array_elements json_array_elements_text json_each json_each_text \
        json_object_keys json_populate_recordset json_to_recordset jsonb_array_elements jsonb_array_elements_text jsonb_each \
        jsonb_each_text jsonb_object_keys jsonb_path_query jsonb_path_query_tz jsonb_populate_recordset jsonb_to_recordset \
        pg_available_extension_versions pg_available_extensions pg_get_catalog_foreign_keys pg_get_keywords \
        pg_get_publication_tables pg_listening_channels pg_options_to_table pg_partition_ancestors pg_partition_tree \
        pg_show_all_settings pg_snapshot_xip pg_tablespace_databases pg_timezone_abbrevs pg_timezone_names regexp_matches \
        regexp_split_to_table string_to_table ts_debug ts_parse ts_token_type txid_snapshot_xip unnest";
    let is_known = nature(parts) == Nature::Pure || parts.last().is_some_and(|it| *it == "nextval");
    is_known && parts.last().is_some_and(|it| !has(ROWS, it))
}

/// True for a function, by its written name, that gives a value and does nothing else.
pub(in crate::protocol::postgres) fn only_computes(written: &str) -> bool {
    nature(&written.split('.').collect::<Vec<_>>()) == Nature::Pure
}

/// True for a function of the server's own that is known to do no more than its name says.
pub(in crate::protocol::postgres) fn is_harmless(name: &str) -> bool {
    nature(&[name]) != Nature::Unknown
}

/// True for a function that shows what a sequence has given, or takes something of it.
pub(in crate::protocol::postgres) fn is_of_sequences(name: &str) -> bool {
    has(SEQUENCE, name)
}

const SEQUENCE: &str = "\
    currval lastval nextval pg_get_sequence_data pg_sequence_last_value setval";

/// Their names.
pub(in crate::protocol::postgres) fn harmless_functions() -> impl Iterator<Item = &'static str> {
    PURE.iter().chain(EFFECT.iter()).copied()
}

/// Which arguments of a call may hold any value of their types: the call neither fails nor does anything but give a value
/// because of it. What is left are bounds on memory, which take a gigabyte to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::postgres) enum Total {
    Never,
    /// The first one, where all others are plain constants: a strict function is not called for NULL, so that one that another
    /// argument makes fail would tell of it.
    First,
    Always,
}

/// Types whose values compare without failing: plain ones, by `pg_type.dat`.
pub(in crate::protocol::postgres) const SCALARS: &[u32] = &[
    16, 17, 19, 20, 21, 23, 25, 26, 650, 700, 701, 829, 869, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 1266, 1560,
    1562, 1700, 2950, 3802,
];
/// Of these, those that compare under a collation.
pub(in crate::protocol::postgres) const COLLATABLE: &[u32] = &[19, 25, 1042, 1043];
const TEXT: u32 = 25;
/// `"char"`: half a character can be one.
const SINGLE_BYTE: u32 = 18;
const BYTEA: u32 = 17;
const INTEGERS: &[u32] = &[20, 21, 23];
pub(in crate::protocol::postgres) const ANY_NON_ARRAY: u32 = 2776;

/// The same for a function of the server's own, by its name and the types of its arguments. Only what was looked up in the
/// server's source is here: what overflows, refuses characters or compares values of any type is not.
pub(in crate::protocol::postgres) fn total(name: &str, types: &[u32]) -> Total {
    let among = |list: &str| has(list, name);
    let always = among(TOTAL) && types != [SINGLE_BYTE]
        || among(TOTAL_ON_TEXT) && types.iter().all(|it| [TEXT, BYTEA, 23, 1042].contains(it))
        || among("max min") && matches!(types, [one] if SCALARS.contains(one))
        || among("sum avg") && matches!(types, [one] if INTEGERS.contains(one))
        || name == "array_agg" && types == [ANY_NON_ARRAY];
    // Named with an encoding, which the value may not be in.
    if always && !(name == "length" && types.len() != 1) {
        Total::Always
    } else if types.first() == Some(&TEXT)
        // With a text behind the first it is a regular expression.
        && (among(TOTAL_IN_FIRST) || among("substr substring") && types[1..].iter().all(|it| *it == 23))
    {
        Total::First
    } else {
        Total::Never
    }
}

const TOTAL: &str = "\
    any_value bool_and bool_or cardinality concat concat_ws count every first_value json_agg last_value num_nonnulls num_nulls \
    pg_typeof quote_literal quote_nullable row_to_json sha224 sha256 sha384 sha512 text to_json";

const TOTAL_ON_TEXT: &str = "\
    bit_length btrim char_length character_length initcap left length lower ltrim md5 octet_length quote_ident reverse right \
    rtrim starts_with string_agg strpos translate upper";

/// Others say where to begin, or how much.
const TOTAL_IN_FIRST: &str = "\
    lpad replace rpad split_part";

/// True for a function of the server's own that can show a table or a file whatever it is called with.
pub(in crate::protocol::postgres) fn reads_beyond_arguments(name: &str) -> bool {
    matches!(also(name), Some(Kind::Do | Kind::ServerFile))
}

/// The kind of action that a call is besides the one it stands in.
pub(super) fn also(name: &str) -> Option<Kind> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|it| name.starts_with(it));
    if has(SERVER_FILE, name) || starts(&["pg_read_", "pg_ls_", "pg_file_"]) {
        Some(Kind::ServerFile)
    } else if has(HIDDEN_SQL, name) || starts(&["dblink", "query_to_xml", "cursor_to_xml", "crosstab"]) {
        Some(Kind::Do)
    } else if has(ADMIN, name) || starts(ADMIN_BEGIN) {
        Some(Kind::Admin)
    } else if has(LARGE_OBJECTS, name) {
        Some(Kind::Call)
    } else if name == "pg_notify" {
        Some(Kind::Notify)
    } else {
        None
    }
}

/// True for functions whose string arguments are keys or passwords.
pub(super) fn takes_secrets(name: &str) -> bool {
    const SECRET: &str = "\
        armor crypt decrypt decrypt_iv encrypt encrypt_iv hmac pgp_pub_decrypt pgp_pub_decrypt_bytea pgp_sym_decrypt \
        pgp_sym_decrypt_bytea pgp_sym_encrypt pgp_sym_encrypt_bytea";
    has(SECRET, name) || name.starts_with("dblink")
}

/// True for functions of the server's own that take a row and nothing else: `t.f` calls them too.
pub(super) fn takes_row(name: &str) -> bool {
    has(ROW, name)
}

const ROW: &str = "\
    any_out any_value anyelement_out anynonarray_out anycompatible_out anycompatiblenonarray_out array_agg concat \
    hash_record json_agg json_agg_strict json_build_array json_build_object jsonb_agg jsonb_agg_strict \
    jsonb_build_array jsonb_build_object num_nonnulls num_nulls pg_collation_for pg_column_compression pg_column_size \
    pg_typeof quote_literal quote_nullable record_out record_send row_to_json to_json to_jsonb";

/// They read or write files of the target's host.
const SERVER_FILE: &str = "\
    lo_export lo_import pg_current_logfile pg_hba_file_rules pg_ident_file_mappings pg_logdir_ls pg_show_all_file_settings pg_stat_file";

/// They write what is in no table.
const LARGE_OBJECTS: &str = "\
    lo_creat lo_create lo_from_bytea lo_put lo_truncate lo_truncate64 lo_unlink lowrite";

/// They run a statement that their argument holds, some of them (pg_cron's) later.
const HIDDEN_SQL: &str = "\
    alter_job connectby database_to_xml database_to_xml_and_xmlschema database_to_xmlschema schedule \
    schedule_in_database schema_to_xml schema_to_xml_and_xmlschema schema_to_xmlschema table_to_xml table_to_xml_and_xmlschema table_to_xmlschema \
    ts_rewrite ts_stat xpath_table";

/// They administer the server or other people's sessions.
const ADMIN: &str = "\
    pg_backup_start pg_backup_stop pg_cancel_backend pg_logical_emit_message pg_logical_slot_get_binary_changes \
    pg_logical_slot_get_changes pg_logical_slot_peek_binary_changes pg_logical_slot_peek_changes \
    pg_import_system_collations pg_log_backend_memory_contexts pg_promote pg_reload_conf pg_rotate_logfile pg_start_backup \
    pg_stop_backup pg_switch_wal pg_terminate_backend";
/// The same, by how their names begin.
const ADMIN_BEGIN: &[&str] = &[
    "pg_clear_",
    "pg_copy_",
    "pg_create_",
    "pg_drop_replication",
    "pg_replication_",
    "pg_restore_",
    "pg_stat_reset",
    "pg_sync_",
    "pg_wal_replay",
];

static EFFECT: LazyLock<HashSet<&str>> = LazyLock::new(|| words(EFFECT_WORDS));
static PURE: LazyLock<HashSet<&str>> = LazyLock::new(|| words(PURE_WORDS));

fn has(list: &str, name: &str) -> bool {
    list.split_ascii_whitespace().any(|it| it == name)
}

fn words(list: &'static str) -> HashSet<&'static str> {
    list.split_ascii_whitespace().collect()
}

const EFFECT_WORDS: &str = "\
    currval lastval nextval pg_advisory_lock pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all \
    pg_advisory_unlock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_blocking_pids pg_cancel_backend \
    pg_current_xact_id pg_export_snapshot pg_last_xact_replay_timestamp pg_notify \
    pg_safe_snapshot_blocking_pids pg_sequence_last_value pg_sleep pg_sleep_for pg_sleep_until pg_snapshot_xip \
    pg_snapshot_xmax pg_snapshot_xmin pg_stat_clear_snapshot pg_stat_get_dead_tuples pg_stat_get_last_analyze_time pg_stat_get_last_autoanalyze_time \
    pg_stat_get_last_autovacuum_time pg_stat_get_last_vacuum_time pg_stat_get_live_tuples pg_terminate_backend \
    pg_try_advisory_lock pg_try_advisory_lock_shared \
    pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared pg_visible_in_snapshot pg_wal_lsn_diff \
    pg_walfile_name pg_xact_commit_timestamp pg_xact_status setseed setval txid_current txid_current_snapshot \
    txid_snapshot_xip txid_snapshot_xmax txid_snapshot_xmin txid_status txid_visible_in_snapshot";

const PURE_WORDS: &str = "\
    abbrev abs aclcontains acldefault aclexplode acos acosd acosh age any_value area array_agg array_append \
    array_cat array_dims array_fill array_length array_lower array_ndims array_position array_positions \
    array_prepend array_remove array_replace array_reverse array_sample array_shuffle array_sort array_to_json \
    array_to_string array_to_tsvector array_upper ascii asin asind asinh atan atan2 atan2d atand atanh avg bernoulli \
    bit_and bit_count bit_length bit_or bit_xor bool bool_and bool_or bound_box box bpchar broadcast btrim \
    cardinality casefold cbrt ceil ceiling center char char_length character_length chr cidr circle citext \
    clock_timestamp col_description concat concat_ws convert convert_from convert_to corr cos cosd cosh cot cotd \
    count covar_pop covar_samp crc32 crc32c crypt cume_dist current_catalog current_database current_query \
    current_role current_schema current_schemas current_setting current_user date date_add date_bin date_part \
    date_subtract date_trunc datemultirange daterange decode degrees dense_rank diameter digest div encode \
    enum_first enum_last enum_range erf erfc every exp extract factorial family first_value float4 float8 floor \
    format format_type gamma gcd gen_random_uuid gen_salt generate_series generate_subscripts get_bit get_byte \
    get_current_ts_config getdatabaseencoding has_any_column_privilege has_column_privilege has_database_privilege \
    has_foreign_data_wrapper_privilege has_function_privilege has_language_privilege has_parameter_privilege \
    has_schema_privilege has_sequence_privilege has_server_privilege has_table_privilege has_tablespace_privilege \
    has_type_privilege hashtext hashtextextended height hmac host hostmask icu_unicode_version inet inet_client_addr \
    inet_client_port inet_merge inet_same_family inet_server_addr inet_server_port initcap int2 int4 int4multirange \
    int4range int8 int8multirange int8range interval is_normalized isclosed isempty isfinite isopen json_agg \
    json_agg_strict json_array_element json_array_element_text json_array_elements json_array_elements_text \
    json_array_length json_build_array json_build_object json_each json_each_text json_extract_path \
    json_extract_path_text json_object json_object_agg json_object_agg_strict json_object_agg_unique \
    json_object_agg_unique_strict json_object_field json_object_field_text json_object_keys json_populate_record \
    json_populate_recordset json_strip_nulls json_to_record json_to_recordset json_to_tsvector json_typeof jsonb_agg \
    jsonb_agg_strict jsonb_array_element jsonb_array_element_text jsonb_array_elements jsonb_array_elements_text \
    jsonb_array_length jsonb_build_array jsonb_build_object jsonb_concat jsonb_contained jsonb_contains jsonb_delete \
    jsonb_delete_path jsonb_each jsonb_each_text jsonb_exists jsonb_exists_all jsonb_exists_any jsonb_extract_path \
    jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg jsonb_object_agg_strict \
    jsonb_object_agg_unique jsonb_object_agg_unique_strict jsonb_object_field jsonb_object_field_text \
    jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query \
    jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz \
    jsonb_path_query_tz jsonb_populate_record jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax \
    jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof justify_days justify_hours \
    justify_interval lag last_value lcm lead left length lgamma like like_escape ln log log10 lower lower_inc \
    lower_inf lpad lseg ltrim macaddr macaddr8 make_date make_interval make_time make_timestamp make_timestamptz \
    makeaclitem masklen max md5 min min_scale mod mode money multirange name netmask network normalize notlike now \
    npoints nth_value ntile num_nonnulls num_nulls numeric nummultirange numnode numrange obj_description \
    octet_length oid overlaps overlay parse_ident path pclose percent_rank percentile_cont percentile_disc \
    pg_available_extension_versions pg_available_extensions pg_backend_pid pg_basetype pg_char_to_encoding \
    pg_client_encoding pg_collation_actual_version pg_collation_for pg_collation_is_visible pg_column_compression \
    pg_column_is_updatable pg_column_size pg_conf_load_time pg_conversion_is_visible pg_current_snapshot \
    pg_current_xact_id_if_assigned pg_database_collation_actual_version pg_database_size pg_describe_object \
    pg_encoding_max_length pg_encoding_to_char pg_filenode_relation pg_function_is_visible \
    pg_get_catalog_foreign_keys pg_get_constraintdef pg_get_expr pg_get_function_arg_default \
    pg_get_function_arguments pg_get_function_identity_arguments pg_get_function_result pg_get_function_sqlbody \
    pg_get_functiondef pg_get_indexdef pg_get_keywords pg_get_object_address pg_get_partition_constraintdef \
    pg_get_partkeydef pg_get_publication_tables pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef \
    pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid \
    pg_get_viewdef pg_has_role pg_identify_object pg_identify_object_as_address pg_index_column_has_property \
    pg_index_has_property pg_indexam_has_property pg_indexes_size pg_is_in_recovery pg_is_other_temp_schema pg_jit_available pg_listening_channels pg_my_temp_schema \
    pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible pg_options_to_table pg_partition_ancestors \
    pg_partition_root pg_partition_tree pg_postmaster_start_time pg_relation_filenode pg_relation_filepath \
    pg_relation_is_publishable pg_relation_is_updatable pg_relation_size pg_sequence_parameters \
    pg_settings_get_flags pg_show_all_settings pg_size_bytes pg_size_pretty pg_statistics_obj_is_visible \
    pg_table_is_visible pg_table_size pg_tablespace_databases pg_tablespace_location pg_tablespace_size \
    pg_timezone_abbrevs pg_timezone_names pg_total_relation_size pg_trigger_depth pg_ts_config_is_visible \
    pg_ts_dict_is_visible pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible pg_typeof \
    phraseto_tsquery pi plainto_tsquery point polygon popen position pow power querytree quote_ident quote_literal \
    quote_nullable radians radius random random_normal range_agg range_intersect_agg range_merge rank regclass \
    regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array \
    regexp_split_to_table regexp_substr regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx \
    regr_sxy regr_syy repeat replace reverse right round row_number row_security_active row_to_json rpad rtrim scale \
    session_user set_bit set_byte set_masklen setweight sha224 sha256 sha384 sha512 shobj_description sign \
    similar_escape similar_to_escape similarity sin sind sinh slope split_part sqrt starts_with statement_timestamp \
    stddev stddev_pop stddev_samp strict_word_similarity string_agg string_to_array string_to_table strip strpos \
    substr substring sum system tan tand tanh text time timeofday timestamp timestamptz timetz timezone \
    to_ascii to_bin to_char to_date to_hex to_json to_jsonb to_number to_oct to_regclass to_regcollation \
    to_regnamespace to_regoper to_regoperator to_regproc to_regprocedure to_regrole to_regtype to_regtypemod \
    to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim_array trim_scale trunc ts_debug \
    ts_delete ts_filter ts_headline ts_lexize ts_parse ts_rank ts_rank_cd ts_token_type tsmultirange tsquery_phrase \
    tsrange tstzmultirange tstzrange tsvector_to_array txid_current_if_assigned unaccent unicode_assigned \
    unicode_version unistr unnest upper upper_inc upper_inf user uuid uuid_extract_timestamp uuid_extract_version \
    uuid_generate_v1 uuid_generate_v1mc uuid_generate_v3 uuid_generate_v4 uuid_generate_v5 uuid_nil uuid_ns_dns \
    uuid_ns_oid uuid_ns_url uuid_ns_x500 uuidv4 uuidv7 var_pop var_samp varbit varchar variance version \
    websearch_to_tsquery width width_bucket word_similarity xml xml_is_well_formed xml_is_well_formed_content \
    xml_is_well_formed_document xmlagg xmlcomment xmlconcat2 xmlexists xmltext xpath xpath_exists";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_function_is_on_both_lists() {
        assert_eq!(PURE.intersection(&EFFECT).collect::<Vec<_>>(), Vec::<&&str>::new());
    }

    #[test]
    fn functions_that_run_a_text_are_known_by_name() {
        for name in ["dblink_exec", "crosstab4", "connectby", "xpath_table", "ts_stat", "schedule", "alter_job"] {
            assert_eq!(also(name), Some(Kind::Do), "{name}");
        }
        assert_eq!(also("lower"), None);
    }

    #[test]
    fn a_qualified_name_is_the_servers_own_only_in_pg_catalog() {
        assert_eq!(nature(&["lower"]), Nature::Pure);
        assert_eq!(nature(&["pg_catalog", "lower"]), Nature::Pure);
        assert_eq!(nature(&["public", "lower"]), Nature::Unknown);
        assert_eq!(nature(&["pg_notify"]), Nature::Effect);
        assert_eq!(nature(&["query_to_xml"]), Nature::Unknown);
        assert_eq!(nature(&["set_config"]), Nature::Unknown);
    }
}
