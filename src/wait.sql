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
