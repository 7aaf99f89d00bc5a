-- Effect: decides every request in the order given and writes all accepted ones in one step.
-- Locks: the accounts in id order, then the books' own accounts in id order; until the caller commits.
-- Arrays are of one length; p_counter, p_target, p_expires_at, p_details may hold NULLs; NULL instead of one of
-- p_counter, p_target, p_expires_at, p_forced, p_details says that no request has any.
-- r_outcome: posted | replayed | or a refusal, whose balance_after and held_after are the standing as it is.
-- r_account, r_counter_account: positions in r_user_id, r_currency and r_floor, which have one element per account locked.
-- r_posted_at: of a replayed outcome; what was posted now was posted at p_now.
-- p_own_transaction: the caller goes on in the same transaction; the books' accounts are then locked at its commit only.
-- p_keys_repeat: false says that no key stands twice in the batch; if one does, unique_violation is raised.
-- A key met by another process at the same moment raises unique_violation or deadlock_detected: nothing was
-- written, call again.
CREATE OR REPLACE FUNCTION steelyard.post_batch(
    p_now timestamptz, p_tenant text[], p_key text[], p_body_hash bytea[], p_kind text[], p_account bigint[],
    p_counter bigint[], p_amount bigint[], p_target bigint[], p_expires_at timestamptz[], p_forced boolean[],
    p_details text[], p_own_transaction boolean DEFAULT false, p_keys_repeat boolean DEFAULT true,
    OUT r_outcome text[], OUT r_seq bigint[], OUT r_amount bigint[], OUT r_held_amount bigint[],
    OUT r_balance_after bigint[], OUT r_held_after bigint[], OUT r_posted_at timestamptz[],
    OUT r_counter bigint[], OUT r_counter_seq bigint[], OUT r_counter_balance_after bigint[],
    OUT r_counter_held_after bigint[], OUT r_account int[], OUT r_counter_account int[],
    OUT r_user_id text[], OUT r_currency text[], OUT r_floor bigint[]
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
   
    SET plan_cache_mode = force_generic_plan  -- plans made while tables are empty must stay index lookups
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    c_limit CONSTANT bigint := 9007199254740991;  -- 2^53 - 1, the largest integer every JSON client reads exactly
    n int := cardinality(p_key);
    v_first int[]; v_accepted int[];              -- where keys repeat: the first request with the same key; the accepted one
    -- accounts, by position
    v_id bigint[]; v_tenant text[]; v_posted bigint[]; v_held bigint[]; v_seq bigint[]; v_head bytea[]; v_recharged bigint[]; v_spent bigint[]; v_suspended text[];
    v_funding bigint[]; v_revenue bigint[]; v_adjustment bigint[];
    v_known bigint[];                             -- seq before this batch: an order can name only what was committed
    -- rows to insert beside the r_ arrays; second sides of transfers
    w_hash bytea[]; w_previous bytea[]; w_contra bigint[]; w_contra_seq bigint[];
    k int := 0; k_request int[] := '{}'; k_hash bytea[] := '{}'; k_previous bytea[] := '{}';
    -- contra totals
    g_id bigint[] := '{}'; g_tenant text[] := '{}'; g_delta bigint[] := '{}'; g_count bigint[] := '{}'; g int := 0;
    g_posted bigint[]; g_seq bigint[]; g_head bytea[]; g_previous bytea[];
    v_reversals int[] := '{}';
    -- the request at hand
    i int; j int; a int; b int; x int; v_refusal text; v_kind text; v_amount bigint; v_contra bigint;
    d_posted bigint; d_held bigint; d_recharged bigint; d_spent bigint; v_target bigint;
    v_guarded boolean; v_may_fall_below boolean; v_found record; v_target_kind text; v_step bigint; v_available bigint;
BEGIN
    p_counter := coalesce(p_counter, array_fill(NULL::bigint, ARRAY[n]));   -- most batches have none of these
    p_target := coalesce(p_target, array_fill(NULL::bigint, ARRAY[n]));
    p_expires_at := coalesce(p_expires_at, array_fill(NULL::timestamptz, ARRAY[n]));
    p_forced := coalesce(p_forced, array_fill(false, ARRAY[n]));
    p_details := coalesce(p_details, array_fill(NULL::text, ARRAY[n]));
    IF n IS NULL OR n = 0 OR n > 1024 OR n <> ALL (ARRAY[cardinality(p_tenant), cardinality(p_body_hash),
            cardinality(p_kind), cardinality(p_account), cardinality(p_counter), cardinality(p_amount),
            cardinality(p_target), cardinality(p_expires_at), cardinality(p_forced), cardinality(p_details)]) THEN
        RAISE EXCEPTION 'post_batch takes 1 to 1024 requests in arrays of one length' USING ERRCODE = 'SY002';
    END IF;
    -- A caller's own transaction goes on as this tenant; this function itself sees every tenant's rows.
    p_tenant[1] := set_config('steelyard.tenant', p_tenant[1], true);
    r_outcome := array_fill(NULL::text, ARRAY[n]);        r_seq := array_fill(NULL::bigint, ARRAY[n]);
    r_amount := r_seq; r_balance_after := r_seq; r_held_after := r_seq; r_counter_seq := r_seq;
    r_counter_balance_after := r_seq; r_counter_held_after := r_seq; w_contra := r_seq; w_contra_seq := r_seq;
    r_held_amount := array_fill(0::bigint, ARRAY[n]); r_posted_at := array_fill(NULL::timestamptz, ARRAY[n]);
    r_account := array_fill(NULL::int, ARRAY[n]); r_counter_account := r_account;
    w_hash := array_fill(NULL::bytea, ARRAY[n]); w_previous := w_hash;

    -- A reversed transfer concerns the account that received it; changes never change, so no lock is needed to look.
    r_counter := p_counter;
    IF 'reversal' = ANY (p_kind) THEN
        FOR v_found IN
            SELECT u.i, c.contra_id FROM unnest(p_tenant, p_kind, p_account, p_target)
                   WITH ORDINALITY AS u (tenant, kind, account, target, i)
              JOIN steelyard.change c ON c.tenant_id = u.tenant AND c.account_id = u.account AND c.seq = u.target
             WHERE u.kind = 'reversal' AND c.kind = 'transfer' AND c.amount < 0
        LOOP
            r_counter[v_found.i] := v_found.contra_id;
        END LOOP;
    END IF;

    IF n > 1 AND p_keys_repeat THEN
        SELECT array_agg(s.first ORDER BY s.i) INTO v_first
          FROM (SELECT u.i, min(u.i) OVER (PARTITION BY u.tenant, u.key) AS first
                  FROM unnest(p_tenant, p_key) WITH ORDINALITY AS u (tenant, key, i)) s;
        v_accepted := array_fill(0, ARRAY[n]);
    END IF;

    -- 1. Lock, in id order. The rows come back as they are once the lock is held.
    SELECT array_agg(l.id), array_agg(l.tenant_id), array_agg(l.user_id), array_agg(l.currency), array_agg(l.posted),
           array_agg(l.held), array_agg(l.floor), array_agg(l.seq), array_agg(l.head), array_agg(l.total_recharged),
           array_agg(l.total_spent), array_agg(l.suspended), array_agg(l.funding_id), array_agg(l.revenue_id),
           array_agg(l.adjustment_id)
      INTO v_id, v_tenant, r_user_id, r_currency, v_posted, v_held, r_floor, v_seq, v_head, v_recharged, v_spent,
           v_suspended, v_funding, v_revenue, v_adjustment
      FROM (SELECT acc.*, bk.funding_id, bk.revenue_id, bk.adjustment_id
              FROM (SELECT DISTINCT u.tenant, u.id FROM unnest(p_tenant || p_tenant, p_account || r_counter)
                           AS u (tenant, id) WHERE u.id IS NOT NULL) wanted
              JOIN steelyard.account acc ON acc.tenant_id = wanted.tenant AND acc.id = wanted.id AND acc.kind = 'held'
              JOIN steelyard.book bk ON bk.tenant_id = acc.tenant_id AND bk.currency = acc.currency
             ORDER BY acc.id FOR NO KEY UPDATE OF acc) l;
    v_id := coalesce(v_id, '{}'); v_known := v_seq;

    -- 2. Keys used before, seen only now: whoever used one on these accounts has committed by now.
    IF EXISTS (SELECT FROM unnest(p_tenant, p_key) AS u (tenant, key)
                 JOIN steelyard.operation o ON (o.tenant_id, o.key) = (u.tenant, u.key)) THEN
        FOR v_found IN
            SELECT u.i, o.body_hash, o.account_id, c.seq, c.amount, c.held_amount, c.balance_after, c.held_after,
                   c.posted_at, c.contra_id, c.contra_seq
              FROM unnest(p_tenant, p_key) WITH ORDINALITY AS u (tenant, key, i)
              JOIN steelyard.operation o ON o.tenant_id = u.tenant AND o.key = u.key
              JOIN steelyard.change c ON c.tenant_id = o.tenant_id AND c.account_id = o.account_id AND c.seq = o.seq
        LOOP
            i := v_found.i;
            IF v_found.body_hash <> p_body_hash[i] THEN
                r_outcome[i] := 'idempotency_conflict';
            ELSE
                r_outcome[i] := 'replayed';  r_seq[i] := v_found.seq;  r_amount[i] := v_found.amount;
                r_held_amount[i] := v_found.held_amount;  r_balance_after[i] := v_found.balance_after;
                r_held_after[i] := v_found.held_after;  r_posted_at[i] := v_found.posted_at;
                a := width_bucket(p_account[i], v_id);
                IF v_id[a] = p_account[i] THEN r_account[i] := a; END IF;
                r_counter_seq[i] := v_found.contra_seq;
            END IF;
        END LOOP;
    END IF;

    -- 3. Decide, in arrival order.
    FOR i IN 1..n LOOP
        CONTINUE WHEN r_outcome[i] IS NOT NULL;
        IF v_first IS NOT NULL AND v_accepted[v_first[i]] > 0 THEN   -- the same key, accepted earlier in this batch
            j := v_accepted[v_first[i]];
            IF p_body_hash[i] <> p_body_hash[j] THEN
                r_outcome[i] := 'idempotency_conflict';
            ELSE
                r_outcome[i] := 'replayed'; r_seq[i] := r_seq[j]; r_amount[i] := r_amount[j];
                r_held_amount[i] := r_held_amount[j]; r_balance_after[i] := r_balance_after[j];
                r_held_after[i] := r_held_after[j]; r_posted_at[i] := p_now; r_account[i] := r_account[j];
                r_counter[i] := r_counter[j]; r_counter_seq[i] := r_counter_seq[j];
            END IF;
            CONTINUE;
        END IF;

        a := width_bucket(p_account[i], v_id);    -- binary search: v_id is sorted
        IF (v_id[a] = p_account[i] AND v_tenant[a] = p_tenant[i]) IS NOT TRUE THEN
            r_outcome[i] := 'account_not_found';
            CONTINUE;
        END IF;
        r_account[i] := a; v_kind := p_kind[i]; v_amount := p_amount[i]; v_target := p_target[i];
        v_refusal := NULL; v_target_kind := NULL; v_contra := NULL; b := 0;
        d_posted := 0; d_held := 0; d_recharged := 0; d_spent := 0; v_guarded := false; v_may_fall_below := false;

        -- 3a. What would it move?
        IF (CASE WHEN v_amount IS NULL THEN v_kind NOT IN ('capture', 'release', 'expire', 'reversal')
                ELSE v_amount NOT BETWEEN 1 AND c_limit
                     AND NOT (v_kind = 'adjustment' AND v_amount BETWEEN -c_limit AND -1) END) THEN
            v_refusal := 'amount_invalid';
        ELSIF v_kind = 'charge' OR v_kind = 'booking' THEN
            d_posted := -v_amount; d_spent := v_amount; v_contra := v_revenue[a]; v_guarded := true;
        ELSIF v_kind = 'recharge' OR v_kind = 'topup' THEN
            d_posted := v_amount; d_recharged := v_amount; v_contra := v_funding[a];
        ELSIF v_kind = 'hold' THEN
            d_held := v_amount; v_guarded := true;
        ELSIF v_kind = 'transfer' THEN
            d_posted := -v_amount; v_guarded := true;
        ELSIF v_kind = 'adjustment' THEN
            d_posted := v_amount; v_contra := v_adjustment[a]; v_may_fall_below := true;
        ELSIF v_kind = 'refund' AND v_target IS NULL THEN
            d_posted := v_amount; d_spent := -v_amount; v_contra := v_revenue[a];
        ELSIF v_kind IN ('capture', 'release', 'expire') THEN
            SELECT h.amount, h.status, h.expires_at INTO v_found FROM steelyard.hold h
             WHERE h.tenant_id = p_tenant[i] AND h.account_id = p_account[i] AND h.seq = v_target;
            IF NOT FOUND OR v_target > v_known[a] THEN v_refusal := 'hold_not_found';
            ELSIF v_found.status <> 'open' THEN v_refusal := 'hold_not_open';
            ELSIF v_kind = 'expire' AND (v_found.expires_at IS NULL OR v_found.expires_at > p_now) THEN
                v_refusal := 'hold_not_due';
            ELSE
                d_held := -v_found.amount;
                IF v_kind = 'capture' THEN
                    v_amount := coalesce(v_amount, v_found.amount);
                    IF v_amount > v_found.amount THEN v_refusal := 'capture_exceeds_hold'; END IF;
                    d_posted := -v_amount; d_spent := v_amount; v_contra := v_revenue[a];
                END IF;
            END IF;
        ELSIF v_kind = 'refund' OR v_kind = 'reversal' THEN
            SELECT * INTO v_found FROM steelyard.find_reversible(p_tenant[i], p_account[i], v_target);
            v_step := v_found.r_left; v_target_kind := v_found.r_kind;
            FOREACH j IN ARRAY v_reversals LOOP   -- earlier in this batch
                IF p_account[j] = p_account[i] AND p_target[j] = v_target THEN v_step := v_step - abs(r_amount[j]); END IF;
            END LOOP;
            IF v_target_kind IS NULL THEN v_refusal := 'transaction_not_found';
            ELSIF NOT (v_target_kind IN ('charge', 'booking', 'capture')
                       OR v_kind = 'reversal' AND (v_target_kind IN ('recharge', 'topup', 'adjustment')
                                                   OR v_target_kind = 'transfer' AND v_found.r_amount < 0)) THEN
                v_refusal := 'not_reversible';
            ELSIF v_step <= 0 THEN v_refusal := 'already_reversed';
            ELSIF v_amount > v_step THEN v_refusal := 'reversal_exceeds_transaction';
            ELSE
                v_amount := coalesce(v_amount, v_step);
                d_posted := CASE WHEN v_found.r_amount < 0 THEN v_amount ELSE -v_amount END;
                v_contra := v_found.r_contra; v_may_fall_below := p_forced[i];
                IF v_target_kind IN ('charge', 'booking', 'capture') THEN d_spent := -v_amount;
                ELSIF v_target_kind IN ('recharge', 'topup') THEN d_recharged := -v_amount;
                END IF;
            END IF;
        ELSE
            v_refusal := 'kind_unknown';
        END IF;

        -- 3b. The other account of a transfer.
        IF v_refusal IS NULL AND (v_kind = 'transfer' OR v_target_kind = 'transfer') THEN
            v_contra := r_counter[i];
            b := width_bucket(v_contra, v_id);
            IF coalesce(b, 0) = 0 OR v_id[b] <> v_contra OR v_tenant[b] <> p_tenant[i] THEN
                v_refusal := 'counter_account_not_found';
            ELSIF b = a THEN v_refusal := 'same_account';
            ELSIF r_currency[b] <> r_currency[a] THEN v_refusal := 'currency_mismatch';
            ELSIF v_posted[b] - d_posted NOT BETWEEN -c_limit AND c_limit THEN v_refusal := 'balance_limit';
            ELSIF d_posted > 0 AND NOT v_may_fall_below AND v_posted[b] - v_held[b] - d_posted < r_floor[b] THEN
                v_refusal := 'counter_insufficient_funds';
            END IF;
        END IF;

        -- 3c. May it? This is the line that no overdraft passes.
        v_available := v_posted[a] + d_posted - v_held[a] - d_held;
        IF v_refusal IS NOT NULL THEN
            NULL;
        ELSIF v_guarded AND v_suspended[a] IS NOT NULL THEN
            v_refusal := 'account_suspended';
        ELSIF d_posted - d_held < 0 AND NOT v_may_fall_below AND v_available < r_floor[a] THEN
            v_refusal := 'insufficient_funds';
        ELSIF v_posted[a] + d_posted NOT BETWEEN -c_limit AND c_limit THEN
            v_refusal := 'balance_limit';
        END IF;
        IF v_refusal IS NOT NULL THEN
            x := CASE v_refusal WHEN 'counter_insufficient_funds' THEN b ELSE a END;
            r_outcome[i] := v_refusal; r_balance_after[i] := v_posted[x]; r_held_after[i] := v_held[x];
            r_account[i] := x;
            CONTINUE;
        END IF;

        -- 3d. Accepted: the next step of each account it touches, linked to the step before.
        IF v_first IS NOT NULL THEN v_accepted[v_first[i]] := i; END IF;
        r_outcome[i] := 'posted'; r_amount[i] := d_posted; w_contra[i] := v_contra;
        v_step := v_seq[a] + 1; v_seq[a] := v_step; r_seq[i] := v_step;
        IF b > 0 THEN w_contra_seq[i] := v_seq[b] + 1; END IF;
        IF d_held <> 0 THEN v_held[a] := v_held[a] + d_held; r_held_amount[i] := d_held; END IF;
        IF d_spent <> 0 THEN v_spent[a] := v_spent[a] + d_spent; END IF;
        IF d_recharged <> 0 THEN v_recharged[a] := v_recharged[a] + d_recharged; END IF;
        v_posted[a] := v_posted[a] + d_posted;
        r_balance_after[i] := v_posted[a]; r_held_after[i] := v_held[a];
        IF v_available < r_floor[a] OR v_suspended[a] IS NOT NULL THEN
            v_suspended[a] := steelyard.suspension_after(v_suspended[a], v_available, r_floor[a]);
        END IF;
        w_previous[i] := v_head[a];
        v_head[a] := steelyard.chain_hash(
            v_head[a], p_tenant[i], p_account[i], v_step, v_kind, d_posted, d_held, v_posted[a], v_held[a],
            v_contra, w_contra_seq[i], v_target, p_now, p_details[i]);
        w_hash[i] := v_head[a];
        IF b > 0 THEN                             -- the other account of a transfer, the other way
            v_posted[b] := v_posted[b] - d_posted; v_seq[b] := v_seq[b] + 1;
            v_suspended[b] := steelyard.suspension_after(v_suspended[b], v_posted[b] - v_held[b], r_floor[b]);
            k_previous[k + 1] := v_head[b];
            v_head[b] := steelyard.chain_hash(
                v_head[b], p_tenant[i], v_contra, v_seq[b], v_kind, -d_posted, 0, v_posted[b], v_held[b],
                p_account[i], v_step, NULL, p_now, p_details[i]);
            r_counter_account[i] := b; r_counter_seq[i] := v_seq[b];
            r_counter_balance_after[i] := v_posted[b]; r_counter_held_after[i] := v_held[b];
            k := k + 1; k_request[k] := i; k_hash[k] := v_head[b];
        END IF;
        IF b = 0 AND d_posted <> 0 THEN           -- the books' side, summed over the batch
            IF g = 0 OR g_id[g] <> v_contra THEN
                g := array_position(g_id, v_contra);
                IF g IS NULL THEN
                    g := cardinality(g_id) + 1;
                    g_id[g] := v_contra; g_tenant[g] := p_tenant[i]; g_delta[g] := 0; g_count[g] := 0;
                END IF;
            END IF;
            g_delta[g] := g_delta[g] - d_posted; g_count[g] := g_count[g] + 1;
        END IF;
        IF v_kind = 'hold' THEN
            INSERT INTO steelyard.hold (tenant_id, account_id, seq, amount, expires_at)
            VALUES (p_tenant[i], p_account[i], r_seq[i], v_amount, p_expires_at[i]);
        ELSIF v_kind IN ('capture', 'release', 'expire') THEN
            UPDATE steelyard.hold h
               SET status = CASE v_kind WHEN 'capture' THEN 'captured' WHEN 'release' THEN 'released' ELSE 'expired' END,
                   captured = CASE v_kind WHEN 'capture' THEN v_amount ELSE 0 END
             WHERE h.tenant_id = p_tenant[i] AND h.account_id = p_account[i] AND h.seq = v_target;
        ELSIF v_kind = 'refund' OR v_kind = 'reversal' THEN
            v_reversals := v_reversals || i;
        END IF;
    END LOOP;
    IF NOT 'posted' = ANY (r_outcome) THEN RETURN; END IF;

    -- 4. Write: keys, the books' side, the changes, the balances.
    INSERT INTO steelyard.operation (tenant_id, key, body_hash, account_id, seq)
    SELECT u.tenant, u.key, u.body_hash, u.account, u.seq
      FROM unnest(p_tenant, p_key, p_body_hash, p_account, r_seq, r_outcome) AS u (tenant, key, body_hash, account, seq, outcome)
     WHERE u.outcome = 'posted' ORDER BY u.tenant, u.key;

    -- The books' accounts are everybody's: locked last, in id order. Each makes one step for the whole batch.
    IF cardinality(g_id) > 0 AND p_own_transaction THEN
        INSERT INTO steelyard.contra_pending (tenant_id, account_id, delta, postings, posted_at)
        SELECT u.tenant, u.id, u.delta, u.count, p_now FROM unnest(g_tenant, g_id, g_delta, g_count) AS u (tenant, id, delta, count);
        g_id := '{}'; g_tenant := '{}'; g_delta := '{}'; g_count := '{}';
    ELSIF cardinality(g_id) > 0 THEN
        SELECT array_agg(m.id), array_agg(m.tenant), array_agg(m.delta), array_agg(m.count), array_agg(m.posted + m.delta),
               array_agg(m.seq + 1),
               array_agg(steelyard.chain_hash(m.head, m.tenant, m.id, m.seq + 1, 'batch', m.delta, 0, m.posted + m.delta,
                                              0, NULL, NULL, NULL, p_now, '{"postings":' || m.count || '}')),
               array_agg(m.head)
          INTO g_id, g_tenant, g_delta, g_count, g_posted, g_seq, g_head, g_previous
          FROM (SELECT u.*, acc.posted, acc.seq, acc.head
                  FROM unnest(g_tenant, g_id, g_delta, g_count) AS u (tenant, id, delta, count)
                  JOIN steelyard.account acc ON acc.tenant_id = u.tenant AND acc.id = u.id
                 WHERE u.delta <> 0 ORDER BY acc.id FOR NO KEY UPDATE OF acc) m;
    END IF;

    INSERT INTO steelyard.change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after,
                                  contra_id, contra_seq, target_seq, posted_at, details, hash, previous_hash)
    SELECT u.tenant, u.account, u.seq, u.kind, u.amount, u.held_amount, u.balance_after, u.held_after,
           u.contra, u.contra_seq, u.target, p_now, u.details::json, u.hash, u.previous
      FROM unnest(p_tenant, p_account, r_seq, p_kind, r_amount, r_held_amount, r_balance_after, r_held_after,
                  w_contra, w_contra_seq, p_target, p_details, w_hash, w_previous, r_outcome)
           AS u (tenant, account, seq, kind, amount, held_amount, balance_after, held_after,
                 contra, contra_seq, target, details, hash, previous, outcome)
     WHERE u.outcome = 'posted'
    UNION ALL
    SELECT u.tenant, u.id, u.seq, 'batch', u.delta, 0, u.posted, 0, NULL, NULL, NULL, p_now,
           ('{"postings":' || u.count || '}')::json, u.head, u.previous
      FROM unnest(g_tenant, g_id, g_seq, g_delta, g_posted, g_count, g_head, g_previous)
           AS u (tenant, id, seq, delta, posted, count, head, previous);
    IF k > 0 THEN
        INSERT INTO steelyard.change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after,
                                      contra_id, contra_seq, posted_at, details, hash, previous_hash)
        SELECT p_tenant[u.i], r_counter[u.i], r_counter_seq[u.i], p_kind[u.i], -r_amount[u.i], 0,
               r_counter_balance_after[u.i], r_counter_held_after[u.i], p_account[u.i], r_seq[u.i], p_now,
               p_details[u.i]::json, u.hash, u.previous
          FROM unnest(k_request, k_hash, k_previous) AS u (i, hash, previous);
    END IF;

    UPDATE steelyard.account acc
       SET posted = u.posted, held = u.held, seq = u.seq, head = u.head, total_recharged = u.recharged,
           total_spent = u.spent, suspended = u.suspended, as_of = greatest(acc.as_of, p_now)
      FROM (SELECT * FROM unnest(v_tenant, v_id, v_posted, v_held, v_seq, v_head, v_recharged, v_spent, v_suspended)
            UNION ALL    -- the books' accounts hold nothing, and no totals
            SELECT b.tenant, b.id, b.posted, 0, b.seq, b.head, 0, 0, NULL
              FROM unnest(g_tenant, g_id, g_posted, g_seq, g_head) AS b (tenant, id, posted, seq, head))
           AS u (tenant, id, posted, held, seq, head, recharged, spent, suspended)
     WHERE acc.tenant_id = u.tenant AND acc.id = u.id AND acc.seq <> u.seq;
END $$;
