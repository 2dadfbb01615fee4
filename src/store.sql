-- Stores

CREATE FUNCTION es_event_guard() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'es_event_guard';
COMMENT ON FUNCTION es_event_guard() IS 'trigger: keeps the event log append-only';

CREATE FUNCTION es_definition_changed() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'es_definition_changed';
COMMENT ON FUNCTION es_definition_changed() IS 'trigger: tells every session that definitions changed';

CREATE FUNCTION es_owner_guard() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'es_owner_guard';
COMMENT ON FUNCTION es_owner_guard() IS 'trigger: a definition can be changed by its owner and the store''s alone';

CREATE FUNCTION es_create_store(store name DEFAULT 'es') RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_store';
COMMENT ON FUNCTION es_create_store(name) IS 'create an event store in a schema of this name';

CREATE FUNCTION es_upgrade_store(store name DEFAULT NULL) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_upgrade_store';
COMMENT ON FUNCTION es_upgrade_store(name) IS 'bring an event store up to date; default: the one that event_sourcing.store names';

REVOKE ALL ON FUNCTION es_create_store(name), es_upgrade_store(name) FROM PUBLIC;

CREATE FUNCTION es_current_store() RETURNS name
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_current_store';
COMMENT ON FUNCTION es_current_store() IS 'the schema of the event store that event_sourcing.store names; an error when there is none';

CREATE FUNCTION es_inspected_store() RETURNS name
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_inspected_store';
COMMENT ON FUNCTION es_inspected_store() IS 'the current store, when it has nothing but tables of PostgreSQL''s own types, so that looking at it runs nobody''s code; for es_lint(), es_diagram() and the views';
