\echo Use "CREATE EXTENSION event_sourcing" to load this file. \quit

-- Types

CREATE TYPE es_event AS (
	position bigint,
	stream text,
	version bigint,
	type text,
	data jsonb,
	metadata jsonb,
	event_id uuid,
	correlation_id uuid,
	causation_id uuid,
	recorded_at timestamptz
);
COMMENT ON TYPE es_event IS 'a recorded event: the envelope that readers return and handlers get';

CREATE TYPE es_new_event AS (
	type text,
	data jsonb,
	metadata jsonb,
	event_id uuid,
	recorded_at timestamptz
);
COMMENT ON TYPE es_new_event IS 'an event to be appended';

CREATE TYPE es_command AS (
	type text,
	data jsonb,
	metadata jsonb,
	command_id uuid,
	correlation_id uuid,
	causation_id uuid
);
COMMENT ON TYPE es_command IS 'a command with its metadata: the envelope that command handlers get';

CREATE TYPE es_append_result AS (
	stream text,
	version bigint,
	position bigint
);
COMMENT ON TYPE es_append_result IS 'what an append did: the stream''s version after it and the position of its last event';

CREATE TYPE es_dispatch_result AS (
	stream text,
	version bigint,
	position bigint,
	events es_event[]
);
COMMENT ON TYPE es_dispatch_result IS 'what a command did: the stream''s version after it, the position of its last event, and its events';

-- Events

CREATE FUNCTION es_new_event(type text, data jsonb DEFAULT '{}', metadata jsonb DEFAULT NULL,
							 event_id uuid DEFAULT NULL, recorded_at timestamptz DEFAULT NULL)
	RETURNS es_new_event
	LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_new_event_json';
COMMENT ON FUNCTION es_new_event(text, jsonb, jsonb, uuid, timestamptz) IS 'an event to be appended, from its type and JSON';

CREATE FUNCTION es_new_event(event anyelement, metadata jsonb DEFAULT NULL,
							 event_id uuid DEFAULT NULL, recorded_at timestamptz DEFAULT NULL)
	RETURNS es_new_event
	LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_new_event_record';
COMMENT ON FUNCTION es_new_event(anyelement, jsonb, uuid, timestamptz) IS 'an event to be appended, from a composite value; its type''s name is the event type';

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

-- Streams

CREATE FUNCTION es_stream_version(stream text) RETURNS bigint
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_stream_version';
COMMENT ON FUNCTION es_stream_version(text) IS 'current version of a stream, 0 if there is none';

CREATE FUNCTION es_read_stream(stream text, from_version bigint DEFAULT NULL,
							   max_count bigint DEFAULT NULL, backward boolean DEFAULT false)
	RETURNS SETOF es_event
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_read_stream';
COMMENT ON FUNCTION es_read_stream(text, bigint, bigint, boolean) IS 'events of a stream, in the order of their versions';

-- Appending

CREATE FUNCTION es_append(stream text, events es_new_event[], expected_version bigint DEFAULT NULL,
						  correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS es_append_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append';
COMMENT ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid) IS 'append events to a stream, all or nothing';

CREATE FUNCTION es_append(stream text, type text, data jsonb, metadata jsonb DEFAULT NULL,
						  expected_version bigint DEFAULT NULL)
	RETURNS es_append_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_json';
COMMENT ON FUNCTION es_append(text, text, jsonb, jsonb, bigint) IS 'append one event to a stream, from its type and JSON';

-- Without this one, a call with nothing but literals would be ambiguous.
CREATE FUNCTION es_append(stream text, type text, data text, metadata text DEFAULT NULL,
						  expected_version bigint DEFAULT NULL)
	RETURNS es_append_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_literal';
COMMENT ON FUNCTION es_append(text, text, text, text, bigint) IS 'append one event to a stream, from its type and JSON text';

CREATE FUNCTION es_append(stream text, event anyelement, metadata jsonb DEFAULT NULL,
						  expected_version bigint DEFAULT NULL)
	RETURNS es_append_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_record_value';
COMMENT ON FUNCTION es_append(text, anyelement, jsonb, bigint) IS 'append one event to a stream, from a composite value; its type''s name is the event type';

REVOKE ALL ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid),
	es_append(text, text, jsonb, jsonb, bigint),
	es_append(text, text, text, text, bigint),
	es_append(text, anyelement, jsonb, bigint) FROM PUBLIC;

-- The feed

CREATE FUNCTION es_high_water() RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_high_water';
COMMENT ON FUNCTION es_high_water() IS 'the high-water mark: no event will ever appear at or below this position that is not there now';

CREATE FUNCTION es_read_all(after_position bigint DEFAULT 0, max_count bigint DEFAULT 1000,
							categories text[] DEFAULT NULL, types text[] DEFAULT NULL,
							backward boolean DEFAULT false)
	RETURNS SETOF es_event
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_read_all';
COMMENT ON FUNCTION es_read_all(bigint, bigint, text[], text[], boolean) IS 'events of the whole store in the order of their positions, up to the high-water mark';

CREATE FUNCTION es_category(stream text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	RETURN pg_catalog.split_part(stream, '-', 1);
COMMENT ON FUNCTION es_category(text) IS 'category of a stream: its name up to the first "-"';

CREATE VIEW es_inflight AS
	SELECT l.pid, p.gid AS prepared, COALESCE(a.xact_start, p.prepared) AS since,
		   l.objid::bigint | ((l.objsubid::bigint & 65535::bigint) << 32) AS lower_bound
	FROM pg_catalog.pg_locks l
	LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
	LEFT JOIN pg_catalog.pg_locks x
		ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
		AND x.virtualtransaction = l.virtualtransaction
	LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
	WHERE l.locktype = 'userlock'
		AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
						  WHERE d.datname = pg_catalog.current_database())
		AND l.classid = (SELECT c.oid FROM pg_catalog.pg_class c
						 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
						 WHERE c.relname = 'event_position'
							AND n.nspname = @extschema@.es_current_store());
COMMENT ON VIEW es_inflight IS 'transactions that have appended and are not over: each holds the high-water mark at its lower bound';
GRANT SELECT ON es_inflight TO PUBLIC;

-- Aggregates

CREATE FUNCTION es_create_aggregate(state_type regtype, identity text DEFAULT 'id', name text DEFAULT NULL,
									stream_prefix text DEFAULT NULL,
									execute_function text DEFAULT 'execute',
									apply_function text DEFAULT 'apply',
									initial_state text DEFAULT NULL, commands text[] DEFAULT NULL,
									snapshot_every int DEFAULT NULL)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_aggregate';
COMMENT ON FUNCTION es_create_aggregate(regtype, text, text, text, text, text, text, text[], int) IS 'define an aggregate: a state type whose functions decide on commands and apply events';

CREATE FUNCTION es_drop_aggregate(name text) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_aggregate';
COMMENT ON FUNCTION es_drop_aggregate(text) IS 'forget the definition of an aggregate; its events stay';

REVOKE ALL ON FUNCTION es_create_aggregate(regtype, text, text, text, text, text, text, text[], int),
	es_drop_aggregate(text) FROM PUBLIC;

-- Dispatching

CREATE FUNCTION es_dispatch(command anyelement, metadata jsonb DEFAULT NULL,
							expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS es_dispatch_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_dispatch_record';
COMMENT ON FUNCTION es_dispatch(anyelement, jsonb, bigint, uuid, uuid, uuid) IS 'dispatch a command, given as a composite value, to the aggregate that executes it';

CREATE FUNCTION es_dispatch(command_type text, data jsonb, metadata jsonb DEFAULT NULL,
							expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS es_dispatch_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_dispatch_json';
COMMENT ON FUNCTION es_dispatch(text, jsonb, jsonb, bigint, uuid, uuid, uuid) IS 'dispatch a command, given as its type and JSON, to the aggregate that executes it';

-- Without this one, a call with nothing but literals would be ambiguous.
CREATE FUNCTION es_dispatch(command_type text, data text, metadata text DEFAULT NULL,
							expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS es_dispatch_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_dispatch_literal';
COMMENT ON FUNCTION es_dispatch(text, text, text, bigint, uuid, uuid, uuid) IS 'dispatch a command, given as its type and JSON text, to the aggregate that executes it';

REVOKE ALL ON FUNCTION es_dispatch(anyelement, jsonb, bigint, uuid, uuid, uuid),
	es_dispatch(text, jsonb, jsonb, bigint, uuid, uuid, uuid),
	es_dispatch(text, text, text, bigint, uuid, uuid, uuid) FROM PUBLIC;

-- Receipts

CREATE FUNCTION es_prune_receipts(older_than interval) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_prune_receipts';
COMMENT ON FUNCTION es_prune_receipts(interval) IS 'forget receipts that are older; returns how many';

REVOKE ALL ON FUNCTION es_prune_receipts(interval) FROM PUBLIC;

-- State

CREATE FUNCTION es_state(aggregate anyelement, id text, at_version bigint DEFAULT NULL,
						 at_time timestamptz DEFAULT NULL)
	RETURNS anyelement
	LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_state_typed';
COMMENT ON FUNCTION es_state(anyelement, text, bigint, timestamptz) IS 'state of an aggregate''s instance, now, at a version or at a time; NULL when there is none';

CREATE FUNCTION es_state(aggregate text, id text, at_version bigint DEFAULT NULL,
						 at_time timestamptz DEFAULT NULL)
	RETURNS jsonb
	LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_state_json';
COMMENT ON FUNCTION es_state(text, text, bigint, timestamptz) IS 'state of an aggregate''s instance as JSON, now, at a version or at a time; NULL when there is none';

CREATE FUNCTION es_history(aggregate text, id text)
	RETURNS TABLE (version bigint, type text, recorded_at timestamptz, data jsonb, state jsonb)
	LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_history';
COMMENT ON FUNCTION es_history(text, text) IS 'events of an aggregate''s instance, each with the state after it';

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

-- Rebuilding

CREATE FUNCTION es_rebuild_projection(name text) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_projection';
COMMENT ON FUNCTION es_rebuild_projection(text) IS 'fill the targets of a projection anew from history; returns the number of events';

CREATE FUNCTION es_verify_projection(name text) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_verify_projection';
COMMENT ON FUNCTION es_verify_projection(text) IS 'rebuild a projection aside and compare; returns the number of differing rows';

REVOKE ALL ON FUNCTION es_rebuild_projection(text), es_verify_projection(text) FROM PUBLIC;

CREATE FUNCTION es_rebuilds() RETURNS TABLE (pid int, projection text, "position" bigint)
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'es_rebuilds';
COMMENT ON FUNCTION es_rebuilds() IS 'sessions that replay history into a projection, and how far they are';

CREATE VIEW es_rebuild_progress AS
	SELECT r.pid, r.projection, r."position", m.last_position,
		   CASE WHEN m.last_position > 0
				THEN LEAST(r."position"::double precision / m.last_position, 1) END AS fraction,
		   a.query_start AS since
	FROM @extschema@.es_rebuilds() r
	CROSS JOIN (SELECT @extschema@.es_high_water() AS last_position) m
	LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = r.pid;
COMMENT ON VIEW es_rebuild_progress IS 'projections that are being rebuilt, compared or resumed, and how far that is';
GRANT SELECT ON es_rebuild_progress TO PUBLIC;

-- Subscriptions

CREATE FUNCTION es_create_subscription(name text, categories text[] DEFAULT NULL,
									   types text[] DEFAULT NULL, stream text DEFAULT NULL,
									   from_position bigint DEFAULT 0, partitions int DEFAULT 1,
									   max_retries int DEFAULT 5, lease interval DEFAULT '30 seconds')
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_subscription';
COMMENT ON FUNCTION es_create_subscription(text, text[], text[], text, bigint, int, int, interval) IS 'define a subscription that consumers pull with es_fetch()';

CREATE FUNCTION es_create_handler(name text, handler text, categories text[] DEFAULT NULL,
								  types text[] DEFAULT NULL, stream text DEFAULT NULL,
								  from_position bigint DEFAULT 0, partitions int DEFAULT 1,
								  max_retries int DEFAULT 5, on_error text DEFAULT 'park')
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_handler';
COMMENT ON FUNCTION es_create_handler(text, text, text[], text[], text, bigint, int, int, text) IS 'define an event handler: overloaded functions that a worker calls for each event';

CREATE FUNCTION es_drop_subscription(name text) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_subscription';
COMMENT ON FUNCTION es_drop_subscription(text) IS 'forget a subscription, an event handler or a process manager, with its checkpoints';

CREATE FUNCTION es_reset_subscription(name text, "position" bigint) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_reset_subscription';
COMMENT ON FUNCTION es_reset_subscription(text, bigint) IS 'let a subscription go on after another position (0: from the start, NULL: from now); its parked events are forgotten';

CREATE FUNCTION es_replay_parked(name text) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_replay_parked';
COMMENT ON FUNCTION es_replay_parked(text) IS 'try all parked events of a subscription again; returns how many there were';

CREATE FUNCTION es_skip_parked(name text, "position" bigint) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_skip_parked';
COMMENT ON FUNCTION es_skip_parked(text, bigint) IS 'give a parked event up; those of its stream that wait behind it go on';

REVOKE ALL ON FUNCTION
	es_create_subscription(text, text[], text[], text, bigint, int, int, interval),
	es_create_handler(text, text, text[], text[], text, bigint, int, int, text),
	es_drop_subscription(text), es_reset_subscription(text, bigint), es_replay_parked(text),
	es_skip_parked(text, bigint) FROM PUBLIC;

-- Consumers

CREATE FUNCTION es_fetch(name text, consumer text, max_count int DEFAULT 100,
						 wait interval DEFAULT NULL, ack bigint DEFAULT NULL)
	RETURNS SETOF es_event
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'es_fetch';
COMMENT ON FUNCTION es_fetch(text, text, int, interval, bigint) IS 'lease the next events of a subscription to a consumer, who may say at once that those before are done; what is not acknowledged comes again';

CREATE FUNCTION es_ack(name text, consumer text, "position" bigint) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_ack';
COMMENT ON FUNCTION es_ack(text, text, bigint) IS 'a consumer is done with everything that it was handed up to and with a position';

CREATE FUNCTION es_nack(name text, consumer text, "position" bigint, action text DEFAULT 'retry',
						reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_nack';
COMMENT ON FUNCTION es_nack(text, text, bigint, text, text) IS 'a consumer could not handle an event: retry it, skip it, or park it and hold its stream';

REVOKE ALL ON FUNCTION es_fetch(text, text, int, interval, bigint), es_ack(text, text, bigint),
	es_nack(text, text, bigint, text, text) FROM PUBLIC;

-- Process managers

CREATE TYPE es_route AS (
	action text,
	id text
);
COMMENT ON TYPE es_route IS 'what a process manager does with an event: start, start!, continue, continue! or stop the instance id';

CREATE TYPE es_failure AS (
	sqlstate text,
	message text,
	detail text,
	hint text
);
COMMENT ON TYPE es_failure IS 'why a command of a process manager was refused';

CREATE FUNCTION es_create_process_manager(state_type regtype, name text DEFAULT NULL,
										  route_function text DEFAULT 'route',
										  handle_function text DEFAULT 'handle',
										  apply_function text DEFAULT 'apply',
										  refused_function text DEFAULT 'refused',
										  initial_state text DEFAULT NULL,
										  categories text[] DEFAULT NULL, types text[] DEFAULT NULL,
										  from_position bigint DEFAULT 0, max_retries int DEFAULT 5,
										  on_error text DEFAULT 'park')
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_process_manager';
COMMENT ON FUNCTION es_create_process_manager(regtype, text, text, text, text, text, text, text[], text[], bigint, int, text) IS 'define a process manager: a state type whose functions route events, turn them into commands and apply them';

REVOKE ALL ON FUNCTION es_create_process_manager(regtype, text, text, text, text, text, text, text[], text[], bigint, int, text) FROM PUBLIC;

-- Scheduled commands

CREATE FUNCTION es_schedule(command anyelement, at timestamptz, every interval DEFAULT NULL,
							metadata jsonb DEFAULT NULL, schedule_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS uuid
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_schedule_record';
COMMENT ON FUNCTION es_schedule(anyelement, timestamptz, interval, jsonb, uuid, uuid, uuid) IS 'have a command, given as a composite value, dispatched at a time, and perhaps again and again; a schedule with the same id is replaced';

CREATE FUNCTION es_schedule(command_type text, data jsonb, at timestamptz, every interval DEFAULT NULL,
							metadata jsonb DEFAULT NULL, schedule_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS uuid
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_schedule_json';
COMMENT ON FUNCTION es_schedule(text, jsonb, timestamptz, interval, jsonb, uuid, uuid, uuid) IS 'have a command, given as its type and JSON, dispatched at a time, and perhaps again and again';

-- Without this one, a call with nothing but literals would be ambiguous.
CREATE FUNCTION es_schedule(command_type text, data text, at text, every text DEFAULT NULL,
							metadata text DEFAULT NULL, schedule_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS uuid
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_schedule_literal';
COMMENT ON FUNCTION es_schedule(text, text, text, text, text, uuid, uuid, uuid) IS 'have a command, given as its type and JSON text, dispatched at a time, and perhaps again and again';

CREATE FUNCTION es_unschedule(schedule_id uuid) RETURNS boolean
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_unschedule';
COMMENT ON FUNCTION es_unschedule(uuid) IS 'take a scheduled command back; false when there is none, or none any more';

REVOKE ALL ON FUNCTION es_schedule(anyelement, timestamptz, interval, jsonb, uuid, uuid, uuid),
	es_schedule(text, jsonb, timestamptz, interval, jsonb, uuid, uuid, uuid),
	es_schedule(text, text, text, text, text, uuid, uuid, uuid), es_unschedule(uuid)
	FROM PUBLIC;

-- Running

CREATE FUNCTION es_run(max_events bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_run';
COMMENT ON FUNCTION es_run(bigint) IS 'do what a worker would do in the current store, in this transaction; returns how many events were handled and commands dispatched';

REVOKE ALL ON FUNCTION es_run(bigint) FROM PUBLIC;

-- Workers

CREATE FUNCTION es_start_worker() RETURNS int
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_start_worker';
COMMENT ON FUNCTION es_start_worker() IS 'start the workers of this database that are missing of event_sourcing.workers; returns the process id of the first';

CREATE FUNCTION es_stop_worker() RETURNS int
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_stop_worker';
COMMENT ON FUNCTION es_stop_worker() IS 'stop the workers of this database until es_start_worker(), and wait until they are gone; returns how many';

REVOKE ALL ON FUNCTION es_start_worker(), es_stop_worker() FROM PUBLIC;

-- Waiting

CREATE FUNCTION es_wait(name text, "position" bigint, timeout interval DEFAULT '5s') RETURNS boolean
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_wait';
COMMENT ON FUNCTION es_wait(text, bigint, interval) IS 'wait until a subscription has passed a position; false when it has not in this time';

CREATE FUNCTION es_wait_check(subscriptions text[], timeout interval) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_wait_check';
COMMENT ON FUNCTION es_wait_check(text[], interval) IS 'an error when es_wait() has one for one of these subscriptions; for es_dispatch_and_wait()';

CREATE FUNCTION es_async_projections(stream text, types text[]) RETURNS text[]
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_async_projections';
COMMENT ON FUNCTION es_async_projections(text, text[]) IS 'the async projections that get events of a stream of one of these types';

CREATE PROCEDURE es_wait_for_result(result es_dispatch_result, subscriptions text[], timeout interval,
									INOUT passed boolean)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + timeout;
	awaited text;
BEGIN
	passed := true;
	IF result.position IS NULL THEN
		RETURN;
	END IF;
	FOREACH awaited IN ARRAY COALESCE(subscriptions,
		@extschema@.es_async_projections(result.stream, ARRAY(SELECT e.type FROM unnest(result.events) e)))
	LOOP
		passed := @extschema@.es_wait(awaited, result.position,
									  GREATEST(deadline - clock_timestamp(), interval '0')) AND passed;
	END LOOP;
END $$;
COMMENT ON PROCEDURE es_wait_for_result(es_dispatch_result, text[], interval, boolean) IS 'wait for what a command has recorded; for es_dispatch_and_wait()';

-- These COMMIT, and therefore cannot have a search_path of their own:
-- everything in them is qualified.

CREATE PROCEDURE es_dispatch_and_wait(command anyelement, subscriptions text[] DEFAULT NULL,
									  timeout interval DEFAULT '5s', metadata jsonb DEFAULT NULL,
									  expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
									  correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL,
									  INOUT result es_dispatch_result DEFAULT NULL,
									  INOUT passed boolean DEFAULT NULL)
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM @extschema@.es_wait_check(subscriptions, timeout);
	result := @extschema@.es_dispatch(command, metadata, expected_version, command_id, correlation_id, causation_id);
	COMMIT;
	CALL @extschema@.es_wait_for_result(result, subscriptions, timeout, passed);
END $$;
COMMENT ON PROCEDURE es_dispatch_and_wait(anyelement, text[], interval, jsonb, bigint, uuid, uuid, uuid, es_dispatch_result, boolean) IS 'dispatch a command, commit, and wait until subscriptions (default: the async projections of its events) have passed it';

CREATE PROCEDURE es_dispatch_and_wait(command_type text, data jsonb, subscriptions text[] DEFAULT NULL,
									  timeout interval DEFAULT '5s', metadata jsonb DEFAULT NULL,
									  expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
									  correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL,
									  INOUT result es_dispatch_result DEFAULT NULL,
									  INOUT passed boolean DEFAULT NULL)
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM @extschema@.es_wait_check(subscriptions, timeout);
	result := @extschema@.es_dispatch(command_type, data, metadata, expected_version, command_id, correlation_id, causation_id);
	COMMIT;
	CALL @extschema@.es_wait_for_result(result, subscriptions, timeout, passed);
END $$;
COMMENT ON PROCEDURE es_dispatch_and_wait(text, jsonb, text[], interval, jsonb, bigint, uuid, uuid, uuid, es_dispatch_result, boolean) IS 'dispatch a command, given as its type and JSON, commit, and wait until subscriptions (default: the async projections of its events) have passed it';

-- Without this one, a call with nothing but literals would be ambiguous.
CREATE PROCEDURE es_dispatch_and_wait(command_type text, data text, subscriptions text[] DEFAULT NULL,
									  timeout interval DEFAULT '5s', metadata text DEFAULT NULL,
									  expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
									  correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL,
									  INOUT result es_dispatch_result DEFAULT NULL,
									  INOUT passed boolean DEFAULT NULL)
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM @extschema@.es_wait_check(subscriptions, timeout);
	result := @extschema@.es_dispatch(command_type, data, metadata, expected_version, command_id, correlation_id, causation_id);
	COMMIT;
	CALL @extschema@.es_wait_for_result(result, subscriptions, timeout, passed);
END $$;
COMMENT ON PROCEDURE es_dispatch_and_wait(text, text, text[], interval, text, bigint, uuid, uuid, uuid, es_dispatch_result, boolean) IS 'dispatch a command, given as its type and JSON text, commit, and wait until subscriptions (default: the async projections of its events) have passed it';

REVOKE ALL ON PROCEDURE es_wait_for_result(es_dispatch_result, text[], interval, boolean),
	es_dispatch_and_wait(anyelement, text[], interval, jsonb, bigint, uuid, uuid, uuid, es_dispatch_result, boolean),
	es_dispatch_and_wait(text, jsonb, text[], interval, jsonb, bigint, uuid, uuid, uuid, es_dispatch_result, boolean),
	es_dispatch_and_wait(text, text, text[], interval, text, bigint, uuid, uuid, uuid, es_dispatch_result, boolean)
	FROM PUBLIC;

-- Status

-- Each view shows the current store, whose schema only a function can find.
CREATE FUNCTION es_subscription_states()
	RETURNS TABLE (name text, kind text, state text, "position" bigint, lag_events bigint,
				   lag_seconds double precision, attempts int, retry_at timestamptz,
				   last_error text, last_error_at timestamptz, parked_events bigint,
				   partitions int, pids int[], owner text)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	store CONSTANT name := @extschema@.es_inspected_store();
BEGIN
	-- the locks of partitions: class 58628, the log's OID, id and partition (lock_tag.h)
	RETURN QUERY EXECUTE format(
		'SELECT s.name::text, s.kind,
				CASE WHEN s.paused THEN ''paused'' WHEN c.stopped THEN ''stopped''
					 WHEN c.attempts > 0 THEN ''retrying'' ELSE ''running'' END,
				c.position, l.events, l.seconds, c.attempts, c.retry_at, c.last_error, c.last_error_at,
				(SELECT count(*) FROM %1$I.parked_event p
				 WHERE p.subscription = s.name AND p.state <> ''skipped''),
				s.partitions,
				(SELECT array_agg(DISTINCT k.pid) FROM pg_locks k
				 WHERE k.locktype = ''advisory'' AND k.granted AND k.objsubid = 58628
					AND k.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
					AND k.classid = %2$L::regclass
					AND k.objid::bigint / 1024 = s.id %% 4194304),
				s.owner
		 FROM %1$I.subscription s
		 CROSS JOIN LATERAL (
			SELECT min(COALESCE(k.position, s.from_position)) AS position,
				   COALESCE(bool_or(k.stopped), false) AS stopped,
				   COALESCE(max(k.attempts), 0) AS attempts, min(k.retry_at) AS retry_at,
				   (array_agg(k.last_error ORDER BY k.last_error_at DESC NULLS LAST))[1] AS last_error,
				   max(k.last_error_at) AS last_error_at
			FROM generate_series(0, s.partitions - 1) AS n(partition)
			LEFT JOIN %1$I.checkpoint k ON k.subscription = s.name AND k.partition = n.partition) c
		 CROSS JOIN LATERAL (
			SELECT count(*) AS events,
				   COALESCE(extract(epoch FROM clock_timestamp() -
									(SELECT e.recorded_at FROM %1$I.event e WHERE e.position > c.position
									 ORDER BY e.position LIMIT 1)), 0)::double precision AS seconds
			FROM %1$I.event e WHERE e.position > c.position) l
		 ORDER BY s.id',
		store, format('%I.event', store));
END $$;
COMMENT ON FUNCTION es_subscription_states() IS 'subscriptions of the current store with their progress; for the view es_subscription_status';

CREATE VIEW es_subscription_status AS SELECT * FROM @extschema@.es_subscription_states();
COMMENT ON VIEW es_subscription_status IS 'subscriptions, async projections, event handlers and process managers: how far they are, and what is wrong with them';

CREATE FUNCTION es_parked_events()
	RETURNS TABLE (subscription text, "position" bigint, stream text, version bigint, type text,
				   state text, reason text, attempts int, parked_at timestamptz)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT p.subscription::text, p.position, p.stream::text, p.version, p.type::text, p.state,
				p.reason, p.attempts, p.parked_at
		 FROM %I.parked_event p WHERE p.state <> ''skipped'' ORDER BY p.subscription, p.position',
		@extschema@.es_inspected_store());
END $$;
COMMENT ON FUNCTION es_parked_events() IS 'parked events of the current store; for the view es_parked_event';

CREATE VIEW es_parked_event AS SELECT * FROM @extschema@.es_parked_events();
COMMENT ON VIEW es_parked_event IS 'events that a subscription has put aside, with the reason, and those of their streams that wait behind them';

CREATE FUNCTION es_schedules()
	RETURNS TABLE (schedule_id uuid, due_at timestamptz, every interval, command_type text,
				   data jsonb, state text, attempts int, last_error text, owner text)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT s.schedule_id, s.due_at, s.every, s.command_type, s.data,
				CASE WHEN s.failed_at IS NOT NULL THEN ''failed'' WHEN s.retry_at IS NOT NULL THEN ''retrying''
					 WHEN s.due_at <= clock_timestamp() THEN ''due'' ELSE ''waiting'' END,
				s.attempts, s.last_error, s.owner
		 FROM %I.schedule s ORDER BY s.due_at, s.schedule_id',
		@extschema@.es_inspected_store());
END $$;
COMMENT ON FUNCTION es_schedules() IS 'scheduled commands of the current store; for the view es_schedule_status';

CREATE VIEW es_schedule_status AS SELECT * FROM @extschema@.es_schedules();
COMMENT ON VIEW es_schedule_status IS 'scheduled commands: when they are due, and what went wrong';

CREATE FUNCTION es_aggregate_counts()
	RETURNS TABLE (name text, state_type text, streams bigint, events bigint,
				   state_snapshots bigint, last_recorded_at timestamptz)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT a.name::text, a.state_type, e.streams, e.events,
				(SELECT count(*) FROM %1$I.snapshot s WHERE s.aggregate = a.name), e.last_recorded_at
		 FROM %1$I.aggregate a
		 CROSS JOIN LATERAL (
			SELECT count(*) FILTER (WHERE l.version = 1) AS streams, count(*) AS events,
				   max(l.recorded_at) AS last_recorded_at
			FROM %1$I.event l WHERE l.stream ^@ a.stream_prefix) e
		 ORDER BY a.name',
		@extschema@.es_inspected_store());
END $$;
COMMENT ON FUNCTION es_aggregate_counts() IS 'aggregates of the current store with their counts; for the view es_aggregate_status';

CREATE VIEW es_aggregate_status AS SELECT * FROM @extschema@.es_aggregate_counts();
COMMENT ON VIEW es_aggregate_status IS 'aggregates: how many streams, events and state snapshots they have; it counts the log';

GRANT SELECT ON es_subscription_status, es_parked_event, es_schedule_status, es_aggregate_status
	TO PUBLIC;

-- Privileges

-- What each privilege is, in PostgreSQL's own: the one place that says so.  A
-- privilege has the rows of those that it includes, too.  Kinds: schema, table,
-- sequence of the store, and function of the extension, by its name.  An INSERT
-- on all columns instead of the table is what tells who may only dispatch from
-- who may append (append.c).
CREATE FUNCTION es_privilege_part(store name)
	RETURNS TABLE (privilege text, kind text, object name, "right" text, of_columns name[],
				   routine regprocedure, what text)
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH included (privilege, part) AS (
		VALUES ('read', '{read}'::text[]), ('append', '{read,append}'), ('dispatch', '{read,dispatch}'),
			   ('admin', '{read,append,dispatch,admin}')
	), part (privilege, kind, objects, rights, of_columns) AS (
		VALUES
			('read', 'schema', '{.}'::name[], '{USAGE}'::text[], NULL::name[]),
			('read', 'table', '{event,aggregate,projection,subscription,checkpoint,parked_event,schedule}',
			 '{SELECT}', NULL),
			-- as many rows as there are, and not a state: those are the store's own
			('read', 'table', '{snapshot}', '{SELECT}', '{aggregate}'),
			('read', 'sequence', '{event_position}', '{SELECT}', NULL),
			('append', 'table', '{event}', '{INSERT}', NULL),
			('append', 'sequence', '{event_position}', '{USAGE}', NULL),
			('append', 'function', '{es_append}', '{EXECUTE}', NULL),
			('dispatch', 'table', '{event}', '{INSERT}',
			 '{position,stream,version,type,data,metadata,event_id,correlation_id,causation_id,recorded_at}'),
			('dispatch', 'sequence', '{event_position}', '{USAGE}', NULL),
			('dispatch', 'table', '{receipt}', '{SELECT,INSERT}', NULL),
			('dispatch', 'table', '{schedule}', '{INSERT,UPDATE,DELETE}', NULL),
			('dispatch', 'function', '{es_dispatch,es_dispatch_and_wait,es_wait_for_result,es_schedule,es_unschedule}',
			 '{EXECUTE}', NULL),
			('admin', 'table', '{aggregate}', '{INSERT,DELETE}', NULL),
			('admin', 'table', '{projection,subscription}', '{INSERT,UPDATE,DELETE}', NULL),
			('admin', 'table', '{checkpoint,parked_event}', '{INSERT,UPDATE,DELETE}', NULL),
			('admin', 'table', '{consumer}', '{SELECT,INSERT,UPDATE,DELETE}', NULL),
			('admin', 'table', '{receipt}', '{DELETE}', NULL),
			('admin', 'function',
			 '{es_create_aggregate,es_drop_aggregate,es_create_projection,es_drop_projection,es_alter_projection,es_pause,es_resume,es_rebuild_projection,es_verify_projection,es_create_subscription,es_create_handler,es_drop_subscription,es_reset_subscription,es_replay_parked,es_skip_parked,es_create_process_manager,es_fetch,es_ack,es_nack,es_prune_receipts,es_run,es_start_worker,es_stop_worker}',
			 '{EXECUTE}', NULL)
	)
	SELECT i.privilege, p.kind, o.object, r."right", p.of_columns, f.oid::regprocedure,
		   CASE p.kind
		   WHEN 'schema' THEN format('%s ON SCHEMA %I', r."right", $1)
		   WHEN 'function' THEN format('%s ON ROUTINE %s', r."right", f.oid::regprocedure)
		   ELSE format('%s%s ON %s %I.%I', r."right", ' (' || array_to_string(p.of_columns, ', ') || ')',
					   p.kind, $1, o.object)
		   END
	FROM included i
	JOIN part p ON p.privilege = ANY (i.part)
	CROSS JOIN LATERAL unnest(p.objects) AS o(object)
	CROSS JOIN LATERAL unnest(p.rights) AS r("right")
	LEFT JOIN pg_proc f ON p.kind = 'function' AND f.proname = o.object
		AND f.pronamespace = '@extschema@'::regnamespace
		AND EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
					WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e'
						AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'event_sourcing')
$$;
COMMENT ON FUNCTION es_privilege_part(name) IS 'what the privileges of es_grant() are made of: PostgreSQL''s own, on a store''s schema, tables and sequence and on the extension''s functions; for es_grant() and es_revoke()';

CREATE FUNCTION es_privileges(store name, role oid) RETURNS text[]
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH relation AS (
		SELECT c.oid, c.relname, CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind, c.relacl
		FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'S')
	), has (kind, object, "right", of_column) AS (
		-- what its owner has by itself is not granted
		SELECT 'schema', '.'::name, a.privilege_type, NULL::name
		FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
		WHERE n.nspname = $1 AND a.grantee = $2 AND a.grantor <> a.grantee
		UNION ALL
		SELECT r.kind, r.relname, a.privilege_type, NULL
		FROM relation r CROSS JOIN LATERAL aclexplode(r.relacl) a
		WHERE a.grantee = $2 AND a.grantor <> a.grantee
		UNION ALL
		SELECT r.kind, r.relname, a.privilege_type, t.attname
		FROM relation r JOIN pg_attribute t ON t.attrelid = r.oid AND NOT t.attisdropped
		CROSS JOIN LATERAL aclexplode(t.attacl) a
		WHERE a.grantee = $2 AND a.grantor <> a.grantee
	), needs AS (
		SELECT p.privilege, p.kind, p.object, p."right", c.of_column
		FROM @extschema@.es_privilege_part($1) p
		CROSS JOIN LATERAL unnest(COALESCE(p.of_columns, ARRAY[NULL::name])) AS c(of_column)
		WHERE p.kind = 'schema'
			OR EXISTS (SELECT FROM relation r WHERE (r.kind, r.relname) = (p.kind, p.object))
	)
	SELECT array_agg(q.privilege ORDER BY q.privilege)
	FROM (SELECT n.privilege FROM needs n
		  EXCEPT
		  SELECT n.privilege FROM needs n
		  WHERE NOT EXISTS (SELECT FROM has h
							WHERE (h.kind, h.object, h."right") = (n.kind, n.object, n."right")
							  AND (h.of_column IS NULL OR h.of_column = n.of_column))) q
$$;
COMMENT ON FUNCTION es_privileges(name, oid) IS 'the privileges of es_grant() that a role has been granted in a store, as the schema, the tables and the sequence tell; NULL for none';

CREATE FUNCTION es_check_grant(role regrole, privilege text) RETURNS name
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	store CONSTANT name := @extschema@.es_current_store();
	owner CONSTANT oid := (SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
						   WHERE n.nspname = store AND c.relname = 'event');
BEGIN
	IF role IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'the role must not be NULL';
	ELSIF privilege IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'the privilege must not be NULL';
	ELSIF privilege NOT IN ('read', 'append', 'dispatch', 'admin') THEN
		RAISE invalid_parameter_value USING MESSAGE = format('unrecognized privilege "%s"', privilege),
			HINT = 'The privileges are read, append, dispatch and admin.';
	ELSIF role = 0::oid THEN
		-- what PUBLIC has cannot be kept from any role, nor from those still to come
		RAISE invalid_parameter_value USING MESSAGE = 'privileges on an event store cannot be granted to PUBLIC',
			HINT = 'Grant them to a role, and that role to others.';
	ELSIF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = role) THEN
		RAISE undefined_object USING MESSAGE = format('role with OID %s does not exist', role::oid);
	ELSIF NOT pg_has_role(owner, 'USAGE') THEN
		RAISE insufficient_privilege USING MESSAGE = format('must be owner of event store "%s"', store),
			DETAIL = format('Its owner is role "%s".', pg_get_userbyid(owner));
	ELSIF NOT has_schema_privilege(store, 'USAGE WITH GRANT OPTION') THEN
		-- there would be a warning and no grant
		RAISE insufficient_privilege USING MESSAGE = format('permission denied to grant USAGE on schema "%s"', store);
	END IF;
	RETURN store;
END $$;
COMMENT ON FUNCTION es_check_grant(regrole, text) IS 'the current store, or an error when its privileges cannot be granted or revoked like this; for es_grant() and es_revoke()';

CREATE FUNCTION es_grant(role regrole, privilege text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	store CONSTANT name := @extschema@.es_check_grant($1, $2);
	routine regprocedure;
	part text;
BEGIN
	FOR routine IN
		SELECT p.routine FROM @extschema@.es_privilege_part(store) p
		WHERE p.privilege = $2 AND p.kind = 'function' ORDER BY p.routine::text
	LOOP
		-- without the right to grant it there would be a warning and no grant
		IF has_function_privilege(routine, 'EXECUTE WITH GRANT OPTION') THEN
			EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', routine, $1);
		ELSIF NOT has_function_privilege($1, routine, 'EXECUTE') THEN
			RAISE insufficient_privilege USING MESSAGE = format('permission denied to grant EXECUTE on function %s', routine),
				HINT = format('It belongs to the database, not to a store: let the extension''s owner grant it to %1$s, or to %2$s WITH GRANT OPTION.',
							  $1, quote_ident(current_user));
		END IF;
	END LOOP;
	FOR part IN
		SELECT p.what FROM @extschema@.es_privilege_part(store) p
		WHERE p.privilege = $2 AND p.kind <> 'function' ORDER BY p.what
	LOOP
		EXECUTE format('GRANT %s TO %s', part, $1);
	END LOOP;
END $$;
COMMENT ON FUNCTION es_grant(regrole, text) IS 'grant a role what it needs to read the current store, append to it, dispatch commands in it, or administer it';

CREATE FUNCTION es_revoke(role regrole, privilege text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	store CONSTANT name := @extschema@.es_check_grant($1, $2);
	revoked text[];
	kept text[];
	part text;
BEGIN
	IF $1 IN (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = store
			  UNION ALL
			  SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			  WHERE n.nspname = store AND c.relname = 'event') THEN
		RAISE invalid_parameter_value
			USING MESSAGE = format('cannot revoke privileges on event store "%s" from its owner', store);
	END IF;

	-- this one and those that include it
	revoked := CASE $2 WHEN 'read' THEN '{read,append,dispatch,admin}'::text[]
					   WHEN 'admin' THEN '{admin}' ELSE ARRAY[$2, 'admin'] END;
	kept := ARRAY(SELECT h.privilege FROM unnest(@extschema@.es_privileges(store, $1)) AS h(privilege)
				  WHERE h.privilege <> ALL (revoked));
	FOR part IN
		SELECT DISTINCT p.what FROM @extschema@.es_privilege_part(store) p
		WHERE p.privilege = ANY (revoked) AND p.kind <> 'function'
			AND p.what NOT IN (SELECT k.what FROM @extschema@.es_privilege_part(store) k
							   WHERE k.privilege = ANY (kept))
		ORDER BY p.what
	LOOP
		EXECUTE format('REVOKE %s FROM %s', part, $1);
	END LOOP;
	-- INSERT on a table takes INSERT on its columns along
	PERFORM @extschema@.es_grant($1, h.privilege) FROM unnest(kept) AS h(privilege);

	-- Functions are the database's: what any store of it still needs stays.
	FOR part IN
		SELECT DISTINCT p.what
		FROM @extschema@.es_privilege_part(store) p
		WHERE p.privilege = ANY (revoked) AND p.kind = 'function'
			AND p.what NOT IN (
				-- asked once for each store
				WITH holder AS MATERIALIZED (
					SELECT n.nspname AS store, @extschema@.es_privileges(n.nspname, $1) AS privileges
					FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
					WHERE c.relname = 'event_position' AND c.relkind = 'S'
				)
				SELECT k.what
				FROM holder h CROSS JOIN LATERAL @extschema@.es_privilege_part(h.store) k
				WHERE k.kind = 'function' AND k.privilege = ANY (h.privileges))
			AND has_function_privilege(p.routine, 'EXECUTE WITH GRANT OPTION')
		ORDER BY p.what
	LOOP
		EXECUTE format('REVOKE %s FROM %s', part, $1);
	END LOOP;
END $$;
COMMENT ON FUNCTION es_revoke(regrole, text) IS 'take back a privilege of es_grant() on the current store, and those that include it; what others that the role has there need stays';

REVOKE ALL ON FUNCTION es_grant(regrole, text), es_revoke(regrole, text) FROM PUBLIC;

-- Lint

CREATE FUNCTION es_name_parts(name text) RETURNS text[]
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	RETURN CASE WHEN name OPERATOR(pg_catalog.~) '^("(""|[^"])+"|[a-zA-Z_]\w*)([.]("(""|[^"])+"|[a-zA-Z_]\w*))?$'
				THEN pg_catalog.parse_ident(name, false) ELSE ARRAY[name] END;
COMMENT ON FUNCTION es_name_parts(text) IS 'parts of a qualified name, whatever it is; for es_lint() and es_diagram()';

CREATE FUNCTION es_definition()
	RETURNS TABLE (kind text, name text, state_type text, state oid, identity text, stream_prefix text,
				   execute_function text, apply_function text, commands text[], handler text, mode text,
				   targets text[], types text[], categories text[], paused_at bigint, search_path text[])
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- search_path: the order in which functions are looked for
	RETURN QUERY EXECUTE format(
		'SELECT ''aggregate'', a.name::text, a.state_type, t.oid, a.identity, a.stream_prefix,
				a.execute_function, a.apply_function, a.commands, NULL, NULL, NULL::text[], NULL::text[],
				NULL::text[], NULL::bigint,
				CASE WHEN t.typtype = ''c''
					 THEN ARRAY[n.nspname::text] || array_remove(a.search_path, n.nspname::text)
					 ELSE a.search_path END
		 FROM %1$I.aggregate a
		 CROSS JOIN LATERAL @extschema@.es_name_parts(a.state_type) s
		 LEFT JOIN (pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace)
			ON t.typname = s[cardinality(s)]
			AND n.nspname = CASE WHEN cardinality(s) = 2 THEN s[1] ELSE ''pg_catalog'' END
		 UNION ALL
		 SELECT ''projection'', p.name::text, NULL, NULL, NULL, NULL, NULL, NULL, NULL, p.handler, p.mode,
				p.targets, p.types, p.categories, p.paused_at, p.search_path
		 FROM %1$I.projection p',
		@extschema@.es_inspected_store());
END $$;
COMMENT ON FUNCTION es_definition() IS 'definitions of the current store; for es_lint() and es_diagram()';

CREATE FUNCTION es_overload()
	RETURNS TABLE (kind text, name text, role text, function oid, subject oid, subject_name text,
				   place int, winner oid)
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH signature AS (
		SELECT d.kind, d.name, r.role, r.envelope, d.search_path, f.oid AS function,
			   f.pronargs - r.skip AS nargs, f.proargtypes[r.skip] AS first,
			   f.proargtypes[r.skip + 1] AS second,
			   CASE WHEN cardinality(parts) = 1 THEN array_position(d.search_path, n.nspname::text)
					WHEN n.nspname = parts[1] THEN 1 END AS place
		FROM @extschema@.es_definition() d
		CROSS JOIN LATERAL (VALUES
			('execute', d.execute_function, 1, '@extschema@.es_command'::regtype::oid),
			('apply', d.apply_function, 1, '@extschema@.es_event'::regtype::oid),
			('handler', d.handler, 0, '@extschema@.es_event'::regtype::oid))
			AS r(role, function_name, skip, envelope)
		CROSS JOIN LATERAL @extschema@.es_name_parts(r.function_name) parts
		JOIN pg_proc f ON f.proname = parts[cardinality(parts)] AND f.prokind = 'f'
			AND (r.role = 'handler' OR f.proargtypes[0] = d.state)
		JOIN pg_namespace n ON n.oid = f.pronamespace
	), overload AS (
		SELECT s.*, NULLIF(s.first, s.envelope) AS subject,
			   CASE WHEN s.first <> s.envelope THEN t.typname::text END AS subject_name
		FROM signature s
		JOIN pg_type t ON t.oid = s.first AND t.typtype = 'c'
		JOIN pg_namespace n ON n.oid = t.typnamespace
		WHERE (s.nargs = 1 OR s.nargs = 2 AND s.first <> s.envelope AND s.second = s.envelope)
			-- a handler elsewhere is another projection's, unless it takes a type from here
			AND (s.place IS NOT NULL OR s.role <> 'handler'
				 OR s.first <> s.envelope AND n.nspname = ANY (s.search_path))
	)
	SELECT o.kind, o.name, o.role, o.function, o.subject, o.subject_name, o.place,
		   first_value(o.function) OVER (PARTITION BY o.kind, o.name, o.role, o.subject
										 ORDER BY o.place NULLS LAST, o.nargs, o.function)
	FROM overload o
$$;
COMMENT ON FUNCTION es_overload() IS 'overloads of the functions that definitions name, each with the one that is called in its place (subject: type of the command or event, NULL for any; place: of its schema in the search_path, NULL when it is not there); for es_lint() and es_diagram()';

CREATE FUNCTION es_event_type() RETURNS TABLE (aggregate text, type text, category text, recorded boolean)
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	store CONSTANT name := @extschema@.es_inspected_store();
	prefix text;
BEGIN
	-- what execute functions say they return
	RETURN QUERY
	SELECT DISTINCT o.name, t.typname::text,
		   CASE WHEN d.stream_prefix LIKE '%-%' THEN split_part(d.stream_prefix, '-', 1) END, false
	FROM @extschema@.es_overload() o
	JOIN @extschema@.es_definition() d ON (d.kind, d.name) = (o.kind, o.name)
	JOIN pg_proc f ON f.oid = o.function
	JOIN pg_type r ON r.oid = f.prorettype
	JOIN pg_type t ON t.oid = CASE WHEN r.typcategory = 'A' THEN r.typelem ELSE r.oid END
	WHERE o.role = 'execute' AND o.function = o.winner AND o.place IS NOT NULL
		AND t.typtype = 'c' AND t.oid <> '@extschema@.es_new_event'::regtype;

	-- What is recorded.  The log has no index on types, so only its newest
	-- events are read, and those of the first streams of every aggregate.
	RETURN QUERY EXECUTE format(
		'SELECT DISTINCT a.name::text, e.type::text, split_part(e.stream, ''-'', 1), true
		 FROM (SELECT DISTINCT n.stream, n.type
			   FROM (SELECT l.stream, l.type FROM %1$I.event l ORDER BY l.position DESC LIMIT 100000) n) e
		 LEFT JOIN LATERAL (SELECT g.name FROM %1$I.aggregate g WHERE e.stream ^@ g.stream_prefix
							ORDER BY length(g.stream_prefix) DESC
							FETCH FIRST 1 ROW WITH TIES) a ON true',
		store);
	FOR prefix IN EXECUTE format('SELECT DISTINCT a.stream_prefix FROM %I.aggregate a', store) LOOP
		RETURN QUERY EXECUTE format(
			'SELECT DISTINCT a.name::text, e.type::text, split_part(e.stream, ''-'', 1), true
			 FROM (SELECT l.stream, l.type FROM %1$I.event l WHERE l.stream ^@ %2$L
				   ORDER BY l.stream, l.version LIMIT 20000) e
			 JOIN %1$I.aggregate a ON a.stream_prefix = %2$L
			 WHERE NOT EXISTS (SELECT FROM %1$I.aggregate g WHERE e.stream ^@ g.stream_prefix
								AND length(g.stream_prefix) > length(a.stream_prefix))',
			store, prefix);
	END LOOP;
END $$;
COMMENT ON FUNCTION es_event_type() IS 'event types of aggregates, declared and recorded, with repetitions (aggregate NULL: in streams of none; category NULL: not known); for es_lint() and es_diagram()';

CREATE FUNCTION es_inline_obstacle(function oid) RETURNS text
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	f pg_proc%ROWTYPE;
	tree text;
	body text;
	outer_body text;
	allowed "char"[];
	culprit text;
BEGIN
	SELECT * INTO f FROM pg_proc p WHERE p.oid = function;
	IF f.prosecdef THEN RETURN 'it is SECURITY DEFINER'; END IF;
	IF f.proconfig IS NOT NULL THEN RETURN 'it has SET clauses'; END IF;
	IF f.proretset THEN RETURN 'it returns a set'; END IF;
	IF f.proisstrict THEN RETURN 'it is STRICT'; END IF;
	allowed := CASE f.provolatile WHEN 'i' THEN '{i}' WHEN 's' THEN '{i,s}' ELSE '{i,s,v}' END;

	IF f.prosqlbody IS NOT NULL THEN
		-- parsed: the tree of nodes names every function by its OID
		tree := f.prosqlbody::text;
		IF (length(tree) - length(replace(tree, '{QUERY ', ''))) / length('{QUERY ') <> 1
			OR tree !~ ':commandType 1 '
			OR tree ~ ':has(Aggs|WindowFuncs|TargetSRFs|SubLinks|ForUpdate) true'
			OR tree !~ ':fromlist <> :quals <>'
			OR tree ~ ':(groupClause|groupingSets|havingQual|distinctClause|sortClause|limitOffset|limitCount) [^<]'
			OR (length(tree) - length(replace(tree, '{TARGETENTRY ', ''))) / length('{TARGETENTRY ') <> 1
		THEN
			RETURN 'its body is more than one expression';
		END IF;
		SELECT min(p.oid::regprocedure::text COLLATE "C") INTO culprit
		FROM (SELECT m[1]::oid AS oid
			  FROM regexp_matches(tree, ':(?:funcid|opfuncid) (\d+)', 'g') m
			  UNION ALL
			  SELECT t.typinput::oid
			  FROM regexp_matches(tree, '\} :resulttype (\d+) :resultcollid \d+ :coerceformat', 'g') m
			  JOIN pg_type t ON t.oid = m[1]::oid
			  UNION ALL
			  SELECT t.typoutput::oid
			  FROM regexp_matches(tree, '\{COERCEVIAIO :arg \{(?:FIELDSELECT :arg \{PARAM [^{}]*\} :fieldnum \d+ :resulttype|FUNCEXPR :funcid \d+ :funcresulttype|OPEXPR :opno \d+ :opfuncid \d+ :opresulttype|PARAM [^{}]*:paramtype|CONST :consttype) (\d+)', 'g') m
			  JOIN pg_type t ON t.oid = m[1]::oid) u
		JOIN pg_proc p ON p.oid = u.oid
		WHERE p.provolatile <> ALL (allowed);
		IF culprit IS NULL AND f.provolatile = 'i' AND tree ~ '\{SQLVALUEFUNCTION ' THEN
			culprit := 'current_date, current_user or the like';
		END IF;
	ELSE
		-- a string: look at it without comments, then without quoted text
		body := regexp_replace(f.prosrc,
							   '(''(?:[^'']|'''')*''|\$\w*\$[^$]*\$\w*\$)|--[^\n]*|/\*(?:[^*]|\*+[^*/])*\*+/',
							   ' \1 ', 'g');
		body := regexp_replace(body, '''(?:[^'']|'''')*''|\$\w*\$[^$]*\$\w*\$', '''''', 'g');
		body := regexp_replace(lower(body), '^\s+|[\s;]+$', '', 'g');
		outer_body := body;
		WHILE outer_body ~ '\([^()]*\)|\[[^][]*\]' LOOP
			outer_body := regexp_replace(outer_body, '\([^()]*\)|\[[^][]*\]', ' ', 'g');
		END LOOP;
		outer_body := regexp_replace(outer_body, '\yis\s+(not\s+)?distinct\s+from\y', '=', 'g');
		IF outer_body !~ '^select\y' OR outer_body ~ '[,;]' OR body ~ '\(\s*(select|values|with)\y'
			OR outer_body ~ '\y(from|where|group|having|order|limit|offset|fetch|union|intersect|except|into|for|window|distinct)\y'
		THEN
			RETURN 'its body is more than one expression';
		END IF;
		SELECT min(m[1] COLLATE "C") INTO culprit
		FROM regexp_matches(body, '\y([a-z_][a-z_0-9]*)\s*\(', 'g') m
		WHERE EXISTS (SELECT FROM pg_proc p WHERE p.proname = m[1])
			AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.proname = m[1] AND p.provolatile = ANY (allowed));
		IF culprit IS NULL AND f.provolatile = 'i' THEN
			culprit := substring(body FROM '\y(current_date|current_time|current_timestamp|localtime|localtimestamp|current_user|session_user|current_role)\y');
			IF culprit IS NULL AND body ~ '[^'']\s*(::\s*|\yas\s+)(timestamp|timestamptz|date|time|timetz|interval|reg[a-z]+)\y' THEN
				culprit := 'a cast to a date or time';
			END IF;
		END IF;
	END IF;

	IF culprit IS NOT NULL THEN
		RETURN format('it is declared %s and uses %s, which is not',
					  CASE f.provolatile WHEN 'i' THEN 'IMMUTABLE' ELSE 'STABLE' END, culprit);
	END IF;
	RETURN NULL;
END $$;
COMMENT ON FUNCTION es_inline_obstacle(oid) IS 'why PostgreSQL cannot inline a function in SQL, as far as its definition shows; NULL: nothing seen; for es_lint()';

CREATE FUNCTION es_lint() RETURNS TABLE (severity text, object text, problem text, hint text)
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH definition AS MATERIALIZED (
		SELECT * FROM @extschema@.es_definition()
	), aggregate AS (
		SELECT * FROM definition WHERE kind = 'aggregate'
	), projection AS (
		SELECT * FROM definition WHERE kind = 'projection'
	), overload AS MATERIALIZED (
		SELECT o.*, o.place IS NOT NULL AND o.function = o.winner AS called,
			   o.function::regprocedure::text AS signature,
			   o.subject::regtype::text AS subject_type
		FROM @extschema@.es_overload() o
	), event_type AS MATERIALIZED (
		SELECT e.aggregate, e.type, bool_or(e.recorded) AS recorded
		FROM @extschema@.es_event_type() e GROUP BY e.aggregate, e.type
	), command AS (
		SELECT o.name AS aggregate, o.subject_name AS command, o.subject_type AS type
		FROM overload o WHERE o.role = 'execute' AND o.called AND o.subject IS NOT NULL
		UNION ALL
		SELECT a.name, l.command, NULL FROM aggregate a CROSS JOIN unnest(a.commands) AS l(command)
	), finding AS (
		-- aggregates
		SELECT 'error' AS severity, format('aggregate "%s"', a.name) AS object,
			   format('its state type %s does not exist', a.state_type) AS problem,
			   'Create the type again, or drop the aggregate with es_drop_aggregate().' AS hint
		FROM aggregate a WHERE a.state IS NULL

		UNION ALL
		SELECT 'warning', format('aggregate "%s"', a.name),
			   CASE WHEN a.stream_prefix = b.stream_prefix
					THEN format('shares stream_prefix "%s" with aggregate "%s"', a.stream_prefix, b.name)
					ELSE format('its stream_prefix "%s" begins with "%s", that of aggregate "%s"',
								a.stream_prefix, b.stream_prefix, b.name) END,
			   'Streams of one may be taken for streams of the other: give each a prefix of its own.'
		FROM aggregate a JOIN aggregate b ON a.stream_prefix ^@ b.stream_prefix
			AND (a.stream_prefix <> b.stream_prefix AND a.name <> b.name OR a.name > b.name)

		UNION ALL
		SELECT 'warning', format('aggregate "%s"', a.name), 'executes no command',
			   format('Create function %s(%s, <command>) for every command.', a.execute_function, a.state_type)
		FROM aggregate a
		WHERE a.state IS NOT NULL AND NOT EXISTS (SELECT FROM command c WHERE c.aggregate = a.name)

		UNION ALL
		SELECT 'error', format('aggregate "%s"', a.name),
			   format('lists commands, but there is no %s(%s, es_command)', a.execute_function, a.state_type),
			   'Create the function: dispatching these commands fails with SE004.'
		FROM aggregate a
		WHERE a.state IS NOT NULL AND a.commands <> '{}'
			AND NOT EXISTS (SELECT FROM overload o WHERE o.role = 'execute' AND o.name = a.name
							AND o.called AND o.subject IS NULL)

		-- commands
		UNION ALL
		SELECT 'error', format('command %s', c.type),
			   format('several aggregates execute it: %s',
					  string_agg(DISTINCT format('"%s"', c.aggregate), ', ')),
			   'Dispatching it fails with SE004: leave one overload, or give the aggregates an execute_function each.'
		FROM command c WHERE c.type IS NOT NULL
		GROUP BY c.type HAVING count(DISTINCT c.aggregate) > 1

		UNION ALL
		SELECT 'error', format('command "%s"', c.command),
			   format('several aggregates list it: %s',
					  string_agg(DISTINCT format('"%s"', c.aggregate), ', ')),
			   'Dispatching it fails with SE004: leave it in the commands of one.'
		FROM command c WHERE c.type IS NULL
		GROUP BY c.command HAVING count(DISTINCT c.aggregate) > 1

		UNION ALL
		SELECT 'warning', format('command "%s"', c.command),
			   format('is the name of several types: %s', string_agg(DISTINCT c.type, ', ')),
			   'Dispatching it by its bare name fails with SE004: qualify the name with its schema.'
		FROM command c WHERE c.type IS NOT NULL
		GROUP BY c.command HAVING count(DISTINCT c.type) > 1

		UNION ALL
		SELECT 'warning', format('command "%s"', l.command),
			   format('aggregate "%s" lists it, and aggregate "%s" executes type %s',
					  l.aggregate, c.aggregate, c.type),
			   'By its name the command goes to the one, as a value of the type to the other: rename one of them.'
		FROM command l JOIN command c ON c.command = l.command AND c.type IS NOT NULL
		WHERE l.type IS NULL AND l.aggregate <> c.aggregate

		UNION ALL
		SELECT 'error', format('command %s', o.subject_type),
			   format('has no field "%s", the identity of aggregate "%s"', a.identity, a.name),
			   'Add the field to the type, or register the aggregate with another identity.'
		FROM overload o JOIN aggregate a ON a.name = o.name
		WHERE o.role = 'execute' AND o.called AND o.subject IS NOT NULL
			AND NOT EXISTS (SELECT FROM pg_type t JOIN pg_attribute f ON f.attrelid = t.typrelid
							WHERE t.oid = o.subject AND f.attname = a.identity
								AND f.attnum > 0 AND NOT f.attisdropped)

		UNION ALL
		SELECT 'warning', format('function %s', f.oid::regprocedure),
			   format('executes command %s, but %s is the state of no aggregate of this store',
					  c.oid::regtype, s.oid::regtype),
			   format('Register it with es_create_aggregate(%L).', s.oid::regtype)
		FROM pg_proc f
		JOIN pg_namespace n ON n.oid = f.pronamespace
		JOIN pg_type s ON s.oid = f.proargtypes[0] AND s.typtype = 'c'
		JOIN pg_type c ON c.oid = f.proargtypes[1] AND c.typtype = 'c'
		WHERE f.prokind = 'f'
			AND (f.proname = 'execute'
				 OR f.proname IN (SELECT p[cardinality(p)] FROM aggregate a
								  CROSS JOIN LATERAL @extschema@.es_name_parts(a.execute_function) p))
			AND (f.pronargs = 2 OR f.pronargs = 3 AND f.proargtypes[2] = '@extschema@.es_command'::regtype)
			AND s.oid NOT IN (SELECT a.state FROM aggregate a WHERE a.state IS NOT NULL)
			-- other schemas may belong to another store
			AND n.nspname IN (SELECT unnest(d.search_path) FROM definition d)

		-- events
		UNION ALL
		SELECT 'error', format('event "%s"', e.type),
			   format('is %s aggregate "%s", which cannot apply it',
					  CASE WHEN e.recorded THEN 'recorded in streams of' ELSE 'returned by commands of' END,
					  a.name),
			   format('Create function %s(%s, %s): without it the state cannot be read (SE005).',
					  a.apply_function, a.state_type, quote_ident(e.type))
		FROM event_type e JOIN aggregate a ON a.name = e.aggregate
		WHERE a.state IS NOT NULL
			AND NOT EXISTS (SELECT FROM overload o WHERE o.role = 'apply' AND o.name = a.name AND o.called
							AND COALESCE(o.subject_name, e.type) = e.type)

		UNION ALL
		SELECT 'warning', format('event "%s"', o.subject_name),
			   format('aggregate "%s" applies several types of this name: %s', o.name,
					  string_agg(DISTINCT o.subject_type, ', ')),
			   'Only one of them is used: leave one type of a name.'
		FROM overload o WHERE o.role = 'apply' AND o.called AND o.subject IS NOT NULL
		GROUP BY o.name, o.subject_name HAVING count(DISTINCT o.subject) > 1

		-- functions: what they return
		UNION ALL
		SELECT 'error', format('function %s', o.signature),
			   format('returns %s, not the state type %s', f.prorettype::regtype, a.state_type),
			   'An apply function returns the next state.'
		FROM overload o JOIN aggregate a ON a.name = o.name JOIN pg_proc f ON f.oid = o.function
		WHERE o.role = 'apply' AND o.called AND (f.prorettype <> a.state OR f.proretset)

		UNION ALL
		SELECT 'error', format('function %s', o.signature),
			   format('returns %s, which is not an event', f.prorettype::regtype),
			   'Return a composite event, an array or set of one type, es_new_event, an array or set of them, or void.'
		FROM overload o
		JOIN pg_proc f ON f.oid = o.function
		JOIN pg_type r ON r.oid = f.prorettype
		LEFT JOIN pg_type e ON e.oid = r.typelem AND r.typcategory = 'A'
		WHERE o.role = 'execute' AND o.called
			AND COALESCE(e.typtype, r.typtype) <> 'c' AND r.oid <> 'void'::regtype

		-- functions: which one is called
		UNION ALL
		SELECT 'warning', format('function %s', o.signature),
			   format('is hidden by %s', o.winner::regprocedure),
			   format('The search_path of %s "%s" finds the other one first: drop or rename one of them.', o.kind, o.name)
		FROM overload o JOIN overload w ON (w.kind, w.name, w.role, w.function) = (o.kind, o.name, o.role, o.winner)
		WHERE o.function <> o.winner AND w.place IS NOT NULL AND o.place IS DISTINCT FROM w.place

		UNION ALL
		SELECT 'warning', format('function %s', o.signature),
			   format('stands beside %s, and one of them is never called', o.winner::regprocedure),
			   'Keep either the form with the envelope or the one without it.'
		FROM overload o JOIN overload w ON (w.kind, w.name, w.role, w.function) = (o.kind, o.name, o.role, o.winner)
		WHERE o.function <> o.winner AND o.place = w.place

		UNION ALL
		SELECT 'error', format('function %s', o.signature),
			   format('is not in the search_path of %s "%s"', o.kind, o.name),
			   format('It is never called: move it to one of the schemas %s, or register the %s again with its schema in the search_path.',
					  array_to_string(d.search_path, ', '), o.kind)
		FROM overload o
		JOIN overload w ON (w.kind, w.name, w.role, w.function) = (o.kind, o.name, o.role, o.winner)
		JOIN definition d ON (d.kind, d.name) = (o.kind, o.name)
		WHERE w.place IS NULL

		-- functions: how they are declared
		UNION ALL
		SELECT 'warning', format('function %s', o.signature), 'is VOLATILE',
			   'The same events must always give the same state: declare it IMMUTABLE, or STABLE when it must read tables.'
		FROM overload o JOIN pg_proc f ON f.oid = o.function
		WHERE o.role = 'apply' AND o.called AND f.provolatile = 'v'

		UNION ALL
		SELECT 'warning', format('function %s', o.signature), format('cannot be inlined: %s', i.obstacle),
			   'Folding is 4 to 10 times slower than with an IMMUTABLE function of a single RETURN expression.'
		FROM overload o
		JOIN pg_proc f ON f.oid = o.function
		JOIN pg_language l ON l.oid = f.prolang AND l.lanname = 'sql'
		CROSS JOIN LATERAL (SELECT @extschema@.es_inline_obstacle(f.oid) AS obstacle) i
		WHERE o.role = 'apply' AND o.called AND i.obstacle IS NOT NULL

		UNION ALL
		SELECT CASE o.role WHEN 'apply' THEN 'warning' ELSE 'info' END, format('function %s', o.signature),
			   concat_ws(' and ', CASE WHEN f.prosecdef THEN 'is SECURITY DEFINER' END,
						 CASE WHEN f.proconfig IS NOT NULL THEN 'has SET clauses' END),
			   CASE o.role WHEN 'apply' THEN 'Each event pays for the change of user or settings.'
				   ELSE 'It does not run with the rights and settings of its caller: make sure that this is meant.' END
		FROM overload o
		JOIN pg_proc f ON f.oid = o.function
		JOIN pg_language l ON l.oid = f.prolang
		WHERE o.called AND (f.prosecdef OR f.proconfig IS NOT NULL) AND (o.role <> 'apply' OR l.lanname <> 'sql')

		-- projections
		UNION ALL
		SELECT 'error', format('projection "%s"', p.name), format('its handler %s has no overload', p.handler),
			   format('It gets no event: create function %s(<event>) for every event.', p.handler)
		FROM projection p
		WHERE p.handler IS NOT NULL AND NOT EXISTS (
			SELECT FROM overload o WHERE o.role = 'handler' AND o.name = p.name AND o.called)

		UNION ALL
		SELECT 'info', format('projection "%s"', p.name), 'has no targets',
			   'es_rebuild_projection() and es_verify_projection() need to know the tables that it owns.'
		FROM projection p WHERE COALESCE(p.targets, '{}') = '{}'

		UNION ALL
		SELECT 'error', format('projection "%s"', p.name), format('its target %s does not exist', t.target),
			   'Create the table again, or drop the projection with es_drop_projection().'
		FROM projection p
		CROSS JOIN unnest(p.targets) AS t(target)
		CROSS JOIN LATERAL @extschema@.es_name_parts(t.target) parts
		WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
						  WHERE c.relname = parts[cardinality(parts)] AND n.nspname = parts[1])

		UNION ALL
		SELECT 'info', format('projection "%s"', p.name), format('is paused since position %s', p.paused_at),
			   'es_resume() brings it up to date.'
		FROM projection p WHERE p.paused_at IS NOT NULL

		UNION ALL
		SELECT 'info', format('function %s', o.signature),
			   format('handles event "%s", which no command returns and which is not recorded', o.subject_name),
			   format('Look for a mistake in its name, or for a handler of projection "%s" that is not needed any more.', o.name)
		FROM overload o
		WHERE o.role = 'handler' AND o.called AND o.subject IS NOT NULL
			AND NOT EXISTS (SELECT FROM event_type e WHERE e.type = o.subject_name)
			AND NOT EXISTS (SELECT FROM overload a WHERE a.role = 'apply' AND a.called AND a.subject_name = o.subject_name)

		UNION ALL
		SELECT 'info', format('projection "%s"', p.name),
			   format('selects event "%s", which no command returns and which is not recorded', t.type),
			   'Look for a mistake in its name.'
		FROM projection p CROSS JOIN unnest(p.types) AS t(type)
		WHERE NOT EXISTS (SELECT FROM event_type e WHERE e.type = t.type)
			AND NOT EXISTS (SELECT FROM overload a WHERE a.role = 'apply' AND a.called AND a.subject_name = t.type)
	)
	SELECT f.severity, f.object, f.problem, f.hint
	FROM (SELECT DISTINCT g.severity, g.object, g.problem, g.hint FROM finding g) f
	ORDER BY array_position(ARRAY['error', 'warning', 'info'], f.severity),
			 f.object COLLATE "C", f.problem COLLATE "C", f.hint COLLATE "C"
$$;
COMMENT ON FUNCTION es_lint() IS 'what is wrong with the aggregates, functions and projections of the current store';

-- Diagram

CREATE FUNCTION es_diagram() RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH definition AS MATERIALIZED (
		SELECT * FROM @extschema@.es_definition()
	), overload AS MATERIALIZED (
		SELECT * FROM @extschema@.es_overload() o WHERE o.place IS NOT NULL AND o.function = o.winner
	), emits AS MATERIALIZED (
		SELECT DISTINCT e.aggregate, e.type, e.category FROM @extschema@.es_event_type() e
	), executes AS (
		SELECT o.subject_name AS command, o.name AS aggregate
		FROM overload o WHERE o.role = 'execute' AND o.subject IS NOT NULL
		UNION
		SELECT l.command, d.name FROM definition d CROSS JOIN unnest(d.commands) AS l(command)
	), known AS (
		SELECT e.type, e.category FROM emits e
		UNION
		SELECT o.subject_name, NULL FROM overload o
		WHERE o.role = 'handler' AND o.subject IS NOT NULL
			AND o.subject_name NOT IN (SELECT e.type FROM emits e)
	), feeds AS (
		SELECT DISTINCT k.type, d.name AS projection, d.mode
		FROM known k JOIN definition d ON d.kind = 'projection'
		WHERE k.type = ANY (COALESCE(d.types, ARRAY[k.type]))
			AND (d.categories IS NULL OR k.category IS NULL OR k.category = ANY (d.categories))
			AND (d.handler IS NULL
				 OR EXISTS (SELECT FROM overload o WHERE o.role = 'handler' AND o.name = d.name
							AND COALESCE(o.subject_name, k.type) = k.type))
	), node AS (
		SELECT n.class, n.name,
			   n.class || (row_number() OVER (PARTITION BY n.class ORDER BY n.name COLLATE "C"))::text AS id
		FROM (SELECT 'c' AS class, x.command AS name FROM executes x
			  UNION SELECT 'a', d.name FROM definition d WHERE d.kind = 'aggregate'
			  UNION SELECT 'e', k.type FROM known k
			  UNION SELECT 'p', d.name FROM definition d WHERE d.kind = 'projection') n
	), edge AS (
		SELECT f.id AS source, '-->' AS arrow, t.id AS target
		FROM executes x
		JOIN node f ON f.class = 'c' AND f.name = x.command
		JOIN node t ON t.class = 'a' AND t.name = x.aggregate
		UNION ALL
		SELECT f.id, '-->', t.id
		FROM (SELECT DISTINCT e.aggregate, e.type FROM emits e) x
		JOIN node f ON f.class = 'a' AND f.name = x.aggregate
		JOIN node t ON t.class = 'e' AND t.name = x.type
		UNION ALL
		SELECT f.id, CASE x.mode WHEN 'async' THEN '-.->' ELSE '-->' END, t.id
		FROM feeds x
		JOIN node f ON f.class = 'e' AND f.name = x.type
		JOIN node t ON t.class = 'p' AND t.name = x.projection
	), line AS (
		SELECT 1 AS part, 1 AS rank, 0::bigint AS number, 0::bigint AS to_number, 'flowchart LR' AS text
		UNION ALL
		SELECT 2, strpos('caep', n.class), substr(n.id, 2)::bigint, 0,
			   format('    %s%s"%s"%s:::%s', n.id, s.opening,
					  -- what Mermaid or a browser would read as markup
					  regexp_replace(
						  replace(replace(replace(replace(replace(replace(
							  n.name, '#', '#35;'), '&', '#38;'), '"', '#34;'), '<', '#60;'), '>', '#62;'), '`', '#96;'),
						  '[[:cntrl:]]+', ' ', 'g'),
					  s.closing, s.style)
		FROM node n
		JOIN (VALUES ('c', '[', ']', 'command'), ('a', '{{', '}}', 'aggregate'),
			  ('e', '([', '])', 'event'), ('p', '[(', ')]', 'projection'))
			AS s(class, opening, closing, style) ON s.class = n.class
		UNION ALL
		SELECT 3, strpos('caep', left(e.source, 1)), substr(e.source, 2)::bigint, substr(e.target, 2)::bigint,
			   format('    %s %s %s', e.source, e.arrow, e.target)
		FROM edge e
		UNION ALL
		SELECT 4, s.rank::int, 0, 0, format('    classDef %s fill:%s,stroke:%s,color:#000', s.style, s.fill, s.stroke)
		FROM (VALUES (1, 'command', '#a8d1f7', '#1c71b8'), (2, 'aggregate', '#fdf0a2', '#b59b00'),
			  (3, 'event', '#fbc98b', '#c96f00'), (4, 'projection', '#bfe3b4', '#3f8a2b'))
			AS s(rank, style, fill, stroke)
	)
	SELECT string_agg(l.text, E'\n' ORDER BY l.part, l.rank, l.number, l.to_number) FROM line l
$$;
COMMENT ON FUNCTION es_diagram() IS 'the current store as a Mermaid flowchart: commands, aggregates, events, projections (dotted: async)';
