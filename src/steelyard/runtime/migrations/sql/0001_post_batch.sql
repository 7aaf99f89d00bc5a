-- The one door through which held money moves. `ledger/rules.py` is the same rules as a plain model;
-- a property test runs both on the same histories.

-- What a request that names an earlier change would take back.
-- r_left is what of it has not been reversed yet by changes already written.
CREATE FUNCTION steelyard.find_reversible(
    p_tenant text, p_account bigint, p_target bigint,
    OUT r_kind text, OUT r_amount bigint, OUT r_left bigint, OUT r_contra bigint
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT c.kind, c.amount, c.contra_id INTO r_kind, r_amount, r_contra FROM steelyard.change c
     WHERE c.tenant_id = p_tenant AND c.account_id = p_account AND c.seq = p_target;
    SELECT abs(r_amount) - coalesce(sum(abs(c.amount)), 0) INTO r_left FROM steelyard.change c
     WHERE c.tenant_id = p_tenant AND c.account_id = p_account AND c.target_seq = p_target
       AND c.kind IN ('refund', 'reversal');
END $$;

-- Below the floor suspends, at or above it ends a suspension for that reason; a broken chain's is not ended here.
CREATE FUNCTION steelyard.suspension_after(p_now text, p_available bigint, p_floor bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN p_available < p_floor THEN coalesce(p_now, 'below_floor')
                WHEN p_now = 'below_floor' THEN NULL ELSE p_now END;

-- At the commit of a caller's own transaction: all of its pending sides at once, at the first row's turn.
CREATE FUNCTION steelyard.post_pending_contra() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_tenant text[]; v_account bigint[]; v_delta bigint[]; v_postings bigint[];
BEGIN
    PERFORM set_config('steelyard.tenant', NEW.tenant_id, true);
    WITH taken AS (DELETE FROM steelyard.contra_pending p WHERE p.xid = pg_current_xact_id() RETURNING *),
         summed AS (SELECT t.tenant_id, t.account_id, sum(t.delta)::bigint AS delta, sum(t.postings)::bigint AS postings
                      FROM taken t GROUP BY t.tenant_id, t.account_id)
    SELECT array_agg(s.tenant_id), array_agg(s.account_id), array_agg(s.delta), array_agg(s.postings)
      INTO v_tenant, v_account, v_delta, v_postings FROM summed s;
    IF v_account IS NOT NULL THEN
        PERFORM steelyard.post_contra(NEW.posted_at, v_tenant, v_account, v_delta, v_postings);
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER post_pending_contra AFTER INSERT ON steelyard.contra_pending
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION steelyard.post_pending_contra();
