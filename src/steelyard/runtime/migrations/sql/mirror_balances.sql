-- Effect: what was read of mirrored accounts becomes their balance: a change of kind `sync` over the difference. An
-- unchanged reading makes no change. The caller orders readings (a lease's token): clocks do not, because one that was
-- fast for a moment would keep every later reading out. The columns of read_changes_at, one row
-- per change. Locks the accounts in id order; until the caller commits. No account may stand twice.
CREATE OR REPLACE FUNCTION steelyard.mirror_balances(
    p_now timestamptz, p_tenant text, p_account bigint[], p_posted bigint[], p_read_at timestamptz[], p_readings text[]
) RETURNS TABLE (tenant_id text, account_id bigint, user_id text, currency text, digits smallint, seq bigint,
                 kind text, amount bigint, held_amount bigint, balance_after bigint, held_after bigint,
                 contra_id bigint, contra_seq bigint, posted_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    PERFORM 1 FROM (SELECT acc.id FROM steelyard.account acc
                     WHERE acc.tenant_id = p_tenant AND acc.id = ANY (p_account) AND acc.kind = 'mirrored'
                     ORDER BY acc.id FOR NO KEY UPDATE) l;
    RETURN QUERY
    WITH given AS MATERIALIZED (
        SELECT u.* FROM unnest(p_account, p_posted, p_read_at, p_readings) AS u (id, posted, read_at, readings)
          JOIN steelyard.mirrored_account m ON m.tenant_id = p_tenant AND m.account_id = u.id),
    noted AS (
        UPDATE steelyard.mirrored_account m SET readings = g.readings::json, read_at = g.read_at
          FROM given g WHERE m.tenant_id = p_tenant AND m.account_id = g.id),
    moved AS (
        UPDATE steelyard.account acc
           SET posted = g.posted, seq = acc.seq + 1, as_of = greatest(acc.as_of, p_now),
               head = steelyard.chain_hash(acc.head, p_tenant, acc.id, acc.seq + 1, 'sync', g.posted - acc.posted, 0,
                                           g.posted, acc.held, NULL, NULL, NULL, p_now, NULL)
          FROM given g
          JOIN steelyard.account old ON old.tenant_id = p_tenant AND old.id = g.id
         WHERE acc.tenant_id = p_tenant AND acc.id = g.id AND acc.kind = 'mirrored' AND acc.posted <> g.posted
        RETURNING acc.id, acc.user_id, acc.currency, acc.seq, acc.posted - old.posted AS amount, acc.posted, acc.held, acc.head,
                  old.head AS previous),
    written AS (
        INSERT INTO steelyard.change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after,
                                      posted_at, hash, previous_hash)
        SELECT p_tenant, m.id, m.seq, 'sync', m.amount, 0, m.posted, m.held, p_now, m.head, m.previous FROM moved m)
    SELECT p_tenant, m.id, m.user_id, m.currency, b.digits, m.seq, 'sync'::text, m.amount, 0::bigint, m.posted, m.held,
           NULL::bigint, NULL::bigint, p_now
      FROM moved m JOIN steelyard.book b ON b.tenant_id = p_tenant AND b.currency = m.currency ORDER BY m.id;
END $$;
