-- What users and operators see of runs: found by a public token, listed page by page, counted, cancelled, removed when old.
-- docs/reference/http.md, "Runs".

-- Pages go from the newest to older ones of one kind and state, and are merged over kinds and states: each page reads as
-- many rows as it shows of each, however long the history is. Retention and figures read ranges of the same index.
CREATE UNIQUE INDEX run_by_id ON steelyard.run (id);
CREATE INDEX run_by_kind ON steelyard.run (tenant_id, kind, state, created_at, id);
CREATE INDEX run_by_subject ON steelyard.run (tenant_id, subject, created_at, id);
CREATE INDEX run_by_error ON steelyard.run (tenant_id, (error ->> 'code'), kind, created_at, id) WHERE error IS NOT NULL;

GRANT DELETE ON steelyard.run TO steelyard_app;  -- of those that ended long ago

-- The run that a public token may read, of any tenant that is served; nothing where id or token is wrong.
CREATE FUNCTION steelyard.read_public_run(p_id bigint, p_token_hash bytea)
    RETURNS TABLE (tenant_id text, kind text, state text, progress smallint, result text, error text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT r.tenant_id, r.kind, r.state, r.progress, r.result::text, r.error::text
      FROM steelyard.run r JOIN steelyard.tenant t ON t.id = r.tenant_id AND t.status = 'active'
     WHERE r.id = p_id AND p_token_hash = ANY (r.token_hashes)
$$;
REVOKE ALL ON FUNCTION steelyard.read_public_run(bigint, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION steelyard.read_public_run(bigint, bytea) TO steelyard_app;
ALTER FUNCTION steelyard.read_public_run(bigint, bytea) OWNER TO steelyard_ledger;
