-- Projections

CREATE FUNCTION es_project() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'es_project';
COMMENT ON FUNCTION es_project() IS 'trigger: hands new events to the inline projections';

CREATE FUNCTION es_create_projection(name text, handler text DEFAULT NULL, mode text DEFAULT 'inline',
									 targets regclass[] DEFAULT NULL, query text DEFAULT NULL,
									 types text[] DEFAULT NULL, categories text[] DEFAULT NULL)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_projection';
COMMENT ON FUNCTION es_create_projection(text, text, text, regclass[], text, text[], text[]) IS 'define a projection: overloaded handlers, or one statement over es_new_events';

CREATE FUNCTION es_drop_projection(name text) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_projection';
COMMENT ON FUNCTION es_drop_projection(text) IS 'forget the definition of a projection; its tables stay';

CREATE FUNCTION es_alter_projection(name text, mode text) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_alter_projection';
COMMENT ON FUNCTION es_alter_projection(text, text) IS 'let a projection go on inline or async, without missing or repeating an event';

CREATE FUNCTION es_pause(name text) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_pause';
COMMENT ON FUNCTION es_pause(text) IS 'stop a projection or subscription after the last event that it has seen';

CREATE FUNCTION es_resume(name text) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_resume';
COMMENT ON FUNCTION es_resume(text) IS 'let a paused projection or subscription catch up and go on, or one that an error has stopped';

REVOKE ALL ON FUNCTION es_create_projection(text, text, text, regclass[], text, text[], text[]),
	es_drop_projection(text), es_alter_projection(text, text), es_pause(text), es_resume(text)
	FROM PUBLIC;
