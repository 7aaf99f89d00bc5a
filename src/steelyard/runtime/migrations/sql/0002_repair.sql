-- Repair: what may be put right, and by whom.

-- Is what a book's account did after p_after, unit of work by unit of work, the sum of what was posted against it there?
CREATE FUNCTION steelyard.are_batches_backed(p_tenant text, p_account bigint, p_after bigint) RETURNS boolean
    LANGUAGE sql STABLE AS $$
SELECT NOT EXISTS (
    SELECT FROM steelyard.change c WHERE c.tenant_id = p_tenant AND c.account_id = p_account AND c.seq > p_after
     GROUP BY c.xid
    HAVING sum(c.amount) <> -(SELECT coalesce(sum(h.amount), 0) FROM steelyard.change h
                               WHERE h.xid = c.xid AND h.tenant_id = p_tenant AND h.contra_id = p_account))
$$;

-- Is the history of each of these accounts broken in a way of its own, whatever its transfers say?
CREATE FUNCTION steelyard.are_broken(p_tenant text, p_accounts bigint[]) RETURNS boolean
    LANGUAGE sql STABLE AS $$
SELECT bool_and(x.kind IS NULL OR num_nonnulls(x.gap_seq, x.step_seq, x.chain_seq, x.operation_seq, x.lost_seq) > 0
                OR coalesce(x.checkpoint_problem, 'damaged') <> 'damaged' OR x.seq > x.actual_seq AND x.head <> x.actual_head)
  FROM steelyard.examine_accounts(p_tenant, p_accounts, true) x
$$;

-- Effect: makes stored balances, totals, heads and holds of accounts what their changes say, where the history proves
-- itself: gapless, every step and hash right, every witness agreeing, and as long as the account knew it. An altered
-- change is brought back first, if that can be proved. Where the history is not proved the account is suspended
-- (chain_broken) and its numbers are left alone; that suspension never ends here. Audits each account it touched.
-- Locks: held accounts in id order, then the books' own; until the caller commits.
-- p_witnesses: examine all of them against keys and other sides too; otherwise only those that differ.
-- Returns one row per account touched; a sound account gives none. Repeating it is harmless.
CREATE FUNCTION steelyard.fix_accounts(
    p_now timestamptz, p_tenant text, p_accounts bigint[], p_witnesses boolean, p_actor text, p_actor_role text,
    p_request_id text
) RETURNS TABLE (account_id bigint, outcome text, user_id text, currency text, digits int, posted_before bigint,
                 held_before bigint, posted bigint, held bigint, seq bigint, restored int)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    e record; v_seq bigint; v_restored jsonb := '{}'; v_doubtful bigint[]; v_proved boolean; v_before jsonb; v_suspended text;
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    PERFORM 1 FROM (SELECT acc.id FROM steelyard.account acc
                     WHERE acc.tenant_id = p_tenant AND acc.id = ANY (p_accounts) AND acc.kind <> 'system'
                     ORDER BY acc.id FOR NO KEY UPDATE) l;
    PERFORM 1 FROM (SELECT acc.id FROM steelyard.account acc
                     WHERE acc.tenant_id = p_tenant AND acc.id = ANY (p_accounts) AND acc.kind = 'system'
                     ORDER BY acc.id FOR NO KEY UPDATE) l;
    FOR e IN SELECT x.account_id FROM steelyard.examine_accounts(p_tenant, p_accounts, false) x WHERE x.chain_seq IS NOT NULL LOOP
        FOREACH v_seq IN ARRAY coalesce(steelyard.list_unfit_changes(p_tenant, e.account_id, 20), '{}') LOOP
            IF steelyard.restore_change(p_tenant, e.account_id, v_seq) THEN
                v_restored := jsonb_set(v_restored, ARRAY[e.account_id::text],
                                        coalesce(v_restored -> e.account_id::text, '[]') || to_jsonb(v_seq));
            END IF;
        END LOOP;
    END LOOP;
    v_doubtful := p_accounts;
    IF NOT p_witnesses THEN
        SELECT array_agg(x.account_id) INTO v_doubtful FROM steelyard.examine_accounts(p_tenant, p_accounts, false) x
         WHERE v_restored ? x.account_id::text OR x.suspended = 'chain_broken' OR x.checkpoint_problem IS NOT NULL
            OR num_nonnulls(x.gap_seq, x.step_seq, x.chain_seq, x.hold_seq, x.lost_seq, x.transfer_seq) > 0
            OR (x.posted, x.held, x.seq, x.head, x.total_recharged, x.total_spent) IS DISTINCT FROM
               (x.actual_posted, x.actual_held, x.actual_seq, x.actual_head, x.actual_recharged, x.actual_spent)
            OR x.kind = 'held' AND (x.suspended IS NOT NULL) <> (x.posted - x.held < x.floor);
    END IF;
    FOR e IN SELECT x.* FROM steelyard.examine_accounts(p_tenant, coalesce(v_doubtful, '{}'), true) x LOOP
        CONTINUE WHEN e.kind IS NULL;             -- changes without an account: reported, nothing to repair
        v_proved := num_nonnulls(e.gap_seq, e.step_seq, e.chain_seq, e.operation_seq, e.lost_seq) = 0
            AND (e.transfer_seq IS NULL OR steelyard.are_broken(p_tenant, e.transfer_with))
            AND coalesce(e.checkpoint_problem, 'damaged') = 'damaged'
            AND (e.seq = e.actual_seq OR e.seq > e.actual_seq AND e.head = e.actual_head
                 OR e.seq < e.actual_seq AND (e.kind <> 'system' OR steelyard.are_batches_backed(p_tenant, e.account_id, e.seq)));
        v_before := jsonb_build_object('posted', e.posted, 'held', e.held, 'seq', e.seq, 'head', encode(e.head, 'hex'),
            'total_recharged', e.total_recharged, 'total_spent', e.total_spent, 'suspended', e.suspended);
        account_id := e.account_id; user_id := e.user_id; currency := e.currency; digits := e.digits;
        posted_before := e.posted; held_before := e.held; posted := e.posted; held := e.held; seq := e.seq;
        restored := coalesce(jsonb_array_length(v_restored -> e.account_id::text), 0);
        IF NOT v_proved THEN
            CONTINUE WHEN e.suspended IS NOT DISTINCT FROM 'chain_broken' AND restored = 0;
            UPDATE steelyard.account acc SET suspended = 'chain_broken', as_of = greatest(acc.as_of, p_now)
             WHERE acc.tenant_id = p_tenant AND acc.id = e.account_id;
            outcome := 'quarantined';
        ELSE
            v_suspended := CASE WHEN e.suspended = 'chain_broken' THEN e.suspended
                                WHEN e.kind = 'held' AND e.actual_posted - e.actual_held < e.floor THEN 'below_floor' END;
            CONTINUE WHEN restored = 0 AND e.hold_seq IS NULL AND e.checkpoint_problem IS NULL
                AND (e.posted, e.held, e.seq, e.head, e.total_recharged, e.total_spent, e.suspended) IS NOT DISTINCT FROM
                    (e.actual_posted, e.actual_held, e.actual_seq, e.actual_head, e.actual_recharged, e.actual_spent, v_suspended);
            UPDATE steelyard.account acc
               SET posted = e.actual_posted, held = e.actual_held, seq = e.actual_seq, head = e.actual_head,
                   total_recharged = e.actual_recharged, total_spent = e.actual_spent, suspended = v_suspended,
                   as_of = greatest(acc.as_of, p_now)
             WHERE acc.tenant_id = p_tenant AND acc.id = e.account_id;
            IF e.hold_seq IS NOT NULL THEN
                PERFORM steelyard.rebuild_holds(p_tenant, e.account_id);
            END IF;
            IF e.checkpoint_problem IS NOT NULL THEN
                PERFORM steelyard.write_checkpoint(p_now, p_tenant, e.account_id);
            END IF;
            outcome := 'fixed'; posted := e.actual_posted; held := e.actual_held; seq := e.actual_seq;
        END IF;
        INSERT INTO steelyard.audit (tenant_id, at, actor, actor_role, action, target, outcome, request_id, details)
        SELECT p_tenant, p_now, p_actor, p_actor_role, 'reconcile.fix', e.account_id::text, outcome, p_request_id,
               json_build_object('before', v_before, 'restored', coalesce(v_restored -> e.account_id::text, '[]'),
                   'gap', e.gap_seq, 'step', e.step_seq, 'chain', e.chain_seq, 'hold', e.hold_seq, 'operation', e.operation_seq,
                   'lost', e.lost_seq, 'transfer', e.transfer_seq, 'checkpoint', e.checkpoint_problem,
                   'after', jsonb_build_object('posted', acc.posted, 'held', acc.held, 'seq', acc.seq, 'head', encode(acc.head, 'hex'),
                   'total_recharged', acc.total_recharged, 'total_spent', acc.total_spent, 'suspended', acc.suspended))
          FROM steelyard.account acc WHERE acc.tenant_id = p_tenant AND acc.id = e.account_id;
        RETURN NEXT;
    END LOOP;
END $$;

-- Effect: holds of an account become what its changes say. Only for a history that is proved; called by fix_accounts.
-- When a hold that was lost expires is not in the changes: it stays open until captured or released.
CREATE FUNCTION steelyard.rebuild_holds(p_tenant text, p_account bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM steelyard.hold h WHERE h.tenant_id = p_tenant AND h.account_id = p_account AND NOT EXISTS (
        SELECT FROM steelyard.change c WHERE c.tenant_id = p_tenant AND c.account_id = p_account AND c.seq = h.seq AND c.kind = 'hold');
    INSERT INTO steelyard.hold AS h (tenant_id, account_id, seq, amount, captured, status)
    SELECT p_tenant, p_account, s.seq, s.held_amount, CASE f.kind WHEN 'capture' THEN -f.amount ELSE 0 END, steelyard.hold_status(f.kind)
      FROM steelyard.change s
      LEFT JOIN steelyard.change f ON f.tenant_id = p_tenant AND f.account_id = p_account AND f.target_seq = s.seq
            AND f.kind IN ('capture', 'release', 'expire')
     WHERE s.tenant_id = p_tenant AND s.account_id = p_account AND s.kind = 'hold'
    ON CONFLICT (tenant_id, account_id, seq) DO UPDATE
       SET amount = excluded.amount, captured = excluded.captured, status = excluded.status
     WHERE (h.amount, h.captured, h.status) <> (excluded.amount, excluded.captured, excluded.status);
END $$;

-- Effect: the account as it stands becomes its checkpoint. Only after a proof; called by fix_accounts.
CREATE FUNCTION steelyard.write_checkpoint(p_now timestamptz, p_tenant text, p_account bigint) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO steelyard.checkpoint (tenant_id, account_id, seq, posted, held, total_recharged, total_spent, hash, taken_at, seal)
    SELECT a.tenant_id, a.id, a.seq, a.posted, a.held, a.total_recharged, a.total_spent, a.head, p_now, steelyard.seal_checkpoint(
               a.tenant_id, a.id, a.seq, a.posted, a.held, a.total_recharged, a.total_spent, a.head)
      FROM steelyard.account a WHERE a.tenant_id = p_tenant AND a.id = p_account AND a.seq > 0
    ON CONFLICT (tenant_id, account_id) DO UPDATE
       SET seq = excluded.seq, posted = excluded.posted, held = excluded.held, total_recharged = excluded.total_recharged,
           total_spent = excluded.total_spent, hash = excluded.hash, taken_at = excluded.taken_at, seal = excluded.seal
$$;

-- Who may: the product examines, fixes and advances; a change is brought back, holds and checkpoints are rewritten by
-- fix_accounts alone. restore_change stays the table owner's: steelyard_ledger itself may not update a change.
DO $$
DECLARE v_function regprocedure;
BEGIN
    REVOKE ALL ON FUNCTION steelyard.restore_change(text, bigint, bigint) FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION steelyard.restore_change(text, bigint, bigint) TO steelyard_ledger;
    GRANT EXECUTE ON FUNCTION steelyard.fix_accounts(timestamptz, text, bigint[], boolean, text, text, text),
                              steelyard.advance_checkpoints(timestamptz, text, bigint[]) TO steelyard_app;
    FOR v_function IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'steelyard'::regnamespace
                         AND p.proname IN ('fix_accounts', 'advance_checkpoints', 'rebuild_holds', 'write_checkpoint') LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', v_function);
        EXECUTE format('ALTER FUNCTION %s OWNER TO steelyard_ledger', v_function);
    END LOOP;
END $$;
