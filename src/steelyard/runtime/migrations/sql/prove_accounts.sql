-- Run again by each revision that changes what is proved; columns of a later revision are not there the first time.
SET LOCAL check_function_bodies = off;

-- Everything a proof needs to know of a few accounts: what is stored, what the changes say, and the first place
-- where a rule does not hold. One statement, so one moment; numbers of tampered rows may be of any size, hence numeric.
-- p_witnesses: also read what others say of these accounts, requests by their keys and transfers by their other
-- side; costs a pass over the tenant's keys and changes.
CREATE OR REPLACE FUNCTION steelyard.examine_accounts(p_tenant text, p_accounts bigint[], p_witnesses boolean)
    RETURNS TABLE (account_id bigint, user_id text, kind text, currency text, digits int,
                   posted bigint, held bigint, seq bigint, head bytea, total_recharged bigint, total_spent bigint,
                   floor bigint, suspended text,
                   actual_posted numeric, actual_held numeric, actual_seq bigint, actual_head bytea,
                   actual_recharged numeric, actual_spent numeric,
                   gap_seq bigint, step_seq bigint, chain_seq bigint, hold_seq bigint, operation_seq bigint,
                   lost_seq bigint, transfer_seq bigint, transfer_with bigint[], checkpoint_seq bigint, checkpoint_problem text)
    LANGUAGE sql STABLE AS $$
WITH wanted AS MATERIALIZED (SELECT DISTINCT u.id FROM unnest(p_accounts) AS u (id)),
walk AS MATERIALIZED (
    SELECT w.id, s.* FROM wanted w CROSS JOIN LATERAL (
        SELECT coalesce(max(c.seq), 0) AS last_seq, coalesce(sum(c.amount), 0) AS posted, coalesce(sum(c.held_amount), 0) AS held,
               coalesce(sum(c.amount) FILTER (WHERE steelyard.adds_to_recharged(c.kind, c.target_kind)), 0) AS recharged,
               coalesce(-sum(c.amount) FILTER (WHERE steelyard.takes_from_spent(c.kind, c.target_kind)), 0) AS spent,
               min(c.seq) FILTER (WHERE c.seq - 1 <> c.before_seq) AS gap_seq,
               min(c.seq) FILTER (WHERE c.balance_after <> c.before_balance::numeric + c.amount
                                     OR c.held_after <> c.before_held::numeric + c.held_amount) AS step_seq,
               min(c.seq) FILTER (WHERE c.previous_hash IS DISTINCT FROM c.before_hash OR c.hash IS DISTINCT FROM steelyard.chain_hash(
                   c.before_hash, c.tenant_id, c.account_id, c.seq, c.kind, c.amount, c.held_amount, c.balance_after,
                   c.held_after, c.contra_id, c.contra_seq, c.target_seq, c.posted_at, c.details::text)) AS chain_seq
          FROM (SELECT ch.*, t.kind AS target_kind, lag(ch.seq, 1, 0::bigint) OVER o AS before_seq,
                       lag(ch.balance_after, 1, 0::bigint) OVER o AS before_balance,
                       lag(ch.held_after, 1, 0::bigint) OVER o AS before_held,
                       lag(ch.hash, 1, decode(repeat('00', 32), 'hex')) OVER o AS before_hash
                  FROM steelyard.change ch
                  LEFT JOIN steelyard.change t ON t.tenant_id = p_tenant AND t.account_id = w.id AND t.seq = ch.target_seq
                 WHERE ch.tenant_id = p_tenant AND ch.account_id = w.id WINDOW o AS (ORDER BY ch.seq)) c) s),
-- Holds: one row per change that set money aside, in the state the change that ended it left.
holds AS MATERIALIZED (
    SELECT coalesce(e.account_id, h.account_id) AS id, min(coalesce(e.seq, h.seq)) AS hold_seq
      FROM (SELECT s.account_id, s.seq, s.held_amount AS amount, steelyard.hold_status(f.kind) AS status,
                   CASE f.kind WHEN 'capture' THEN -f.amount ELSE 0 END AS captured
              FROM wanted w JOIN steelyard.change s ON s.tenant_id = p_tenant AND s.account_id = w.id AND s.kind = 'hold'
              LEFT JOIN steelyard.change f ON f.tenant_id = p_tenant AND f.account_id = s.account_id
                    AND f.target_seq = s.seq AND f.kind IN ('capture', 'release', 'expire')) e
      FULL JOIN (SELECT hd.account_id, hd.seq, hd.amount, hd.status, hd.captured FROM wanted w
                   JOIN steelyard.hold hd ON hd.tenant_id = p_tenant AND hd.account_id = w.id) h
        ON h.account_id = e.account_id AND h.seq = e.seq
     WHERE (e.amount, e.status, e.captured) IS DISTINCT FROM (h.amount, h.status, h.captured)
     GROUP BY 1),
-- Operations: each names a change that is there, each change that answers a request is named once.
operations AS MATERIALIZED (
    SELECT coalesce(o.account_id, c.account_id) AS id, min(coalesce(o.seq, c.seq)) AS operation_seq
      FROM (SELECT op.account_id, op.seq, count(*) AS times FROM steelyard.operation op
             WHERE p_witnesses AND op.tenant_id = p_tenant AND op.account_id IN (SELECT w.id FROM wanted w) GROUP BY 1, 2) o
      FULL JOIN (SELECT ch.account_id, ch.seq FROM wanted w
                   JOIN steelyard.change ch ON ch.tenant_id = p_tenant AND ch.account_id = w.id
                  WHERE p_witnesses AND steelyard.has_operation(ch.kind, ch.amount, ch.target_seq, ch.contra_seq)) c
        ON c.account_id = o.account_id AND c.seq = o.seq
     WHERE c.seq IS NULL OR o.seq IS NULL OR o.times > 1
     GROUP BY 1),
-- Transfers: the other side says the same. A side that is missing, or that does not fit its own hash, is the other
-- account's fault; so is one in an account whose history is broken elsewhere: transfer_with names those to look at.
transfers AS MATERIALIZED (
    SELECT w.id, min(c.seq) AS transfer_seq, array_agg(DISTINCT c.contra_id) AS transfer_with
      FROM wanted w
      JOIN steelyard.change c ON c.tenant_id = p_tenant AND c.account_id = w.id AND c.contra_seq IS NOT NULL
      JOIN steelyard.change o ON o.tenant_id = p_tenant AND o.account_id = c.contra_id AND o.seq = c.contra_seq
      LEFT JOIN steelyard.change b ON b.tenant_id = p_tenant AND b.account_id = o.account_id AND b.seq = o.seq - 1
     WHERE (o.contra_id, o.contra_seq, o.kind, o.posted_at, -o.amount::numeric)
           IS DISTINCT FROM (c.account_id, c.seq, c.kind, c.posted_at, c.amount::numeric)
       AND o.hash = CASE WHEN (o.seq = 1) = (b.seq IS NULL) THEN steelyard.chain_hash(
               coalesce(b.hash, decode(repeat('00', 32), 'hex')), o.tenant_id, o.account_id, o.seq, o.kind, o.amount,
               o.held_amount, o.balance_after, o.held_after, o.contra_id, o.contra_seq, o.target_seq, o.posted_at,
               o.details::text) END
     GROUP BY w.id),
lost AS MATERIALIZED (
    SELECT c.contra_id AS id, min(c.contra_seq) AS lost_seq FROM steelyard.change c
      LEFT JOIN steelyard.change o ON o.tenant_id = p_tenant AND o.account_id = c.contra_id AND o.seq = c.contra_seq
     WHERE p_witnesses AND c.tenant_id = p_tenant AND c.contra_seq IS NOT NULL
       AND c.contra_id IN (SELECT w.id FROM wanted w) AND o.seq IS NULL
     GROUP BY c.contra_id)
SELECT w.id, acc.user_id, acc.kind, acc.currency, bk.digits::int, acc.posted, acc.held, acc.seq, acc.head,
       acc.total_recharged, acc.total_spent, acc.floor, acc.suspended,
       k.posted, k.held, k.last_seq, coalesce(n.hash, decode(repeat('00', 32), 'hex')), k.recharged, k.spent,
       k.gap_seq, k.step_seq, k.chain_seq, hd.hold_seq, op.operation_seq,
       lo.lost_seq, tr.transfer_seq, tr.transfer_with, cp.seq,
       CASE WHEN cp.seq IS NULL THEN NULL
            WHEN cp.seal IS DISTINCT FROM steelyard.seal_checkpoint(p_tenant, w.id, cp.seq, cp.posted, cp.held,
                 cp.total_recharged, cp.total_spent, cp.hash) THEN 'damaged'
            WHEN mark.seq IS NULL THEN 'missing'
            WHEN (mark.hash, mark.balance_after, mark.held_after) IS DISTINCT FROM (cp.hash, cp.posted, cp.held) THEN 'rewritten' END
  FROM wanted w
  JOIN walk k ON k.id = w.id
  LEFT JOIN steelyard.account acc ON acc.tenant_id = p_tenant AND acc.id = w.id
  LEFT JOIN steelyard.book bk ON bk.tenant_id = p_tenant AND bk.currency = acc.currency
  LEFT JOIN steelyard.change n ON n.tenant_id = p_tenant AND n.account_id = w.id AND n.seq = k.last_seq
  LEFT JOIN holds hd ON hd.id = w.id
  LEFT JOIN operations op ON op.id = w.id
  LEFT JOIN transfers tr ON tr.id = w.id
  LEFT JOIN lost lo ON lo.id = w.id
  LEFT JOIN steelyard.checkpoint cp ON cp.tenant_id = p_tenant AND cp.account_id = w.id
  LEFT JOIN steelyard.change mark ON mark.tenant_id = p_tenant AND mark.account_id = w.id AND mark.seq = cp.seq
 ORDER BY w.id
$$;

-- Effect: brings one altered change back, if some row that its neighbours and its other side suggest has exactly the
-- stored hash; the trigger on the table lets nothing else through. Returns whether it was brought back.
-- The chain's own links (key, hash) are never touched. Called by fix_accounts alone, with the account's row locked.
CREATE OR REPLACE FUNCTION steelyard.restore_change(p_tenant text, p_account bigint, p_seq bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c steelyard.change; p steelyard.change; n steelyard.change; o steelyard.change; v_found record;
    v_zero CONSTANT bytea := decode(repeat('00', 32), 'hex');
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    SELECT * INTO c FROM steelyard.change ch WHERE ch.tenant_id = p_tenant AND ch.account_id = p_account AND ch.seq = p_seq;
    SELECT * INTO p FROM steelyard.change ch WHERE ch.tenant_id = p_tenant AND ch.account_id = p_account AND ch.seq = p_seq - 1;
    SELECT * INTO n FROM steelyard.change ch WHERE ch.tenant_id = p_tenant AND ch.account_id = p_account AND ch.seq - 1 = p_seq;
    SELECT * INTO o FROM steelyard.change ch WHERE ch.tenant_id = p_tenant AND ch.contra_id = p_account AND ch.contra_seq = p_seq
       AND ch.account_id = c.contra_id AND ch.seq = c.contra_seq;
    IF c.seq IS NULL OR (p.seq IS NULL) <> (p_seq = 1) THEN RETURN false; END IF;
    IF p_seq = 1 THEN p.balance_after := 0; p.held_after := 0; p.hash := v_zero; END IF;
    WITH numbers AS (
        SELECT DISTINCT a.v AS amount, h.v AS held_amount, b.v AS balance_after, g.v AS held_after
          FROM (VALUES (c.balance_after::numeric), (p.balance_after::numeric + c.amount), (n.balance_after::numeric - n.amount),
                       (p.balance_after::numeric - o.amount)) AS b (v),
       LATERAL (VALUES (c.amount::numeric), (b.v - p.balance_after), (-o.amount::numeric)) AS a (v),
               (VALUES (c.held_after::numeric), (p.held_after::numeric + c.held_amount), (n.held_after::numeric - n.held_amount)) AS g (v),
       LATERAL (VALUES (c.held_amount::numeric), (g.v - p.held_after)) AS h (v)
         WHERE abs(a.v) < 9.2e18 AND abs(h.v) < 9.2e18 AND abs(b.v) < 9.2e18 AND abs(g.v) < 9.2e18),
    others AS (
        SELECT c.kind, c.contra_id, c.contra_seq, c.target_seq, c.posted_at, c.details::text AS details
        UNION SELECT k.v, c.contra_id, c.contra_seq, c.target_seq, c.posted_at, c.details::text
          FROM unnest(ARRAY['charge', 'booking', 'recharge', 'topup', 'refund', 'reversal', 'transfer', 'hold', 'capture',
                            'release', 'expire', 'adjustment', 'batch', 'sync']) AS k (v)
        UNION SELECT c.kind, k.v, c.contra_seq, c.target_seq, c.posted_at, c.details::text
          FROM (SELECT unnest(ARRAY[b.funding_id, b.revenue_id, b.adjustment_id, NULL]) AS v FROM steelyard.book b
                 WHERE b.tenant_id = p_tenant) k
        UNION SELECT c.kind, ch.account_id, ch.seq, c.target_seq, c.posted_at, c.details::text FROM steelyard.change ch
         WHERE ch.xid = c.xid AND ch.contra_id = p_account AND ch.contra_seq = p_seq
        UNION SELECT c.kind, c.contra_id, NULL, c.target_seq, c.posted_at, c.details::text
        UNION SELECT c.kind, c.contra_id, c.contra_seq, k.v, c.posted_at, c.details::text
          FROM generate_series(greatest(1, p_seq - 2000), p_seq - 1) AS k (v)
        UNION SELECT c.kind, c.contra_id, c.contra_seq, NULL, c.posted_at, c.details::text
        UNION SELECT c.kind, c.contra_id, c.contra_seq, c.target_seq, k.v, c.details::text
          FROM (SELECT ch.posted_at AS v FROM steelyard.change ch WHERE ch.xid = c.xid) k
        UNION SELECT c.kind, c.contra_id, c.contra_seq, c.target_seq, c.posted_at, o.details::text),
    candidates AS (
        SELECT u.*, c.kind, c.contra_id, c.contra_seq, c.target_seq, c.posted_at, c.details::text AS details FROM numbers u
        UNION ALL
        SELECT c.amount, c.held_amount, c.balance_after, c.held_after, t.* FROM others t)
    SELECT * INTO v_found FROM candidates d
     WHERE c.hash = steelyard.chain_hash(
           p.hash, p_tenant, p_account, p_seq, d.kind, d.amount::bigint, d.held_amount::bigint, d.balance_after::bigint,
           d.held_after::bigint, d.contra_id, d.contra_seq, d.target_seq, d.posted_at, d.details) LIMIT 1;
    IF NOT FOUND THEN RETURN false; END IF;
    UPDATE steelyard.change ch
       SET kind = v_found.kind, amount = v_found.amount, held_amount = v_found.held_amount,
           balance_after = v_found.balance_after, held_after = v_found.held_after, contra_id = v_found.contra_id,
           contra_seq = v_found.contra_seq, target_seq = v_found.target_seq, posted_at = v_found.posted_at,
           details = v_found.details::json, previous_hash = p.hash
     WHERE ch.tenant_id = p_tenant AND ch.account_id = p_account AND ch.seq = p_seq;
    RETURN true;
END $$;

-- Changes of an account that do not fit their hash: what a repair may try. Empty unless there are few.
CREATE OR REPLACE FUNCTION steelyard.list_unfit_changes(p_tenant text, p_account bigint, p_limit int) RETURNS bigint[]
    LANGUAGE sql STABLE AS $$
SELECT array_agg(s.seq ORDER BY s.seq) FROM (
    SELECT c.seq FROM (SELECT ch.*, lag(ch.hash, 1, decode(repeat('00', 32), 'hex')) OVER (ORDER BY ch.seq) AS before_hash
              FROM steelyard.change ch WHERE ch.tenant_id = p_tenant AND ch.account_id = p_account) c
     WHERE c.previous_hash IS DISTINCT FROM c.before_hash OR c.hash IS DISTINCT FROM steelyard.chain_hash(
           c.before_hash, c.tenant_id, c.account_id, c.seq, c.kind, c.amount, c.held_amount, c.balance_after,
           c.held_after, c.contra_id, c.contra_seq, c.target_seq, c.posted_at, c.details::text)
     ORDER BY c.seq LIMIT p_limit) s
$$;
