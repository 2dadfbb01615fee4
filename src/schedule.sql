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
