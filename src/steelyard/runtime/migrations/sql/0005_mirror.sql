-- Money of others, as they report it: whose it is, what was read, and the one door a reading takes into a balance.

-- Which users have money at the core bank (requirement CB1): only those are ever asked for there.
ALTER TABLE steelyard.app_user ADD COLUMN context text NOT NULL DEFAULT 'WALLET'
    CONSTRAINT app_user_context CHECK (context IN ('WALLET', 'MOBILE_BANKING'));

CREATE TABLE steelyard.mirrored_account (
    tenant_id    text COLLATE "C" NOT NULL,
    account_id   bigint NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    provider     text COLLATE "C" NOT NULL CHECK (length(provider) BETWEEN 1 AND 80),
    number       text COLLATE "C" NOT NULL CHECK (length(number) BETWEEN 1 AND 64),  -- the source's own name for it
    account_type text CHECK (length(account_type) BETWEEN 1 AND 40),
    is_active    boolean NOT NULL DEFAULT true,
    readings     json,                                  -- all kinds of balance of the newest reading, minor units
    read_at      timestamptz,
    PRIMARY KEY (tenant_id, account_id),
    UNIQUE (tenant_id, user_id, provider, number),
    FOREIGN KEY (tenant_id, account_id) REFERENCES steelyard.account (tenant_id, id)
) WITH (fillfactor = 80);
ALTER TABLE steelyard.mirrored_account ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON steelyard.mirrored_account USING (tenant_id = (SELECT steelyard.current_tenant()))
    WITH CHECK (tenant_id = (SELECT steelyard.current_tenant()));
CREATE POLICY ledger_door ON steelyard.mirrored_account TO steelyard_ledger USING (true) WITH CHECK (true);
GRANT SELECT ON steelyard.mirrored_account TO steelyard_app;
GRANT SELECT, INSERT, UPDATE ON steelyard.mirrored_account TO steelyard_ledger;

-- Effect: opens one mirrored account per array element; one the user has already at that source under that number is
-- brought to what is said of it and answers its id. Books must be open and users exist (foreign keys say so).
CREATE FUNCTION steelyard.open_mirrored_accounts(
    p_now timestamptz, p_tenant text, p_user text[], p_provider text[], p_number text[], p_currency text[],
    p_account_type text[], p_is_primary boolean[], p_is_active boolean[], OUT r_id bigint[], OUT r_opened boolean[]
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_id bigint; i int;
BEGIN
    PERFORM set_config('steelyard.tenant', p_tenant, true);
    PERFORM 1 FROM (SELECT acc.id FROM steelyard.account acc  -- as mirror_balances locks: accounts first, in id order
                     WHERE acc.tenant_id = p_tenant AND acc.id IN (
                           SELECT m.account_id FROM unnest(p_user, p_provider, p_number) AS u (id, provider, number)
                             JOIN steelyard.mirrored_account m ON m.tenant_id = p_tenant AND m.user_id = u.id
                              AND m.provider = u.provider AND m.number = u.number)
                     ORDER BY acc.id FOR NO KEY UPDATE) l;
    r_id := array_fill(NULL::bigint, ARRAY[cardinality(p_user)]);
    r_opened := array_fill(false, ARRAY[cardinality(p_user)]);
    FOR i IN 1..cardinality(p_user) LOOP
        UPDATE steelyard.mirrored_account m SET account_type = coalesce(p_account_type[i], m.account_type), is_active = p_is_active[i]
         WHERE m.tenant_id = p_tenant AND m.user_id = p_user[i] AND m.provider = p_provider[i] AND m.number = p_number[i]
        RETURNING m.account_id INTO v_id;
        IF FOUND THEN
            UPDATE steelyard.account acc SET is_primary = p_is_primary[i]
             WHERE acc.tenant_id = p_tenant AND acc.id = v_id AND acc.is_primary <> p_is_primary[i];
        ELSE
            INSERT INTO steelyard.account (tenant_id, kind, user_id, currency, is_primary, opened_at, as_of)
            VALUES (p_tenant, 'mirrored', p_user[i], p_currency[i], p_is_primary[i], p_now, p_now) RETURNING id INTO v_id;
            INSERT INTO steelyard.mirrored_account (tenant_id, account_id, user_id, provider, number, account_type, is_active)
            VALUES (p_tenant, v_id, p_user[i], p_provider[i], p_number[i], p_account_type[i], p_is_active[i]);
            r_opened[i] := true;
        END IF;
        r_id[i] := v_id;
    END LOOP;
END $$;
