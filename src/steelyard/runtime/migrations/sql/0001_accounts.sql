-- Opening and reading. Money tables have no other writer than the functions owned by steelyard_ledger.

-- Effect: makes the tenant, if it is new. Returns whether it was.
CREATE FUNCTION steelyard.create_tenant(p_now timestamptz, p_id text, p_name text, p_time_zone text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('steelyard.tenant', p_id, true);
    INSERT INTO steelyard.tenant (id, name, time_zone, created_at) VALUES (p_id, p_name, p_time_zone, p_now)
    ON CONFLICT (id) DO NOTHING;
    RETURN FOUND;
END $$;

-- Effect: opens the tenant's book in a currency: three accounts of its own. Returns whether it was new.
CREATE FUNCTION steelyard.open_book(p_now timestamptz, p_tenant text, p_currency text, p_digits int) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_ids bigint[];
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    -- Two who open the same book wait for each other here, so that one of them finds it open.
    PERFORM pg_advisory_xact_lock(hashtextextended('steelyard.open_book|' || p_tenant || '|' || p_currency, 0));
    PERFORM 1 FROM steelyard.book b WHERE b.tenant_id = p_tenant AND b.currency = p_currency;
    IF FOUND THEN RETURN false; END IF;
    WITH opened AS (
        INSERT INTO steelyard.account (tenant_id, kind, name, currency, opened_at, as_of)
        SELECT p_tenant, 'system', r.name, p_currency, p_now, p_now
          FROM unnest(ARRAY['funding', 'revenue', 'adjustment']) WITH ORDINALITY AS r (name, i) ORDER BY r.i
        RETURNING id)
    SELECT array_agg(id ORDER BY id) INTO v_ids FROM opened;
    INSERT INTO steelyard.book (tenant_id, currency, digits, funding_id, revenue_id, adjustment_id)
    VALUES (p_tenant, p_currency, p_digits, v_ids[1], v_ids[2], v_ids[3]);
    RETURN true;
END $$;

-- Effect: opens one held account per array element. An element whose reference exists already in the tenant
-- opens nothing and answers that account's id. Books must be open and users exist (foreign keys say so).
CREATE FUNCTION steelyard.open_accounts(
    p_now timestamptz, p_tenant text, p_user text[], p_currency text[], p_reference text[], p_name text[],
    p_floor bigint[], p_is_primary boolean[], OUT r_id bigint[], OUT r_opened boolean[]
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_row record; v_id bigint; i int;
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    r_id := array_fill(NULL::bigint, ARRAY[cardinality(p_user)]);
    r_opened := array_fill(false, ARRAY[cardinality(p_user)]);
    FOR i IN 1..cardinality(p_user) LOOP
        INSERT INTO steelyard.account (tenant_id, kind, user_id, currency, reference, name, floor, is_primary, suspended,
                                       opened_at, as_of)
        VALUES (p_tenant, 'held', p_user[i], p_currency[i], p_reference[i], p_name[i], p_floor[i], p_is_primary[i],
                CASE WHEN p_floor[i] > 0 THEN 'below_floor' END, p_now, p_now)
        ON CONFLICT (tenant_id, reference) WHERE reference IS NOT NULL DO NOTHING RETURNING id INTO v_id;
        r_opened[i] := FOUND;
        IF NOT FOUND THEN
            SELECT acc.id INTO v_id FROM steelyard.account acc WHERE acc.tenant_id = p_tenant AND acc.reference = p_reference[i];
        END IF;
        r_id[i] := v_id;
    END LOOP;
END $$;

-- Effect: sets the least available balance of an account; suspends it if it lies below, ends a suspension for that
-- reason if it does not. Returns false where there is no such held account.
CREATE FUNCTION steelyard.set_floor(p_now timestamptz, p_tenant text, p_account bigint, p_floor bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    UPDATE steelyard.account acc
       SET floor = p_floor, as_of = greatest(acc.as_of, p_now),
           suspended = CASE WHEN acc.suspended = 'chain_broken' THEN acc.suspended
                            WHEN acc.posted - acc.held < p_floor THEN 'below_floor' END
     WHERE acc.tenant_id = p_tenant AND acc.id = p_account AND acc.kind = 'held';
    RETURN FOUND;
END $$;

-- Balances of many accounts of many tenants in one call; one row per account found.
CREATE FUNCTION steelyard.read_balances(p_tenant text[], p_account bigint[])
    RETURNS TABLE (tenant_id text, account_id bigint, user_id text, kind text, currency text, digits smallint,
                   posted bigint, held bigint, floor bigint, seq bigint, suspended text, as_of timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
    SELECT acc.tenant_id, acc.id, acc.user_id, acc.kind, acc.currency, b.digits, acc.posted, acc.held, acc.floor,
           acc.seq, acc.suspended, acc.as_of
      FROM unnest(p_tenant, p_account) AS u (tenant, id)
      JOIN steelyard.account acc ON acc.tenant_id = u.tenant AND acc.id = u.id
      JOIN steelyard.book b ON b.tenant_id = acc.tenant_id AND b.currency = acc.currency
$$;

-- Which of these accounts nobody else holds a lock on at this moment, for the batcher: one account that a long
-- transaction of somebody's own holds must not stop the others.
CREATE FUNCTION steelyard.find_unlocked(p_tenant text[], p_account bigint[]) RETURNS bigint[]
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
    SELECT coalesce(array_agg(free.id), '{}') FROM (
        SELECT acc.id FROM steelyard.account acc
         WHERE (acc.tenant_id, acc.id) IN (SELECT u.tenant, u.id FROM unnest(p_tenant, p_account) AS u (tenant, id))
         ORDER BY acc.id FOR NO KEY UPDATE SKIP LOCKED) free
$$;

-- The primary account of each (tenant, user): the held one, else the one flagged, else the first.
CREATE FUNCTION steelyard.find_primary_accounts(p_tenant text[], p_user text[])
    RETURNS TABLE (tenant_id text, user_id text, account_id bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.tenant, u.user_id, chosen.id
      FROM unnest(p_tenant, p_user) AS u (tenant, user_id)
     CROSS JOIN LATERAL (
        SELECT acc.id FROM steelyard.account acc
         WHERE acc.tenant_id = u.tenant AND acc.user_id = u.user_id
         ORDER BY (acc.kind = 'held') DESC, acc.is_primary DESC, acc.id LIMIT 1) chosen
$$;

-- The journal for the relay: places of changes of all tenants, by writing unit of work, up to the moment before which
-- nothing can still commit. Column by column, since a relay reads again what its own process has published already.
CREATE FUNCTION steelyard.read_journal_places(
    p_from xid8, p_limit int, OUT r_xid bigint[], OUT r_tenant text[], OUT r_account bigint[], OUT r_seq bigint[]
) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT array_agg(c.xid::text::bigint), array_agg(c.tenant_id), array_agg(c.account_id), array_agg(c.seq)
      FROM (SELECT ch.xid, ch.tenant_id, ch.account_id, ch.seq FROM steelyard.change ch
             WHERE ch.xid >= p_from AND ch.xid < pg_snapshot_xmin(pg_current_snapshot()) AND ch.kind <> 'batch'
             ORDER BY ch.xid LIMIT p_limit) c
$$;

-- Changes at places, whole, for the relay.
CREATE FUNCTION steelyard.read_changes_at(p_tenant text[], p_account bigint[], p_seq bigint[])
    RETURNS TABLE (tenant_id text, account_id bigint, user_id text, currency text, digits smallint, seq bigint,
                   kind text, amount bigint, held_amount bigint, balance_after bigint, held_after bigint,
                   contra_id bigint, contra_seq bigint, posted_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
    SELECT c.tenant_id, c.account_id, acc.user_id, acc.currency, b.digits, c.seq, c.kind, c.amount, c.held_amount,
           c.balance_after, c.held_after, c.contra_id, c.contra_seq, c.posted_at
      FROM unnest(p_tenant, p_account, p_seq) AS u (tenant, account, seq)
      JOIN steelyard.change c ON c.tenant_id = u.tenant AND c.account_id = u.account AND c.seq = u.seq
      JOIN steelyard.account acc ON acc.tenant_id = c.tenant_id AND acc.id = c.account_id
      JOIN steelyard.book b ON b.tenant_id = acc.tenant_id AND b.currency = acc.currency
     ORDER BY c.tenant_id, c.account_id, c.seq
$$;

-- Holds whose time is over, of all tenants, for the sweeper.
CREATE FUNCTION steelyard.list_due_holds(p_now timestamptz, p_limit int)
    RETURNS TABLE (tenant_id text, account_id bigint, seq bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.tenant_id, h.account_id, h.seq FROM steelyard.hold h
     WHERE h.status = 'open' AND h.expires_at <= p_now ORDER BY h.expires_at LIMIT p_limit
$$;

-- Who asks, before a tenant is known: an API key by its public id; a tenant by its id.
CREATE FUNCTION steelyard.find_api_key(p_id text)
    RETURNS TABLE (tenant_id text, id text, secret_hash bytea, role text, expires_at timestamptz, revoked_at timestamptz,
                   tenant_status text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.tenant_id, k.id, k.secret_hash, k.role, k.expires_at, k.revoked_at, t.status
      FROM steelyard.api_key k JOIN steelyard.tenant t ON t.id = k.tenant_id WHERE k.id = p_id
$$;

CREATE FUNCTION steelyard.list_tenants()
    RETURNS TABLE (id text, name text, time_zone text, status text, created_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.id, t.name, t.time_zone, t.status, t.created_at FROM steelyard.tenant t ORDER BY t.id
$$;

DO $$
DECLARE v_function regprocedure;
BEGIN
    FOR v_function IN SELECT p.oid::regprocedure FROM pg_proc p
                       WHERE p.pronamespace = 'steelyard'::regnamespace AND p.prosecdef LOOP
        -- Handed over last: who hands them over does not inherit from steelyard_ledger.
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO steelyard_app', v_function);
        EXECUTE format('ALTER FUNCTION %s OWNER TO steelyard_ledger', v_function);
    END LOOP;
END $$;
