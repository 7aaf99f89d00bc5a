-- The books' own accounts: one change each for a whole batch, in id order, so that all books sum to zero at every commit.
CREATE OR REPLACE FUNCTION steelyard.post_contra(
    p_now timestamptz, p_tenant text[], p_account bigint[], p_delta bigint[], p_postings bigint[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM unnest(p_tenant, p_account) AS u (tenant, id)
       JOIN steelyard.account acc ON acc.tenant_id = u.tenant AND acc.id = u.id ORDER BY acc.id FOR NO KEY UPDATE OF acc;
    WITH moved AS (
        UPDATE steelyard.account acc
           SET posted = acc.posted + u.delta, seq = acc.seq + 1, as_of = greatest(acc.as_of, p_now),
               head = steelyard.chain_hash(acc.head, u.tenant, u.id, acc.seq + 1, 'batch', u.delta, 0, acc.posted + u.delta,
                                           0, NULL, NULL, NULL, p_now, '{"postings":' || u.postings || '}')
          FROM unnest(p_tenant, p_account, p_delta, p_postings) AS u (tenant, id, delta, postings)
          JOIN steelyard.account old ON old.tenant_id = u.tenant AND old.id = u.id
         WHERE acc.tenant_id = u.tenant AND acc.id = u.id AND u.delta <> 0
        RETURNING acc.tenant_id, acc.id, acc.seq, u.delta, acc.posted, u.postings, acc.head, old.head AS previous)
    INSERT INTO steelyard.change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after,
                                  posted_at, details, hash, previous_hash)
    SELECT m.tenant_id, m.id, m.seq, 'batch', m.delta, 0, m.posted, 0, p_now,
           ('{"postings":' || m.postings || '}')::json, m.head, m.previous FROM moved m;
END $$;
