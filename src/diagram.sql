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
