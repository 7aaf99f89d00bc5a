-- Sync is state: one row per user and kind says when it is due and who works on it. docs/decisions/0015.

-- What is pulled. A lease is `due_at` moved to its end: a worker that dies leaves a row that falls due by itself.
CREATE TABLE steelyard.sync_target (
    tenant_id       text COLLATE "C" NOT NULL REFERENCES steelyard.tenant (id),
    kind            text COLLATE "C" NOT NULL CHECK (length(kind) BETWEEN 1 AND 40),
    subject         text COLLATE "C" NOT NULL CHECK (length(subject) BETWEEN 1 AND 128),   -- a user or a connection
    provider        text COLLATE "C" NOT NULL CHECK (length(provider) BETWEEN 1 AND 80),
    cost            int NOT NULL DEFAULT 1 CHECK (cost BETWEEN 1 AND 1000),     -- requests that one sync sends
    priority        int NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 1000),
    due_at          timestamptz NOT NULL,
    lease_until     timestamptz,                        -- while set, somebody has it; later than now: still at work
    lease_token     bigint NOT NULL DEFAULT 0,          -- fencing: grows with each lease; only its holder may finish
    leased_by       text,
    attempts        int NOT NULL DEFAULT 0,             -- leases of the run that is served
    run_id          bigint,                             -- that this or the next lease serves
    again           boolean NOT NULL DEFAULT false,     -- asked for while in flight: once more afterwards
    again_priority  int NOT NULL DEFAULT 0,
    again_run_id    bigint,
    is_paused       boolean NOT NULL DEFAULT false,
    last_result     text,
    last_success_at timestamptz,
    last_login_at   timestamptz,
    PRIMARY KEY (tenant_id, kind, subject),
    CHECK (again = (again_run_id IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX sync_target_due ON steelyard.sync_target (tenant_id, provider, priority DESC, due_at) WHERE NOT is_paused;
CREATE INDEX sync_target_leased ON steelyard.sync_target (tenant_id, provider, lease_until) WHERE lease_until IS NOT NULL;

-- What became of it: one row per sync, from the request (or the tick) over all its attempts to its end.
CREATE SEQUENCE steelyard.run_id CACHE 50;
CREATE TABLE steelyard.run (
    tenant_id    text COLLATE "C" NOT NULL REFERENCES steelyard.tenant (id),
    id           bigint NOT NULL,
    kind         text COLLATE "C" NOT NULL,
    subject      text COLLATE "C" NOT NULL,
    priority     int NOT NULL,
    state        text NOT NULL CHECK (state IN ('pending', 'running', 'retrying', 'completed', 'failed', 'cancelled',
                                                'expired', 'superseded')),
    attempts     int NOT NULL DEFAULT 0,
    progress     smallint NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    result       json,
    error        json,                                  -- of the newest attempt that failed
    token_hashes bytea[] NOT NULL DEFAULT '{}',         -- of the public tokens that may read it
    created_at   timestamptz NOT NULL,
    started_at   timestamptz,
    finished_at  timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK ((finished_at IS NULL) = (state IN ('pending', 'running', 'retrying')))
) WITH (fillfactor = 80);

-- How much a source allows one tenant, for all processes together.
CREATE TABLE steelyard.provider_budget (
    tenant_id        text COLLATE "C" NOT NULL REFERENCES steelyard.tenant (id),
    provider         text COLLATE "C" NOT NULL CHECK (length(provider) BETWEEN 1 AND 80),
    rate_per_s       double precision NOT NULL CHECK (rate_per_s > 0),
    burst            double precision NOT NULL CHECK (burst >= 1),
    tokens           double precision NOT NULL,         -- below 0: a debt that time pays
    refilled_at      timestamptz NOT NULL,
    in_flight_max    int NOT NULL CHECK (in_flight_max > 0),
    login_share      double precision NOT NULL DEFAULT 0.2 CHECK (login_share BETWEEN 0 AND 0.9),
    daily_limit      int CHECK (daily_limit > 0),
    daily_used       int NOT NULL DEFAULT 0,
    daily_on         date NOT NULL,                     -- the day, in UTC, that daily_used counts
    blocked_until    timestamptz,                       -- the source said Retry-After
    circuit          text NOT NULL DEFAULT 'closed' CHECK (circuit IN ('closed', 'open', 'half_open')),
    circuit_until    timestamptz,
    circuit_failures int NOT NULL DEFAULT 0,
    circuit_openings int NOT NULL DEFAULT 0,            -- in a row
    PRIMARY KEY (tenant_id, provider)
) WITH (fillfactor = 50);

DO $$
DECLARE v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['sync_target', 'run', 'provider_budget'] LOOP
        EXECUTE format('ALTER TABLE steelyard.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format('CREATE POLICY tenant_wall ON steelyard.%I USING (tenant_id = (SELECT steelyard.current_tenant())) '
                       'WITH CHECK (tenant_id = (SELECT steelyard.current_tenant()))', v_table);
        EXECUTE format('CREATE POLICY ledger_door ON steelyard.%I TO steelyard_ledger USING (true) WITH CHECK (true)', v_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON steelyard.%I TO steelyard_app', v_table);
        EXECUTE format('GRANT SELECT ON steelyard.%I TO steelyard_ledger', v_table);
    END LOOP;
END $$;
GRANT DELETE ON steelyard.sync_target TO steelyard_app;  -- of a user who is no longer to be synced
GRANT USAGE ON SEQUENCE steelyard.run_id TO steelyard_app;

-- Effect: leases due targets of one tenant at one source, highest priority first, then longest due, and brings their
-- runs to `running`. Rows somebody else is leasing at this moment are passed by.
-- p_login, p_background: requests that targets at or above p_login_priority, and all others, may send; the last target
-- leased may go beyond by its cost. One of the background only if all it costs is within p_room, or that is p_room_max or
-- more: one that costs more than there ever is waits until nothing is spent, and the part of logins stays free. A level's rows are one range of the index, so rows that are not due cost nothing.
-- Plans made while tables are empty are kept: so each lookup is by an array of keys, and joined by hashing. Left to choose,
-- the planner walks what was a small table then.
-- A target whose lease was lost p_attempts_max times has its run closed as expired and begins a new one.
CREATE FUNCTION steelyard.lease_targets(
    p_now timestamptz, p_tenant text, p_provider text, p_worker text, p_lease interval, p_login int, p_background int,
    p_login_priority int, p_attempts_max int, p_room int DEFAULT 1000000, p_room_max int DEFAULT 1000000
) RETURNS TABLE (kind text, subject text, priority int, cost int, lease_token bigint, lease_until timestamptz,
                 attempts int, run_id bigint, last_login_at timestamptz)
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
        FOR kind, subject, priority, cost, lease_token, lease_until, attempts, run_id, last_login_at IN
            WITH candidate AS MATERIALIZED (
                SELECT t.* FROM steelyard.sync_target t
                 WHERE t.tenant_id = p_tenant AND t.provider = p_provider AND NOT t.is_paused
                   AND t.priority = v_level AND t.due_at <= p_now
                 ORDER BY t.due_at LIMIT v_left FOR NO KEY UPDATE SKIP LOCKED),
            fitting AS MATERIALIZED (
                SELECT c.kind, c.subject, c.run_id AS old_run, c.is_given_up,
                       CASE WHEN c.run_id IS NULL OR c.is_given_up THEN nextval('steelyard.run_id') END AS new_run
                  FROM (SELECT x.kind, x.subject, x.run_id, x.cost, x.attempts >= p_attempts_max AS is_given_up,
                               sum(x.cost) OVER (ORDER BY x.due_at, x.kind, x.subject) - x.cost AS before
                          FROM candidate x) c
                 WHERE c.before < v_left
                   AND (v_level >= p_login_priority OR c.before + least(c.cost, p_room_max) <= p_room)),
            leased AS (
                UPDATE steelyard.sync_target t
                   SET lease_until = p_now + p_lease, due_at = p_now + p_lease, lease_token = t.lease_token + 1,
                       leased_by = p_worker, attempts = CASE WHEN f.new_run IS NULL THEN t.attempts + 1 ELSE 1 END,
                       run_id = coalesce(f.new_run, t.run_id)
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
                UPDATE steelyard.run r SET state = 'running', attempts = l.attempts, priority = l.priority,
                       started_at = coalesce(r.started_at, p_now)
                  FROM leased l WHERE l.new_run IS NULL AND r.tenant_id = p_tenant AND r.id = l.run_id
                   AND r.id = ANY (ARRAY (SELECT x.run_id FROM leased x WHERE x.new_run IS NULL)))
            SELECT l.kind, l.subject, l.priority, l.cost, l.lease_token, l.lease_until, l.attempts, l.run_id, l.last_login_at
              FROM leased l
        LOOP
            v_used := v_used + cost;
            RETURN NEXT;
        END LOOP;
        p_login := p_login - v_used;
        p_background := p_background - v_used;
        p_room := p_room - v_used;
    END LOOP;
END $$;

-- Effect: asks for syncs: each subject's target is due now, at least at p_priority; where one is in flight, once more
-- after it. One row per subject with the run that will serve it; r_is_new: nobody had asked for it and it was not due.
-- Locks the targets in the order of their subjects. The caller says who may be synced.
CREATE FUNCTION steelyard.raise_targets(
    p_now timestamptz, p_tenant text, p_kind text, p_provider text, p_subject text[], p_cost int[], p_priority int,
    p_login_priority int, p_token_hash bytea[]
) RETURNS TABLE (r_subject text, r_run_id bigint, r_is_new boolean, r_is_paused boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off AS $$
BEGIN
    INSERT INTO steelyard.sync_target (tenant_id, kind, subject, provider, cost, due_at)
    SELECT p_tenant, p_kind, u.subject, p_provider, u.cost, 'infinity'
      FROM unnest(p_subject, p_cost) AS u (subject, cost) ORDER BY u.subject
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT u.subject, u.hash FROM unnest(p_subject, p_token_hash) AS u (subject, hash)),
    target AS MATERIALIZED (
        SELECT t.* FROM steelyard.sync_target t
         WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = ANY (p_subject)
         ORDER BY t.subject FOR NO KEY UPDATE),
    plan AS MATERIALIZED (
        SELECT t.subject, t.is_paused, a.hash, coalesce(t.lease_until > p_now, false) AS is_in_flight,
               t.due_at > p_now AND t.run_id IS NULL AS is_resting,
               CASE WHEN t.lease_until > p_now THEN t.again_run_id ELSE t.run_id END AS old_run,
               CASE WHEN (CASE WHEN t.lease_until > p_now THEN t.again_run_id ELSE t.run_id END) IS NULL
                    THEN nextval('steelyard.run_id') END AS new_run
          FROM target t JOIN asked a ON a.subject = t.subject
         WHERE NOT t.is_paused),
    raised AS (
        UPDATE steelyard.sync_target t
           SET priority = CASE WHEN p.is_in_flight THEN t.priority ELSE greatest(t.priority, p_priority) END,
               due_at = CASE WHEN p.is_in_flight THEN t.due_at ELSE least(t.due_at, p_now) END,
               run_id = CASE WHEN p.is_in_flight THEN t.run_id ELSE coalesce(t.run_id, p.new_run) END,
               attempts = CASE WHEN NOT p.is_in_flight AND p.new_run IS NOT NULL THEN 0 ELSE t.attempts END,
               again = t.again OR p.is_in_flight,
               again_priority = CASE WHEN p.is_in_flight THEN greatest(t.again_priority, p_priority) ELSE t.again_priority END,
               again_run_id = CASE WHEN p.is_in_flight THEN coalesce(t.again_run_id, p.new_run) ELSE t.again_run_id END,
               last_login_at = CASE WHEN p_priority >= p_login_priority THEN p_now ELSE t.last_login_at END
          FROM plan p
         WHERE t.tenant_id = p_tenant AND t.kind = p_kind AND t.subject = p.subject AND t.subject = ANY (p_subject)),
    begun AS (
        INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, token_hashes, created_at)
        SELECT p_tenant, p.new_run, p_kind, p.subject, p_priority, 'pending', array_remove(ARRAY[p.hash], NULL), p_now
          FROM plan p WHERE p.new_run IS NOT NULL),
    shared AS (
        UPDATE steelyard.run r SET priority = greatest(r.priority, p_priority),
               token_hashes = (array_remove(ARRAY[p.hash], NULL) || r.token_hashes)[1:32]
          FROM plan p WHERE p.new_run IS NULL AND r.tenant_id = p_tenant AND r.id = p.old_run
           AND r.id = ANY (ARRAY (SELECT x.old_run FROM plan x WHERE x.new_run IS NULL)))
    SELECT t.subject, coalesce(p.new_run, p.old_run),
           p.new_run IS NOT NULL AND (p.is_resting OR p.is_in_flight), t.is_paused
      FROM target t LEFT JOIN plan p ON p.subject = t.subject;
END $$;

-- Effect: ends leases: each target whose token is still the newest and whose lease has not run out gets its next moment,
-- its run its outcome. Returns the positions that were accepted; a late worker's are not among them, and nothing of
-- theirs is written. p_state: completed, failed or retrying (the same run goes on).
CREATE FUNCTION steelyard.finish_targets(
    p_now timestamptz, p_tenant text, p_kind text[], p_subject text[], p_lease_token bigint[], p_state text[],
    p_due_at timestamptz[], p_cost int[], p_word text[], p_result text[], p_error text[]
) RETURNS int[] LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_nestloop = off SET enable_mergejoin = off AS $$
DECLARE v_accepted int[];
BEGIN
    WITH given AS MATERIALIZED (
        SELECT * FROM unnest(p_kind, p_subject, p_lease_token, p_state, p_due_at, p_cost, p_word, p_result, p_error)
            WITH ORDINALITY AS u (kind, subject, token, state, due_at, cost, word, result, error, position)),
    owned AS MATERIALIZED (
        SELECT t.run_id, g.* FROM given g
          JOIN steelyard.sync_target t ON t.tenant_id = p_tenant AND t.kind = g.kind AND t.subject = g.subject
         WHERE t.kind = ANY (p_kind) AND t.subject = ANY (p_subject) AND t.lease_token = g.token
           AND NOT coalesce(t.lease_until <= p_now, true)
         ORDER BY g.kind, g.subject FOR NO KEY UPDATE OF t),
    ended AS (
        UPDATE steelyard.sync_target t
           SET lease_until = NULL, leased_by = NULL, cost = o.cost, last_result = o.word,
               due_at = CASE WHEN t.again AND o.state <> 'retrying' THEN p_now ELSE o.due_at END,
               priority = CASE WHEN o.state = 'retrying' THEN greatest(t.priority, t.again_priority) ELSE t.again_priority END,
               attempts = CASE WHEN o.state = 'retrying' THEN t.attempts ELSE 0 END,
               run_id = CASE WHEN o.state = 'retrying' THEN t.run_id ELSE t.again_run_id END,
               again = t.again AND o.state = 'retrying',
               again_run_id = CASE WHEN o.state = 'retrying' THEN t.again_run_id END,
               again_priority = CASE WHEN o.state = 'retrying' THEN t.again_priority ELSE 0 END,
               last_success_at = CASE WHEN o.state = 'completed' THEN p_now ELSE t.last_success_at END
          FROM owned o
         WHERE t.tenant_id = p_tenant AND t.kind = o.kind AND t.subject = o.subject
           AND t.kind = ANY (p_kind) AND t.subject = ANY (p_subject)),
    told AS (
        UPDATE steelyard.run r
           SET state = o.state, result = coalesce(o.result::json, r.result), error = coalesce(o.error::json, r.error),
               progress = CASE o.state WHEN 'completed' THEN 100 ELSE r.progress END,
               finished_at = CASE WHEN o.state = 'retrying' THEN NULL ELSE p_now END
          FROM owned o WHERE r.tenant_id = p_tenant AND r.id = o.run_id AND r.id = ANY (ARRAY (SELECT x.run_id FROM owned x)))
    SELECT array_agg(o.position::int ORDER BY o.position) INTO v_accepted FROM owned o;
    RETURN coalesce(v_accepted, '{}');
END $$;

-- Tenants and sources with something due now, of the whole installation, for workers; a probe of the index per level.
-- How many are due at or above p_login_priority and below it, counted up to p_count each (0: not counted).
CREATE FUNCTION steelyard.list_due_lanes(p_now timestamptz, p_providers text[], p_login_priority int, p_count int)
    RETURNS TABLE (tenant_id text, provider text, priority_due bigint, background_due bigint, in_flight bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE v_lane record; v_level int; v_due bigint; v_most int := greatest(p_count, 1);
BEGIN
    FOR v_lane IN SELECT b.tenant_id, b.provider FROM steelyard.provider_budget b
                    JOIN steelyard.tenant n ON n.id = b.tenant_id AND n.status = 'active'
                   WHERE p_providers IS NULL OR b.provider = ANY (p_providers) ORDER BY 1, 2 LOOP
        tenant_id := v_lane.tenant_id; provider := v_lane.provider; priority_due := 0; background_due := 0; v_level := 1001;
        LOOP
            SELECT t.priority INTO v_level FROM steelyard.sync_target t
             WHERE t.tenant_id = v_lane.tenant_id AND t.provider = v_lane.provider AND NOT t.is_paused AND t.priority < v_level
             ORDER BY t.priority DESC LIMIT 1;
            EXIT WHEN NOT FOUND;
            SELECT count(*) INTO v_due FROM (
                SELECT FROM steelyard.sync_target t
                 WHERE t.tenant_id = v_lane.tenant_id AND t.provider = v_lane.provider AND NOT t.is_paused
                   AND t.priority = v_level AND t.due_at <= p_now LIMIT v_most) d;
            IF v_level >= p_login_priority THEN
                priority_due := least(priority_due + v_due, v_most);
            ELSE
                background_due := least(background_due + v_due, v_most);
            END IF;
            EXIT WHEN p_count = 0 AND v_due > 0;
        END LOOP;
        in_flight := (SELECT count(*) FROM steelyard.sync_target t WHERE t.tenant_id = v_lane.tenant_id
                         AND t.provider = v_lane.provider AND t.lease_until > p_now);
        IF p_count > 0 OR priority_due + background_due > 0 THEN RETURN NEXT; END IF;
    END LOOP;
END $$;

-- Tenants and sources with leases that ran out, for the truth of their runs while nobody leases them again.
CREATE FUNCTION steelyard.list_lost_leases(p_now timestamptz, p_limit int)
    RETURNS TABLE (tenant_id text, kind text, subject text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT t.tenant_id, t.kind, t.subject FROM steelyard.sync_target t
     WHERE t.lease_until IS NOT NULL AND t.lease_until <= p_now LIMIT p_limit
$$;

DO $$
DECLARE v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['list_due_lanes(timestamptz, text[], int, int)', 'list_lost_leases(timestamptz, int)'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
        EXECUTE format('ALTER FUNCTION steelyard.%s OWNER TO steelyard_ledger', v_function);
    END LOOP;
    FOREACH v_function IN ARRAY ARRAY['lease_targets(timestamptz, text, text, text, interval, int, int, int, int, int, int)',
            'raise_targets(timestamptz, text, text, text, text[], int[], int, int, bytea[])',
            'finish_targets(timestamptz, text, text[], text[], bigint[], text[], timestamptz[], int[], text[], text[], text[])'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
    END LOOP;
END $$;
