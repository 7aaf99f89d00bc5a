-- Customers of a bank: their number there, who has an account of a number, and who is to be synced no more.

ALTER TABLE steelyard.app_user ADD COLUMN customer_number text
    CONSTRAINT app_user_customer_number CHECK (length(customer_number) BETWEEN 1 AND 64);

-- A number that another user has already is found before it is given to a second one.
CREATE INDEX mirrored_account_holder ON steelyard.mirrored_account (tenant_id, provider, number);

-- Effect: removes the targets of users who are to be synced no more, leased or not: who is at work on one writes nothing.
-- Their runs end as cancelled with p_error. Locks the targets in the order of their subjects. Returns how many there were.
CREATE FUNCTION steelyard.drop_targets(p_now timestamptz, p_tenant text, p_kind text, p_subject text[], p_error text)
    RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off AS $$
DECLARE v_removed int;
BEGIN
    PERFORM 1 FROM steelyard.sync_target t WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = ANY (p_subject)
      ORDER BY t.subject FOR UPDATE;
    WITH removed AS (
        DELETE FROM steelyard.sync_target t
         WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = ANY (p_subject)
        RETURNING t.provider, t.subject, t.run_id, t.again_run_id),
    ended AS (
        UPDATE steelyard.run r SET state = 'cancelled', finished_at = p_now, error = p_error::json
          FROM (SELECT d.run_id AS id FROM removed d UNION ALL SELECT d.again_run_id FROM removed d) gone
         WHERE r.tenant_id = p_tenant AND r.id = gone.id AND r.finished_at IS NULL
           AND r.id = ANY (ARRAY (SELECT d.run_id FROM removed d UNION ALL SELECT d.again_run_id FROM removed d)))
    SELECT count(*) INTO v_removed FROM removed;
    RETURN v_removed;
END $$;
REVOKE ALL ON FUNCTION steelyard.drop_targets(timestamptz, text, text, text[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION steelyard.drop_targets(timestamptz, text, text, text[], text) TO steelyard_app;
