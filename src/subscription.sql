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
