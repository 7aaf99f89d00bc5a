-- Pausing and cancelling of syncs, and what their first release got wrong. docs/decisions/0015 and 0020.

ALTER TABLE steelyard.sync_target
    ADD COLUMN asked_priority       int NOT NULL DEFAULT 0,  -- of requests for the run that nobody waits for
    ADD COLUMN again_asked_priority int NOT NULL DEFAULT 0,
    ADD COLUMN waited_until         timestamptz,             -- a login waits until then, on whichever server
    ADD COLUMN cancelled_token      bigint,                  -- of the lease that was cancelled while in flight
    ADD COLUMN paused_at            timestamptz,
    ADD COLUMN paused_by            text,
    ADD COLUMN pause_reason         text;
CREATE INDEX sync_target_waited ON steelyard.sync_target (tenant_id, waited_until) WHERE waited_until IS NOT NULL;
CREATE INDEX sync_target_paused ON steelyard.sync_target (tenant_id, provider) WHERE is_paused;

-- Each target has numbers of its own: what a worker brings of one that was removed fits no lease of the one made after it.
CREATE SEQUENCE steelyard.lease_range START 1048576 INCREMENT 1048576;
GRANT USAGE ON SEQUENCE steelyard.lease_range TO steelyard_app;
ALTER TABLE steelyard.sync_target ALTER COLUMN lease_token SET DEFAULT nextval('steelyard.lease_range');

ALTER TABLE steelyard.run ADD COLUMN read_accounts bigint[] NOT NULL DEFAULT '{}';  -- that it wrote since the newest request

ALTER TABLE steelyard.provider_budget
    ADD COLUMN paused_at    timestamptz,                     -- nothing is granted
    ADD COLUMN paused_by    text,
    ADD COLUMN pause_reason text;

-- Users whose target was removed because they were no longer to be synced: those who are again get it back.
CREATE TABLE steelyard.sync_removed (
    tenant_id  text COLLATE "C" NOT NULL REFERENCES steelyard.tenant (id),
    provider   text COLLATE "C" NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    subject    text COLLATE "C" NOT NULL,
    removed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, provider, kind, subject)
);
ALTER TABLE steelyard.mirrored_account NO FORCE ROW LEVEL SECURITY;  -- for a moment: the owner sees all tenants
ALTER TABLE steelyard.sync_target NO FORCE ROW LEVEL SECURITY;
INSERT INTO steelyard.sync_removed (tenant_id, provider, kind, subject, removed_at)
SELECT DISTINCT m.tenant_id, m.provider, 'update-balances', m.user_id, now() FROM steelyard.mirrored_account m
 WHERE NOT EXISTS (SELECT FROM steelyard.sync_target t WHERE t.tenant_id = m.tenant_id AND t.subject = m.user_id);
ALTER TABLE steelyard.mirrored_account FORCE ROW LEVEL SECURITY;
ALTER TABLE steelyard.sync_target FORCE ROW LEVEL SECURITY;
ALTER TABLE steelyard.sync_removed ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON steelyard.sync_removed USING (tenant_id = (SELECT steelyard.current_tenant()))
    WITH CHECK (tenant_id = (SELECT steelyard.current_tenant()));
CREATE POLICY ledger_door ON steelyard.sync_removed TO steelyard_ledger USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON steelyard.sync_removed TO steelyard_app;
GRANT SELECT ON steelyard.sync_removed TO steelyard_ledger;

-- An account told of in another currency is another account: the first keeps its history and is read no more.
ALTER TABLE steelyard.mirrored_account DROP CONSTRAINT mirrored_account_tenant_id_user_id_provider_number_key;
CREATE UNIQUE INDEX mirrored_account_number ON steelyard.mirrored_account (tenant_id, user_id, provider, number) WHERE is_active;
CREATE INDEX mirrored_account_of_user ON steelyard.mirrored_account (tenant_id, user_id, provider, number);

-- Effect: opens one mirrored account per array element; one the user has already at that source under that number and in
-- that currency is brought to what is said of it and answers its id; in another currency it is closed. Books must be open
-- and users exist (foreign keys say so). What is closed is nobody's primary account while there is another.
DROP FUNCTION steelyard.open_mirrored_accounts(timestamptz, text, text[], text[], text[], text[], text[], boolean[], boolean[]);
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
        WITH closed AS (
            UPDATE steelyard.mirrored_account m SET is_active = false FROM steelyard.account acc
             WHERE m.tenant_id = p_tenant AND m.user_id = p_user[i] AND m.provider = p_provider[i] AND m.number = p_number[i]
               AND acc.tenant_id = p_tenant AND acc.id = m.account_id AND acc.currency <> p_currency[i] AND m.is_active
            RETURNING m.account_id)
        UPDATE steelyard.account acc SET is_primary = false FROM closed c
         WHERE acc.tenant_id = p_tenant AND acc.id = c.account_id AND acc.is_primary;
        UPDATE steelyard.mirrored_account m SET account_type = coalesce(p_account_type[i], m.account_type), is_active = p_is_active[i]
          FROM steelyard.account acc
         WHERE m.tenant_id = p_tenant AND m.user_id = p_user[i] AND m.provider = p_provider[i] AND m.number = p_number[i]
           AND acc.tenant_id = p_tenant AND acc.id = m.account_id AND acc.currency = p_currency[i]
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

-- The primary account of each (tenant, user): the held one, else the one flagged, else the first; a closed one of others
-- only where there is no other.
DROP FUNCTION steelyard.find_primary_accounts(text[], text[]);
CREATE FUNCTION steelyard.find_primary_accounts(p_tenant text[], p_user text[])
    RETURNS TABLE (tenant_id text, user_id text, account_id bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.tenant, u.user_id, chosen.id
      FROM unnest(p_tenant, p_user) AS u (tenant, user_id)
     CROSS JOIN LATERAL (
        SELECT acc.id FROM steelyard.account acc
         WHERE acc.tenant_id = u.tenant AND acc.user_id = u.user_id
         ORDER BY (acc.kind = 'held') DESC,
                  (acc.kind = 'mirrored' AND EXISTS (
                      SELECT FROM steelyard.mirrored_account m
                       WHERE m.tenant_id = u.tenant AND m.account_id = acc.id AND NOT m.is_active)),
                  acc.is_primary DESC, acc.id LIMIT 1) chosen
$$;

-- Effect: leases due targets of one tenant at one source, highest priority first, then longest due, and brings their
-- runs to `running`. Rows somebody else is leasing at this moment are passed by.
-- p_login, p_background: targets at or above p_login_priority, and all others, that may be leased; each sends one request
-- and asks for a permit before any other. A level's rows are one range of the index, so rows that are not due cost nothing.
-- Plans made while tables are empty are kept: so each lookup is by an array of keys, and joined by hashing. Left to choose,
-- the planner walks what was a small table then.
-- A target whose lease was lost p_attempts_max times has its run closed as expired and begins a new one.
DROP FUNCTION steelyard.lease_targets(timestamptz, text, text, text, interval, int, int, int, int, int, int);
CREATE FUNCTION steelyard.lease_targets(
    p_now timestamptz, p_tenant text, p_provider text, p_worker text, p_lease interval, p_login int, p_background int,
    p_login_priority int, p_attempts_max int
) RETURNS TABLE (kind text, subject text, priority int, cost int, lease_token bigint, lease_until timestamptz,
                 attempts int, run_id bigint, last_login_at timestamptz, read_accounts bigint[])
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_nestloop = off SET enable_mergejoin = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE v_level int := 1001; v_left int; v_used int;
BEGIN
    LOOP
        SELECT t.priority INTO v_level FROM steelyard.sync_target t
         WHERE t.tenant_id = p_tenant AND t.provider = p_provider AND NOT t.is_paused AND t.priority < v_level
         ORDER BY t.priority DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_left := CASE WHEN v_level >= p_login_priority THEN p_login ELSE least(p_login, p_background) END;
        EXIT WHEN v_left <= 0;
        v_used := 0;
        FOR kind, subject, priority, cost, lease_token, lease_until, attempts, run_id, last_login_at, read_accounts IN
            WITH candidate AS MATERIALIZED (
                SELECT t.* FROM steelyard.sync_target t
                 WHERE t.tenant_id = p_tenant AND t.provider = p_provider AND NOT t.is_paused
                   AND t.priority = v_level AND t.due_at <= p_now
                 ORDER BY t.due_at LIMIT v_left FOR NO KEY UPDATE SKIP LOCKED),
            fitting AS MATERIALIZED (
                SELECT c.kind, c.subject, c.run_id AS old_run, c.attempts >= p_attempts_max AS is_given_up,
                       CASE WHEN c.run_id IS NULL OR c.attempts >= p_attempts_max THEN nextval('steelyard.run_id') END AS new_run
                  FROM candidate c),
            leased AS (
                UPDATE steelyard.sync_target t
                   SET lease_until = p_now + p_lease, due_at = p_now + p_lease, lease_token = t.lease_token + 1,
                       leased_by = p_worker, attempts = CASE WHEN f.new_run IS NULL THEN t.attempts + 1 ELSE 1 END,
                       run_id = coalesce(f.new_run, t.run_id), cancelled_token = NULL
                  FROM fitting f
                 WHERE t.tenant_id = p_tenant AND t.kind = f.kind AND t.subject = f.subject
                   AND t.kind = ANY (ARRAY (SELECT DISTINCT x.kind FROM fitting x))
                   AND t.subject = ANY (ARRAY (SELECT x.subject FROM fitting x))
                RETURNING t.*, f.new_run),
            closed AS (
                UPDATE steelyard.run r SET state = 'expired', finished_at = p_now,
                       error = json_build_object('code', 'worker_lost', 'message', 'no worker finished it before its lease ended')
                  FROM fitting f
                 WHERE f.is_given_up AND r.tenant_id = p_tenant AND r.id = f.old_run
                   AND r.id = ANY (ARRAY (SELECT x.old_run FROM fitting x WHERE x.is_given_up))),
            begun AS (
                INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, attempts, created_at, started_at)
                SELECT p_tenant, l.run_id, l.kind, l.subject, l.priority, 'running', 1, p_now, p_now
                  FROM leased l WHERE l.new_run IS NOT NULL),
            gone_on AS (
                UPDATE steelyard.run r SET state = 'running', attempts = r.attempts + 1, priority = l.priority,
                       started_at = coalesce(r.started_at, p_now)
                  FROM leased l WHERE l.new_run IS NULL AND r.tenant_id = p_tenant AND r.id = l.run_id
                   AND r.id = ANY (ARRAY (SELECT x.run_id FROM leased x WHERE x.new_run IS NULL))
                RETURNING r.id, r.read_accounts)
            SELECT l.kind, l.subject, l.priority, l.cost, l.lease_token, l.lease_until, l.attempts, l.run_id, l.last_login_at,
                   coalesce(g.read_accounts, '{}')
              FROM leased l LEFT JOIN gone_on g ON g.id = l.run_id
        LOOP
            v_used := v_used + 1;
            RETURN NEXT;
        END LOOP;
        p_login := p_login - v_used;
        p_background := p_background - v_used;
    END LOOP;
END $$;

-- Effect: asks for syncs: each subject's target is due now, at least at p_priority; where one is in flight, once more
-- after it. One row per subject with the run that will serve it; r_is_new: nobody had asked for it and it was not due.
-- p_waited_until: until when somebody waits for it (NULL: nobody does); who waits raises it for as long as that.
-- What the run has read so far is older than the request, so it is read again. Paused targets, and all of a paused
-- source, are told as paused and nothing is written.
-- Locks the targets in the order of their subjects. p_passes_locked: those that somebody else has locked at this moment
-- are not waited for; nothing is written for them and they are not in the answer. The caller says who may be synced.
DROP FUNCTION steelyard.raise_targets(timestamptz, text, text, text, text[], int[], int, int, bytea[]);
CREATE FUNCTION steelyard.raise_targets(
    p_now timestamptz, p_tenant text, p_kind text, p_provider text, p_subject text[], p_cost int[], p_priority int,
    p_login_priority int, p_token_hash bytea[], p_waited_until timestamptz[], p_passes_locked boolean DEFAULT false
) RETURNS TABLE (r_subject text, r_run_id bigint, r_is_new boolean, r_is_paused boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off AS $$
DECLARE v_subject text[] := p_subject;
BEGIN
    PERFORM FROM steelyard.provider_budget b
      WHERE b.tenant_id = p_tenant AND b.provider = p_provider AND b.paused_at IS NOT NULL;
    IF FOUND THEN
        RETURN QUERY SELECT u.subject, NULL::bigint, false, true FROM unnest(p_subject) AS u (subject);
        RETURN;
    END IF;
    INSERT INTO steelyard.sync_target (tenant_id, kind, subject, provider, cost, due_at)
    SELECT p_tenant, p_kind, u.subject, p_provider, u.cost, 'infinity'
      FROM unnest(p_subject, p_cost) AS u (subject, cost) ORDER BY u.subject
    ON CONFLICT DO NOTHING;
    IF p_passes_locked THEN
        SELECT coalesce(array_agg(l.subject), '{}') INTO v_subject FROM (
            SELECT t.subject FROM steelyard.sync_target t
             WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = ANY (p_subject)
             ORDER BY t.subject FOR NO KEY UPDATE SKIP LOCKED) l;
    END IF;
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT u.subject, u.hash, u.until FROM unnest(p_subject, p_token_hash, p_waited_until) AS u (subject, hash, until)),
    target AS MATERIALIZED (
        SELECT t.* FROM steelyard.sync_target t
         WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = ANY (v_subject)
         ORDER BY t.subject FOR NO KEY UPDATE),
    plan AS MATERIALIZED (
        SELECT t.subject, t.is_paused, a.hash, a.until, coalesce(t.lease_until > p_now, false) AS is_in_flight,
               CASE WHEN a.until IS NULL THEN p_priority ELSE 0 END AS unwaited,
               t.due_at > p_now AND t.run_id IS NULL AS is_resting,
               CASE WHEN t.lease_until > p_now THEN t.again_run_id ELSE t.run_id END AS old_run,
               CASE WHEN (CASE WHEN t.lease_until > p_now THEN t.again_run_id ELSE t.run_id END) IS NULL
                    THEN nextval('steelyard.run_id') END AS new_run
          FROM target t JOIN asked a ON a.subject = t.subject
         WHERE NOT t.is_paused),
    raised AS (
        UPDATE steelyard.sync_target t
           SET priority = CASE WHEN p.is_in_flight THEN t.priority ELSE greatest(t.priority, p_priority) END,
               asked_priority = CASE WHEN p.is_in_flight THEN t.asked_priority ELSE greatest(t.asked_priority, p.unwaited) END,
               due_at = CASE WHEN p.is_in_flight THEN t.due_at ELSE least(t.due_at, p_now) END,
               run_id = CASE WHEN p.is_in_flight THEN t.run_id ELSE coalesce(t.run_id, p.new_run) END,
               attempts = CASE WHEN NOT p.is_in_flight AND p.new_run IS NOT NULL THEN 0 ELSE t.attempts END,
               again = t.again OR p.is_in_flight,
               again_priority = CASE WHEN p.is_in_flight THEN greatest(t.again_priority, p_priority) ELSE t.again_priority END,
               again_asked_priority = CASE WHEN p.is_in_flight THEN greatest(t.again_asked_priority, p.unwaited)
                                           ELSE t.again_asked_priority END,
               again_run_id = CASE WHEN p.is_in_flight THEN coalesce(t.again_run_id, p.new_run) ELSE t.again_run_id END,
               waited_until = greatest(t.waited_until, p.until),
               last_login_at = CASE WHEN p_priority >= p_login_priority THEN p_now ELSE t.last_login_at END
          FROM plan p
         WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = p.subject AND t.subject = ANY (v_subject)),
    begun AS (
        INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, token_hashes, created_at)
        SELECT p_tenant, p.new_run, p_kind, p.subject, p_priority, 'pending', array_remove(ARRAY[p.hash], NULL), p_now
          FROM plan p WHERE p.new_run IS NOT NULL),
    shared AS (
        UPDATE steelyard.run r SET priority = greatest(r.priority, p_priority), read_accounts = '{}',
               token_hashes = (array_remove(ARRAY[p.hash], NULL) || r.token_hashes)[1:32]
          FROM plan p WHERE p.new_run IS NULL AND r.tenant_id = p_tenant AND r.id = p.old_run
           AND r.id = ANY (ARRAY (SELECT x.old_run FROM plan x WHERE x.new_run IS NULL)))
    SELECT t.subject, coalesce(p.new_run, p.old_run),
           p.new_run IS NOT NULL AND (p.is_resting OR p.is_in_flight), t.is_paused
      FROM target t LEFT JOIN plan p ON p.subject = t.subject;
END $$;

-- Effect: ends leases: each target whose token is still the newest and whose lease has not run out gets its next moment,
-- its run its outcome. Returns the positions that were accepted; a late worker's are not among them, and nothing of
-- theirs is written. p_state: completed, failed or retrying (the same run goes on). p_is_progress: an attempt that is not
-- counted, because it read something and only has more to read. p_read: accounts that were read, as '{1,2}'.
-- A lease that was cancelled meanwhile is given back, its target rests until p_rest_at, and nothing else of it is written.
DROP FUNCTION steelyard.finish_targets(timestamptz, text, text[], text[], bigint[], text[], timestamptz[], int[], text[], text[], text[]);
CREATE FUNCTION steelyard.finish_targets(
    p_now timestamptz, p_tenant text, p_kind text[], p_subject text[], p_lease_token bigint[], p_state text[],
    p_due_at timestamptz[], p_cost int[], p_word text[], p_result text[], p_error text[], p_is_progress boolean[], p_read text[],
    p_rest_at timestamptz[]
) RETURNS int[] LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off AS $$
DECLARE v_accepted int[];
BEGIN
    WITH given AS MATERIALIZED (
        SELECT * FROM unnest(p_kind, p_subject, p_lease_token, p_state, p_due_at, p_cost, p_word, p_result, p_error,
                             p_is_progress, p_read, p_rest_at)
            WITH ORDINALITY AS u (kind, subject, token, state, due_at, cost, word, result, error, is_progress, accounts,
                                  rest_at, position)),
    owned AS MATERIALIZED (
        SELECT t.run_id, t.lease_token = g.token AS is_newest, g.* FROM given g
          JOIN steelyard.sync_target t ON t.tenant_id = p_tenant AND t.kind = g.kind AND t.subject = g.subject
         WHERE t.kind = ANY (p_kind) AND t.subject = ANY (p_subject) AND g.token IN (t.lease_token, t.cancelled_token)
           AND NOT coalesce(t.lease_until <= p_now, true)
         ORDER BY g.kind, g.subject FOR NO KEY UPDATE OF t),
    ended AS (
        UPDATE steelyard.sync_target t
           SET lease_until = NULL, leased_by = NULL, cancelled_token = NULL,
               cost = CASE WHEN o.is_newest THEN o.cost ELSE t.cost END,
               last_result = CASE WHEN o.is_newest THEN o.word ELSE t.last_result END,
               due_at = CASE WHEN t.again AND NOT (o.state = 'retrying' AND o.is_newest) THEN p_now
                             WHEN o.is_newest THEN o.due_at ELSE o.rest_at END,
               priority = CASE WHEN o.state = 'retrying' AND o.is_newest THEN greatest(t.priority, t.again_priority)
                               ELSE t.again_priority END,
               asked_priority = CASE WHEN o.state = 'retrying' AND o.is_newest
                                     THEN greatest(t.asked_priority, t.again_asked_priority) ELSE t.again_asked_priority END,
               waited_until = CASE WHEN o.state = 'retrying' AND o.is_newest OR t.again THEN t.waited_until END,
               attempts = CASE WHEN o.state = 'retrying' AND o.is_newest AND NOT o.is_progress THEN t.attempts ELSE 0 END,
               run_id = CASE WHEN o.state = 'retrying' AND o.is_newest THEN t.run_id ELSE t.again_run_id END,
               again = t.again AND o.state = 'retrying' AND o.is_newest,
               again_run_id = CASE WHEN o.state = 'retrying' AND o.is_newest THEN t.again_run_id END,
               again_priority = CASE WHEN o.state = 'retrying' AND o.is_newest THEN t.again_priority ELSE 0 END,
               again_asked_priority = CASE WHEN o.state = 'retrying' AND o.is_newest THEN t.again_asked_priority ELSE 0 END,
               last_success_at = CASE WHEN o.state = 'completed' AND o.is_newest THEN p_now ELSE t.last_success_at END
          FROM owned o
         WHERE t.tenant_id = p_tenant AND t.kind = o.kind AND t.subject = o.subject
           AND t.kind = ANY (p_kind) AND t.subject = ANY (p_subject)),
    told AS (
        UPDATE steelyard.run r
           SET state = o.state, result = coalesce(o.result::json, r.result), error = coalesce(o.error::json, r.error),
               progress = CASE o.state WHEN 'completed' THEN 100 ELSE r.progress END,
               read_accounts = r.read_accounts || o.accounts::bigint[],
               finished_at = CASE WHEN o.state = 'retrying' THEN NULL ELSE p_now END
          FROM owned o WHERE o.is_newest AND r.tenant_id = p_tenant AND r.id = o.run_id
           AND r.id = ANY (ARRAY (SELECT x.run_id FROM owned x)))
    SELECT array_agg(o.position::int ORDER BY o.position) INTO v_accepted FROM owned o WHERE o.is_newest;
    RETURN coalesce(v_accepted, '{}');
END $$;

-- Tenants and sources, of the whole installation, with how many are due at or above p_login_priority and below it.
-- p_count 0: those that have something due and are not paused, for workers; a probe of the index per level, not counted.
-- Otherwise all of them, counted up to p_count over all; what is beyond is told as at least one where there is one.
DROP FUNCTION steelyard.list_due_lanes(timestamptz, text[], int, int);
CREATE FUNCTION steelyard.list_due_lanes(p_now timestamptz, p_providers text[], p_login_priority int, p_count int)
    RETURNS TABLE (tenant_id text, provider text, priority_due bigint, background_due bigint, in_flight bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE v_lane record; v_level int; v_due bigint; v_left bigint := p_count;
BEGIN
    FOR v_lane IN SELECT b.tenant_id, b.provider FROM steelyard.provider_budget b
                    JOIN steelyard.tenant n ON n.id = b.tenant_id AND n.status = 'active'
                   WHERE (p_providers IS NULL OR b.provider = ANY (p_providers)) AND (p_count > 0 OR b.paused_at IS NULL)
                   ORDER BY 1, 2 LOOP
        tenant_id := v_lane.tenant_id; provider := v_lane.provider; priority_due := 0; background_due := 0; v_level := 1001;
        LOOP
            SELECT t.priority INTO v_level FROM steelyard.sync_target t
             WHERE t.tenant_id = v_lane.tenant_id AND t.provider = v_lane.provider AND NOT t.is_paused AND t.priority < v_level
             ORDER BY t.priority DESC LIMIT 1;
            EXIT WHEN NOT FOUND;
            SELECT count(*) INTO v_due FROM (
                SELECT FROM steelyard.sync_target t
                 WHERE t.tenant_id = v_lane.tenant_id AND t.provider = v_lane.provider AND NOT t.is_paused
                   AND t.priority = v_level AND t.due_at <= p_now LIMIT greatest(v_left, 1)) d;
            v_left := v_left - v_due;
            IF v_level >= p_login_priority THEN
                priority_due := priority_due + v_due;
            ELSE
                background_due := background_due + v_due;
            END IF;
            EXIT WHEN p_count = 0 AND v_due > 0;
        END LOOP;
        in_flight := CASE WHEN p_count = 0 THEN 0 ELSE (
            SELECT count(*) FROM steelyard.sync_target t WHERE t.tenant_id = v_lane.tenant_id
               AND t.provider = v_lane.provider AND t.lease_until > p_now) END;
        IF p_count > 0 OR priority_due + background_due > 0 THEN RETURN NEXT; END IF;
    END LOOP;
END $$;

-- What is due of one tenant at one source, by tier, each counted up to p_count: how many, and since when the oldest.
-- Tiers: login (somebody waits), asked, and of the period active, today and rest, by the last login.
CREATE FUNCTION steelyard.describe_due(p_now timestamptz, p_tenant text, p_provider text, p_login_priority int, p_count int)
    RETURNS TABLE (tier text, due bigint, oldest_at timestamptz) LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    SELECT d.tier, count(*), min(d.due_at) FROM (
        (SELECT CASE WHEN t.priority >= p_login_priority THEN 'login' ELSE 'asked' END AS tier, t.due_at
           FROM steelyard.sync_target t
          WHERE t.tenant_id = p_tenant AND t.provider = p_provider AND NOT t.is_paused AND t.priority > 0 AND t.due_at <= p_now
          LIMIT p_count)
        UNION ALL
        (SELECT CASE WHEN t.last_login_at >= p_now - interval '15 minutes' THEN 'active'
                     WHEN t.last_login_at >= p_now - interval '1 day' THEN 'today' ELSE 'rest' END, t.due_at
           FROM steelyard.sync_target t
          WHERE t.tenant_id = p_tenant AND t.provider = p_provider AND NOT t.is_paused AND t.priority = 0 AND t.due_at <= p_now
          ORDER BY t.due_at LIMIT p_count)) d
     GROUP BY 1
$$;

-- Tenants and sources of the whole installation, for the pass that puts right what rests.
CREATE FUNCTION steelyard.list_sources(p_providers text[]) RETURNS TABLE (tenant_id text, provider text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT b.tenant_id, b.provider FROM steelyard.provider_budget b
      JOIN steelyard.tenant n ON n.id = b.tenant_id AND n.status = 'active'
     WHERE b.provider = ANY (p_providers) ORDER BY 1, 2
$$;

-- Tenants with targets that a login waited for, and waits no more: of servers that ended before they said so.
CREATE FUNCTION steelyard.list_unwaited(p_now timestamptz) RETURNS TABLE (tenant_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT n.id FROM steelyard.tenant n
     WHERE EXISTS (SELECT FROM steelyard.sync_target t
                    WHERE t.tenant_id = n.id AND t.waited_until IS NOT NULL AND t.waited_until <= p_now)
$$;

DO $$
DECLARE v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['list_due_lanes(timestamptz, text[], int, int)', 'list_sources(text[])',
            'list_unwaited(timestamptz)', 'find_primary_accounts(text[], text[])',
            'open_mirrored_accounts(timestamptz, text, text[], text[], text[], text[], text[], boolean[], boolean[])'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
        EXECUTE format('ALTER FUNCTION steelyard.%s OWNER TO steelyard_ledger', v_function);
    END LOOP;
    FOREACH v_function IN ARRAY ARRAY['lease_targets(timestamptz, text, text, text, interval, int, int, int, int)',
            'raise_targets(timestamptz, text, text, text, text[], int[], int, int, bytea[], timestamptz[], boolean)',
            'finish_targets(timestamptz, text, text[], text[], bigint[], text[], timestamptz[], int[], text[], text[], text[], boolean[], text[], timestamptz[])',
            'describe_due(timestamptz, text, text, int, int)'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
    END LOOP;
END $$;
