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
