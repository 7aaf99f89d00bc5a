-- What the live gateway reads: of many accounts and users of many tenants in one call each.

-- Changes after a position each, oldest first, at most p_limit of each account; columns as read_changes_at.
CREATE FUNCTION steelyard.read_changes_after(
    p_tenant text[], p_account bigint[], p_after bigint[], p_limit int
) RETURNS TABLE (tenant_id text, account_id bigint, user_id text, currency text, digits smallint, seq bigint,
                 kind text, amount bigint, held_amount bigint, balance_after bigint, held_after bigint,
                 contra_id bigint, contra_seq bigint, posted_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
    SELECT acc.tenant_id, acc.id, acc.user_id, acc.currency, b.digits, c.seq, c.kind, c.amount, c.held_amount,
           c.balance_after, c.held_after, c.contra_id, c.contra_seq, c.posted_at
      FROM unnest(p_tenant, p_account, p_after) AS u (tenant, account, after)
      JOIN steelyard.account acc ON acc.tenant_id = u.tenant AND acc.id = u.account
      JOIN steelyard.book b ON b.tenant_id = acc.tenant_id AND b.currency = acc.currency
     CROSS JOIN LATERAL (
        SELECT ch.* FROM steelyard.change ch
         WHERE ch.tenant_id = u.tenant AND ch.account_id = u.account AND ch.seq > u.after
         ORDER BY ch.seq LIMIT p_limit) c
     ORDER BY acc.tenant_id, acc.id, c.seq
$$;

-- What decides whether tokens of users still count; one row per pair whose tenant there is.
CREATE FUNCTION steelyard.read_standings(p_tenant text[], p_user text[])
    RETURNS TABLE (tenant_id text, user_id text, tenant_status text, user_status text, tokens_valid_from timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
    SELECT t.id, u.user_id, t.status, a.status, a.tokens_valid_from
      FROM unnest(p_tenant, p_user) AS u (tenant, user_id)
      JOIN steelyard.tenant t ON t.id = u.tenant
      LEFT JOIN steelyard.app_user a ON a.tenant_id = t.id AND a.id = u.user_id
$$;

DO $$
DECLARE v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['read_changes_after(text[], bigint[], bigint[], int)', 'read_standings(text[], text[])'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
        EXECUTE format('ALTER FUNCTION steelyard.%s OWNER TO steelyard_ledger', v_function);
    END LOOP;
END $$;
