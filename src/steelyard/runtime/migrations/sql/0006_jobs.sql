-- Jobs: what is queued, who works on it, what became of it. docs/decisions/0016.

-- What one wants to know of a run beside what a sync has.
ALTER TABLE steelyard.run
    ADD COLUMN arguments      jsonb,
    ADD COLUMN requested_by   text CHECK (length(requested_by) BETWEEN 1 AND 200),
    ADD COLUMN schedule       text CHECK (length(schedule) BETWEEN 1 AND 200),
    ADD COLUMN planned_for    timestamptz,                 -- the tick of the schedule that asked for it
    ADD COLUMN error_category text;                        -- of the newest attempt that failed

-- A job is a run that has not ended, or a dead letter. Its row is the outbox: what commits with it is handed to the
-- engine afterwards, and again if nobody began it.
CREATE TABLE steelyard.job (
    tenant_id       text COLLATE "C" NOT NULL REFERENCES steelyard.tenant (id),
    run_id          bigint NOT NULL,
    kind            text COLLATE "C" NOT NULL CHECK (length(kind) BETWEEN 1 AND 40),
    subject         text COLLATE "C" NOT NULL CHECK (length(subject) BETWEEN 1 AND 128),
    arguments_hash  bytea NOT NULL,
    priority        int NOT NULL CHECK (priority BETWEEN 0 AND 1000),
    state           text NOT NULL CHECK (state IN ('pending', 'waiting', 'running', 'dead')),  -- waiting: begun before
    due_at          timestamptz NOT NULL,               -- not begun earlier
    look_at         timestamptz NOT NULL,               -- when it is handed to the engine, first or again
    attempt         int NOT NULL DEFAULT 0,             -- of this series; one that lost its worker does not count
    attempts_max    int NOT NULL CHECK (attempts_max BETWEEN 1 AND 100),
    losses          int NOT NULL DEFAULT 0,             -- workers that died over it, of this series
    token           bigint NOT NULL DEFAULT 0,          -- fencing: grows with each claim; only its holder may write
    worker          text,
    claimed_at      timestamptz,                        -- when the newest attempt began
    is_cancel_asked boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, run_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES steelyard.run (tenant_id, id) ON DELETE CASCADE,
    CHECK ((state = 'running') = (worker IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE UNIQUE INDEX job_pending ON steelyard.job (tenant_id, kind, subject, arguments_hash) WHERE state = 'pending';
CREATE INDEX job_look ON steelyard.job (look_at) WHERE state IN ('pending', 'waiting');
CREATE INDEX job_running ON steelyard.job (worker) WHERE state = 'running';
CREATE INDEX job_dead ON steelyard.job (tenant_id, kind, run_id) WHERE state = 'dead';

-- Processes that work on jobs, of all tenants: the last sign of life of each.
CREATE TABLE steelyard.job_worker (
    name         text COLLATE "C" PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 80),
    heartbeat_at timestamptz NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT, DELETE ON steelyard.job_worker TO steelyard_app;  -- its signs of life go through beat_worker
GRANT SELECT, INSERT, UPDATE, DELETE ON steelyard.job_worker TO steelyard_ledger;

ALTER TABLE steelyard.job ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON steelyard.job USING (tenant_id = (SELECT steelyard.current_tenant()))
    WITH CHECK (tenant_id = (SELECT steelyard.current_tenant()));
CREATE POLICY ledger_door ON steelyard.job TO steelyard_ledger USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON steelyard.job TO steelyard_app;
GRANT SELECT, UPDATE, DELETE ON steelyard.job TO steelyard_ledger;
GRANT UPDATE ON steelyard.run TO steelyard_ledger;

-- Effect: makes a run and its job, or lets the request share the run of an equal one that nobody has begun: of the same
-- tenant, kind, subject and arguments. Shared, it is due at the earlier moment at the higher priority.
CREATE FUNCTION steelyard.request_run(
    p_now timestamptz, p_tenant text, p_kind text, p_subject text, p_arguments jsonb, p_arguments_hash bytea,
    p_priority int, p_attempts_max int, p_due_at timestamptz, p_planned_for timestamptz, p_schedule text,
    p_requested_by text, p_token_hash bytea
) RETURNS TABLE (r_run bigint, r_is_new boolean) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOOP
        WITH shared AS (
            UPDATE steelyard.job j
               SET priority = greatest(j.priority, p_priority), due_at = least(j.due_at, p_due_at),
                   look_at = CASE WHEN p_priority > j.priority OR p_due_at < j.due_at
                                  THEN least(j.look_at, p_due_at) ELSE j.look_at END
             WHERE j.tenant_id = p_tenant AND j.kind = p_kind AND j.subject = p_subject
               AND j.arguments_hash = p_arguments_hash AND j.state = 'pending'
            RETURNING j.run_id, j.priority)
        UPDATE steelyard.run r
           SET priority = s.priority, token_hashes = (array_remove(ARRAY[p_token_hash], NULL) || r.token_hashes)[1:32]
          FROM shared s WHERE r.tenant_id = p_tenant AND r.id = s.run_id
        RETURNING r.id, false INTO r_run, r_is_new;
        IF r_run IS NULL THEN
            WITH queued AS (
                INSERT INTO steelyard.job (tenant_id, run_id, kind, subject, arguments_hash, priority, state, due_at, look_at,
                                           attempts_max)
                VALUES (p_tenant, nextval('steelyard.run_id'), p_kind, p_subject, p_arguments_hash, p_priority, 'pending',
                        p_due_at, p_due_at, p_attempts_max)
                ON CONFLICT DO NOTHING RETURNING run_id)
            INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, token_hashes, created_at, arguments,
                                       requested_by, schedule, planned_for)
            SELECT p_tenant, q.run_id, p_kind, p_subject, p_priority, 'pending', array_remove(ARRAY[p_token_hash], NULL),
                   p_now, p_arguments, p_requested_by, p_schedule, p_planned_for
              FROM queued q
            RETURNING id, true INTO r_run, r_is_new;
        END IF;
        EXIT WHEN r_run IS NOT NULL;  -- else an equal one was made, or begun, at this very moment
    END LOOP;
    RETURN NEXT;
END $$;

-- Effect: gives out jobs of these kinds that are due and were not given out in the last p_again, of the whole
-- installation: the most urgent first. Rows somebody else holds at this moment are passed by.
CREATE FUNCTION steelyard.hand_over_jobs(p_now timestamptz, p_kinds text[], p_limit int, p_again interval)
    RETURNS TABLE (tenant_id text, run_id bigint, kind text, priority int)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH due AS MATERIALIZED (
        SELECT j.tenant_id, j.run_id FROM steelyard.job j
          JOIN steelyard.tenant t ON t.id = j.tenant_id AND t.status = 'active'
         WHERE j.state IN ('pending', 'waiting') AND j.look_at <= p_now AND j.due_at <= p_now AND j.kind = ANY (p_kinds)
         ORDER BY j.priority DESC, j.due_at LIMIT p_limit FOR NO KEY UPDATE OF j SKIP LOCKED),
    given AS (
        UPDATE steelyard.job j SET look_at = p_now + p_again FROM due d
         WHERE j.tenant_id = d.tenant_id AND j.run_id = d.run_id
        RETURNING j.tenant_id, j.run_id, j.kind, j.priority)
    SELECT g.tenant_id, g.run_id, g.kind, g.priority FROM given g ORDER BY g.priority DESC, g.run_id
$$;

-- Effect: a worker's sign of life, for the jobs of p_working_on; any other that stands in its name has lost its worker.
-- Returns which of the claims it should leave, by position: those it no longer holds, and those whose end was asked for.
-- Waits for no lock on a job: a handler may have it locked.
CREATE FUNCTION steelyard.beat_worker(
    p_now timestamptz, p_worker text, p_tenant text[], p_run bigint[], p_token bigint[],
    p_working_on_tenant text[], p_working_on_run bigint[]
) RETURNS TABLE (r_position int, r_is_held boolean)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO steelyard.job_worker AS w (name, heartbeat_at) VALUES (p_worker, p_now)
    ON CONFLICT (name) DO UPDATE SET heartbeat_at = greatest(w.heartbeat_at, excluded.heartbeat_at);
    WITH gone AS MATERIALIZED (
        SELECT j.tenant_id, j.run_id FROM steelyard.job j
         WHERE j.state = 'running' AND j.worker = p_worker AND j.claimed_at < p_now - interval '2 seconds'
           AND (j.tenant_id, j.run_id) NOT IN (SELECT * FROM unnest(p_working_on_tenant, p_working_on_run))
           FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE steelyard.job j SET worker = p_worker || ' (left)' FROM gone g
     WHERE j.tenant_id = g.tenant_id AND j.run_id = g.run_id;
    RETURN QUERY
    SELECT g.position::int, j.run_id IS NOT NULL
      FROM unnest(p_tenant, p_run, p_token) WITH ORDINALITY AS g (tenant, run, token, position)
      LEFT JOIN steelyard.job j
        ON j.tenant_id = g.tenant AND j.run_id = g.run AND j.token = g.token AND j.state = 'running'
     WHERE j.run_id IS NULL OR j.is_cancel_asked;
END $$;

-- Effect: takes jobs from workers that gave no sign of life since p_stalled_before. Such a job waits for another worker;
-- one that lost p_losses_max workers is a dead letter, one whose end was asked for ends. Returns what became of each.
-- A job that its worker has locked is passed by: its unit of work ends first.
CREATE FUNCTION steelyard.rescue_jobs(p_now timestamptz, p_stalled_before timestamptz, p_losses_max int, p_limit int)
    RETURNS TABLE (tenant_id text, run_id bigint, kind text, worker text, state text)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH stalled AS MATERIALIZED (
        SELECT j.tenant_id, j.run_id, j.kind, j.worker,
               CASE WHEN j.is_cancel_asked THEN 'cancelled' WHEN j.losses + 1 >= p_losses_max THEN 'failed'
                    ELSE 'retrying' END AS next
          FROM steelyard.job j
         WHERE j.state = 'running' AND NOT EXISTS (
               SELECT FROM steelyard.job_worker w WHERE w.name = j.worker AND w.heartbeat_at >= p_stalled_before)
         ORDER BY j.tenant_id, j.run_id LIMIT p_limit FOR NO KEY UPDATE OF j SKIP LOCKED),
    freed AS (
        UPDATE steelyard.job j
           SET state = CASE s.next WHEN 'failed' THEN 'dead' ELSE 'waiting' END, worker = NULL,
               losses = j.losses + 1, attempt = greatest(j.attempt - 1, 0), due_at = p_now, look_at = p_now
          FROM stalled s WHERE j.tenant_id = s.tenant_id AND j.run_id = s.run_id AND s.next <> 'cancelled'),
    dropped AS (
        DELETE FROM steelyard.job j USING stalled s
         WHERE j.tenant_id = s.tenant_id AND j.run_id = s.run_id AND s.next = 'cancelled'),
    told AS (
        UPDATE steelyard.run r
           SET state = s.next, finished_at = CASE s.next WHEN 'retrying' THEN NULL ELSE p_now END,
               error_category = CASE s.next WHEN 'cancelled' THEN r.error_category ELSE 'worker' END,
               result = CASE s.next WHEN 'failed' THEN json_build_object('success', false, 'error', 'its worker gave no sign of life any more') ELSE r.result END,
               error = CASE s.next
                   WHEN 'cancelled' THEN json_build_object('code', 'job_cancelled', 'message', 'it was cancelled while it ran')
                   ELSE json_build_object('code', 'worker_lost', 'message', 'its worker gave no sign of life any more') END
          FROM stalled s WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id)
    SELECT s.tenant_id, s.run_id, s.kind, s.worker, s.next FROM stalled s
$$;

-- The server processes that hold locks on jobs of workers that gave no sign of life since p_stalled_before: a worker that
-- sleeps inside its unit of work. The caller ends them; the server's own timeouts see only those between two statements.
CREATE FUNCTION steelyard.list_sleepers(p_stalled_before timestamptz) RETURNS SETOF int
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT DISTINCT l.pid FROM steelyard.job j
      JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = j.xmax
     WHERE j.state = 'running' AND NOT EXISTS (
           SELECT FROM steelyard.job_worker w WHERE w.name = j.worker AND w.heartbeat_at >= p_stalled_before)
$$;

-- How many jobs there are, by kind, of the whole installation.
CREATE FUNCTION steelyard.count_jobs(p_now timestamptz)
    RETURNS TABLE (kind text, waiting bigint, active bigint, delayed bigint, dead bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT j.kind, count(*) FILTER (WHERE j.state IN ('pending', 'waiting') AND j.due_at <= p_now),
           count(*) FILTER (WHERE j.state = 'running'),
           count(*) FILTER (WHERE j.state IN ('pending', 'waiting') AND j.due_at > p_now),
           count(*) FILTER (WHERE j.state = 'dead')
      FROM steelyard.job j GROUP BY j.kind
$$;

DO $$
DECLARE v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['hand_over_jobs(timestamptz, text[], int, interval)',
            'beat_worker(timestamptz, text, text[], bigint[], bigint[], text[], bigint[])',
            'rescue_jobs(timestamptz, timestamptz, int, int)', 'list_sleepers(timestamptz)', 'count_jobs(timestamptz)'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
        EXECUTE format('ALTER FUNCTION steelyard.%s OWNER TO steelyard_ledger', v_function);
    END LOOP;
    v_function := 'request_run(timestamptz, text, text, text, jsonb, bytea, int, int, timestamptz, timestamptz, text, text, bytea)';
    EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
    EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
END $$;
