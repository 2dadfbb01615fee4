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
