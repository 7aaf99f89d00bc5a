-- Customers of a bank: their number there, who has an account of a number, and who is to be synced no more.

ALTER TABLE steelyard.app_user ADD COLUMN customer_number text
    CONSTRAINT app_user_customer_number CHECK (length(customer_number) BETWEEN 1 AND 64);

-- A number that another user has already is found before it is given to a second one. The number comes first: with few
-- statistics an index that begins like others is taken for them.
CREATE INDEX mirrored_account_holder ON steelyard.mirrored_account (number, tenant_id, provider);

-- Effect: opens one mirrored account per array element whose p_account is null, and brings the others to what is said of
-- them, in id order. Answers their ids. Books must be open and users exist (foreign keys say so). No account may stand twice.
-- Plans made while tables are empty are kept: a row there is looked up by its whole key, never joined to the others.
GRANT USAGE ON SEQUENCE steelyard.account_id_seq TO steelyard_ledger;
CREATE FUNCTION steelyard.write_mirrored_accounts(
    p_now timestamptz, p_tenant text, p_provider text, p_account bigint[], p_user text[], p_number text[],
    p_currency text[], p_account_type text[], p_is_primary boolean[], p_is_active boolean[]
) RETURNS bigint[] LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE v_ids bigint[]; v_told record;
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    SELECT array_agg(coalesce(u.account, nextval('steelyard.account_id_seq')) ORDER BY u.position) INTO v_ids
      FROM unnest(p_account) WITH ORDINALITY AS u (account, position);
    INSERT INTO steelyard.account (tenant_id, id, kind, user_id, currency, is_primary, opened_at, as_of)
    SELECT p_tenant, u.new_id, 'mirrored', u.id, u.currency, u.is_primary, p_now, p_now
      FROM unnest(v_ids, p_account, p_user, p_currency, p_is_primary) AS u (new_id, account, id, currency, is_primary)
     WHERE u.account IS NULL;
    INSERT INTO steelyard.mirrored_account (tenant_id, account_id, user_id, provider, number, account_type, is_active)
    SELECT p_tenant, u.new_id, u.id, p_provider, u.number, u.account_type, u.is_active
      FROM unnest(v_ids, p_account, p_user, p_number, p_account_type, p_is_active)
        AS u (new_id, account, id, number, account_type, is_active) WHERE u.account IS NULL;
    FOR v_told IN
        SELECT u.* FROM unnest(p_account, p_account_type, p_is_primary, p_is_active)
            AS u (account, account_type, is_primary, is_active) WHERE u.account IS NOT NULL ORDER BY u.account
    LOOP
        UPDATE steelyard.account acc SET is_primary = v_told.is_primary
         WHERE acc.tenant_id = p_tenant AND acc.id = v_told.account AND acc.kind = 'mirrored' AND acc.is_primary <> v_told.is_primary;
        UPDATE steelyard.mirrored_account m SET account_type = v_told.account_type, is_active = v_told.is_active
         WHERE m.tenant_id = p_tenant AND m.account_id = v_told.account;
    END LOOP;
    RETURN v_ids;
END $$;

-- Effect: removes the targets of users who are not to be synced, leased or not: who is at work on one writes nothing.
-- Their runs end as cancelled with p_error; it is noted that they get one when they are synced again. Locks the targets in the order of their subjects. Returns how many there were.
CREATE FUNCTION steelyard.drop_targets(
    p_now timestamptz, p_tenant text, p_kind text, p_provider text, p_subject text[], p_error text
) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off AS $$
DECLARE v_removed int;
BEGIN
    PERFORM 1 FROM steelyard.sync_target t WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = ANY (p_subject)
      ORDER BY t.subject FOR UPDATE;
    WITH removed AS (
        DELETE FROM steelyard.sync_target t
         WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = ANY (p_subject)
        RETURNING t.run_id, t.again_run_id),
    noted AS (
        INSERT INTO steelyard.sync_removed (tenant_id, provider, kind, subject, removed_at)
        SELECT p_tenant, p_provider, p_kind, u.subject, p_now FROM unnest(p_subject) AS u (subject) ORDER BY u.subject
        ON CONFLICT DO NOTHING),
    ended AS (
        UPDATE steelyard.run r SET state = 'cancelled', finished_at = p_now, error = p_error::json
          FROM (SELECT d.run_id AS id FROM removed d UNION ALL SELECT d.again_run_id FROM removed d) gone
         WHERE r.tenant_id = p_tenant AND r.id = gone.id AND r.finished_at IS NULL
           AND r.id = ANY (ARRAY (SELECT d.run_id FROM removed d UNION ALL SELECT d.again_run_id FROM removed d)))
    SELECT count(*) INTO v_removed FROM removed;
    RETURN v_removed;
END $$;
REVOKE ALL ON FUNCTION steelyard.drop_targets(timestamptz, text, text, text, text[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION steelyard.drop_targets(timestamptz, text, text, text, text[], text) TO steelyard_app;

DO $$
DECLARE v_function text := 'write_mirrored_accounts(timestamptz, text, text, bigint[], text[], text[], text[], text[], boolean[], boolean[])';
BEGIN
    EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
    EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
    EXECUTE format('ALTER FUNCTION steelyard.%s OWNER TO steelyard_ledger', v_function);
END $$;
