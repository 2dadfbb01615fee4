-- Receipts

CREATE FUNCTION es_prune_receipts(older_than interval) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_prune_receipts';
COMMENT ON FUNCTION es_prune_receipts(interval) IS 'forget receipts that are older; returns how many';

REVOKE ALL ON FUNCTION es_prune_receipts(interval) FROM PUBLIC;
