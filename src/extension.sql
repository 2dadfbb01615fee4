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
