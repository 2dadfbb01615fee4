-- Oracle: what must hold in the current store at any time, checked in SQL by
-- other means than those of the extension.  Each function returns one line for
-- every thing that is wrong; none is good.
--
--     SELECT * FROM oracle.problems();

CREATE SCHEMA oracle;

-- The versions of every stream are 1, 2, 3, ... without gaps, and positions
-- rise with them.
CREATE FUNCTION oracle.log_problems() RETURNS SETOF text
	LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT format(''stream %%s: version %%s is number %%s'', stream, version, n)
		 FROM (SELECT stream, version, row_number() OVER (PARTITION BY stream ORDER BY version) AS n
			   FROM %I.event) e
		 WHERE version <> n', es_current_store());
	RETURN QUERY EXECUTE format(
		'SELECT format(''stream %%s: version %%s has position %%s after %%s'', stream, version, position, previous)
		 FROM (SELECT stream, version, position,
					  lag(position) OVER (PARTITION BY stream ORDER BY version) AS previous
			   FROM %I.event) e
		 WHERE position <= previous', es_current_store());
END $$;

-- The next position is above all that the log has.
CREATE FUNCTION oracle.sequence_problems() RETURNS SETOF text
	LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT format(''the last event has position %%s, the sequence is at %%s'', max(position), last)
		 FROM %1$I.event, pg_sequence_last_value(%2$L) AS last GROUP BY last
		 HAVING max(position) > COALESCE(last, 0)',
		es_current_store(), format('%I.event_position', es_current_store()));
END $$;

-- A state folded from zero (es_history) is the one folded from wherever the
-- extension starts: from a state snapshot (at a version) or from the session's
-- cache (now).
CREATE FUNCTION oracle.fold_problems() RETURNS SETOF text
	LANGUAGE plpgsql AS $$
DECLARE
	aggregate text;
	prefix text;
	id text;
BEGIN
	FOR aggregate, prefix, id IN EXECUTE format(
		'SELECT a.name, a.stream_prefix, substr(e.stream, length(a.stream_prefix) + 1)
		 FROM %1$I.aggregate a JOIN %1$I.event e ON e.version = 1 AND e.stream ^@ a.stream_prefix
		 ORDER BY e.stream', es_current_store())
	LOOP
		RETURN QUERY
			SELECT format('aggregate %s %s: state at version %s is %s, folded from zero %s',
						  aggregate, id, h.version, es_state(aggregate, id, h.version), h.state)
			FROM es_history(aggregate, id) h
			WHERE es_state(aggregate, id, h.version) IS DISTINCT FROM h.state;
		RETURN QUERY
			SELECT format('aggregate %s %s: state is %s, folded from zero %s',
						  aggregate, id, es_state(aggregate, id), h.state)
			FROM es_history(aggregate, id) h
			WHERE h.version = es_stream_version(prefix || id)
				AND es_state(aggregate, id) IS DISTINCT FROM h.state;
	END LOOP;
END $$;

-- A receipt tells of events that are there, caused by its command.
CREATE FUNCTION oracle.receipt_problems() RETURNS SETOF text
	LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT format(''receipt %%s: %%s events to version %%s of stream %%s, found %%s to %%s'',
					   r.command_id, r.event_count, r.version, r.stream, count(e.*), max(e.version))
		 FROM %1$I.receipt r
		 LEFT JOIN %1$I.event e ON e.stream = r.stream AND e.causation_id = r.command_id
		 GROUP BY r.command_id
		 HAVING count(e.*) <> r.event_count OR max(e.version) <> r.version OR max(e.position) <> r.position',
		es_current_store());
END $$;

-- A projection is what a rebuild would make of it.
CREATE FUNCTION oracle.projection_problems() RETURNS SETOF text
	LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT format(''projection %%s: %%s rows differ'', name, rows)
		 FROM %I.projection, es_verify_projection(name) AS rows WHERE rows <> 0', es_current_store());
END $$;

CREATE FUNCTION oracle.problems() RETURNS SETOF text
	LANGUAGE sql AS $$
	SELECT * FROM oracle.log_problems()
	UNION ALL SELECT * FROM oracle.sequence_problems()
	UNION ALL SELECT * FROM oracle.fold_problems()
	UNION ALL SELECT * FROM oracle.receipt_problems()
	UNION ALL SELECT * FROM oracle.projection_problems()
$$;
