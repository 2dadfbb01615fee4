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
