-- Effect: proves what is new since each account's checkpoint (steps, chain, totals, holds, the checkpoint itself against
-- the change it names) and moves the checkpoint to the account's newest change, only where all of it is equal.
-- Takes no locks on accounts. Returns the accounts it could not prove. Cost: the new changes, whatever the history.
CREATE OR REPLACE FUNCTION steelyard.advance_checkpoints(p_now timestamptz, p_tenant text, p_accounts bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE v_unproved bigint[];
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    WITH judged AS MATERIALIZED (
        SELECT a.*, coalesce(
            (cp.seq IS NULL OR cp.seal = steelyard.seal_checkpoint(p_tenant, a.id, cp.seq, cp.posted, cp.held, cp.total_recharged,
                                                                   cp.total_spent, cp.hash)
                AND (mark.hash, mark.balance_after, mark.held_after) = (cp.hash, cp.posted, cp.held))
            AND k.is_sound AND newest.hash = a.head AND a.seq = greatest(k.last_seq, cp.seq)
            AND (a.posted, a.held, a.total_recharged, a.total_spent) =
                (coalesce(cp.posted, 0) + k.posted, coalesce(cp.held, 0) + k.held, coalesce(cp.total_recharged, 0) + k.recharged,
                 coalesce(cp.total_spent, 0) + k.spent), false) AS is_proved
          FROM (SELECT DISTINCT u.id FROM unnest(p_accounts) AS u (id)) w
          JOIN steelyard.account a ON a.tenant_id = p_tenant AND a.id = w.id
          LEFT JOIN steelyard.checkpoint cp ON cp.tenant_id = p_tenant AND cp.account_id = a.id
          LEFT JOIN steelyard.change mark ON mark.tenant_id = p_tenant AND mark.account_id = a.id AND mark.seq = cp.seq
          LEFT JOIN steelyard.change newest ON newest.tenant_id = p_tenant AND newest.account_id = a.id AND newest.seq = a.seq
         CROSS JOIN LATERAL (
            SELECT coalesce(max(c.seq), 0) AS last_seq, coalesce(sum(c.amount), 0) AS posted, coalesce(sum(c.held_amount), 0) AS held,
                   coalesce(sum(c.amount) FILTER (WHERE steelyard.adds_to_recharged(c.kind, c.target_kind)), 0) AS recharged,
                   coalesce(-sum(c.amount) FILTER (WHERE steelyard.takes_from_spent(c.kind, c.target_kind)), 0) AS spent,
                   coalesce(bool_and(
                       c.seq - 1 = coalesce(c.before_seq, cp.seq, 0)
                       AND c.balance_after = coalesce(c.before_balance, cp.posted, 0)::numeric + c.amount
                       AND c.held_after = coalesce(c.before_held, cp.held, 0)::numeric + c.held_amount
                       AND c.previous_hash = coalesce(c.before_hash, cp.hash, decode(repeat('00', 32), 'hex'))
                       AND c.hash = steelyard.chain_hash(
                           coalesce(c.before_hash, cp.hash, decode(repeat('00', 32), 'hex')), c.tenant_id, c.account_id, c.seq, c.kind,
                           c.amount, c.held_amount, c.balance_after, c.held_after, c.contra_id, c.contra_seq, c.target_seq,
                           c.posted_at, c.details::text)
                       AND CASE WHEN c.kind = 'hold' THEN c.hold_amount IS NOT DISTINCT FROM c.held_amount
                                WHEN c.kind IN ('capture', 'release', 'expire')
                                THEN (c.hold_amount, c.hold_status, c.captured) IS NOT DISTINCT FROM (-c.held_amount,
                                     steelyard.hold_status(c.kind), CASE c.kind WHEN 'capture' THEN -c.amount ELSE 0 END)
                                ELSE true END), true) AS is_sound
              FROM (SELECT ch.*, t.kind AS target_kind, h.amount AS hold_amount, h.status AS hold_status, h.captured,
                           lag(ch.seq) OVER o AS before_seq, lag(ch.balance_after) OVER o AS before_balance,
                           lag(ch.held_after) OVER o AS before_held, lag(ch.hash) OVER o AS before_hash
                      FROM steelyard.change ch
                      LEFT JOIN steelyard.change t ON t.tenant_id = p_tenant AND t.account_id = a.id AND t.seq = ch.target_seq
                      LEFT JOIN steelyard.hold h ON ch.held_amount <> 0 AND h.tenant_id = p_tenant AND h.account_id = a.id
                            AND h.seq = CASE WHEN ch.kind = 'hold' THEN ch.seq ELSE ch.target_seq END
                     WHERE ch.tenant_id = p_tenant AND ch.account_id = a.id AND ch.seq > coalesce(cp.seq, 0)
                    WINDOW o AS (ORDER BY ch.seq)) c) k),
    advanced AS (
        INSERT INTO steelyard.checkpoint AS cp (tenant_id, account_id, seq, posted, held, total_recharged, total_spent, hash,
                                                taken_at, seal)
        SELECT j.tenant_id, j.id, j.seq, j.posted, j.held, j.total_recharged, j.total_spent, j.head, p_now,
               steelyard.seal_checkpoint(j.tenant_id, j.id, j.seq, j.posted, j.held, j.total_recharged, j.total_spent, j.head)
          FROM judged j WHERE j.is_proved AND j.seq > 0 ORDER BY j.id
        ON CONFLICT (tenant_id, account_id) DO UPDATE
           SET seq = excluded.seq, posted = excluded.posted, held = excluded.held, total_recharged = excluded.total_recharged,
               total_spent = excluded.total_spent, hash = excluded.hash, taken_at = excluded.taken_at, seal = excluded.seal
         WHERE cp.seq < excluded.seq)
    SELECT array_agg(j.id ORDER BY j.id) INTO v_unproved FROM judged j WHERE NOT j.is_proved;
    RETURN coalesce(v_unproved, '{}');
END $$;
