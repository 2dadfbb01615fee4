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
