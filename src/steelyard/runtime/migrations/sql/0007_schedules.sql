-- Schedules: when named work begins by itself. docs/decisions/0017.

-- What runs when. It is on while `next_at` says when it ticks next.
CREATE TABLE steelyard.schedule (
    tenant_id        text COLLATE "C" NOT NULL REFERENCES steelyard.tenant (id),
    name             text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9:._-]{0,62}$'),
    family           text NOT NULL CHECK (family IN ('upkeep', 'sync', 'own')),  -- proofs and cleaning; SYNC_SCHEDULER_ENABLED; made by admins
    kind             text COLLATE "C" NOT NULL CHECK (length(kind) BETWEEN 1 AND 40),
    subject          text COLLATE "C" NOT NULL CHECK (length(subject) BETWEEN 1 AND 128),
    arguments        jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(arguments) = 'object'),
    cron             text CHECK (length(cron) BETWEEN 9 AND 200),
    every_s          int CHECK (every_s BETWEEN 60 AND 31622400),
    zone             text CHECK (length(zone) BETWEEN 1 AND 60),          -- none: the tenant's
    hours            text CHECK (length(hours) BETWEEN 1 AND 60),         -- only within them
    next_at          timestamptz,
    last_planned_for timestamptz,                                         -- the newest tick
    last_run_id      bigint,                                              -- that served it
    counted_at       timestamptz NOT NULL,                                -- what the clock said when next_at was found
    edited_at        timestamptz NOT NULL,
    edited_by        text NOT NULL CHECK (length(edited_by) BETWEEN 1 AND 200),
    PRIMARY KEY (tenant_id, name),
    CHECK ((cron IS NULL) <> (every_s IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX schedule_due ON steelyard.schedule (next_at, tenant_id, name) WHERE next_at IS NOT NULL;
CREATE INDEX schedule_counted ON steelyard.schedule (counted_at) WHERE next_at IS NOT NULL;

-- That a tick was: written with the run it began, so that no second one begins it again, whatever clocks say.
CREATE TABLE steelyard.schedule_tick (
    tenant_id   text COLLATE "C" NOT NULL,
    schedule    text COLLATE "C" NOT NULL,
    planned_for timestamptz NOT NULL,
    ticked_at   timestamptz NOT NULL,
    run_id      bigint NOT NULL,
    PRIMARY KEY (tenant_id, schedule, planned_for),
    FOREIGN KEY (tenant_id, schedule) REFERENCES steelyard.schedule (tenant_id, name) ON DELETE CASCADE
);

DO $$
DECLARE v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['schedule', 'schedule_tick'] LOOP
        EXECUTE format('ALTER TABLE steelyard.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format('CREATE POLICY tenant_wall ON steelyard.%I USING (tenant_id = (SELECT steelyard.current_tenant())) '
                       'WITH CHECK (tenant_id = (SELECT steelyard.current_tenant()))', v_table);
        EXECUTE format('CREATE POLICY ledger_door ON steelyard.%I TO steelyard_ledger USING (true) WITH CHECK (true)', v_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON steelyard.%I TO steelyard_app', v_table);
        EXECUTE format('GRANT SELECT ON steelyard.%I TO steelyard_ledger', v_table);
    END LOOP;
END $$;

-- Schedules that are due, of the whole installation, the longest due first; those behind the row named last.
CREATE FUNCTION steelyard.list_due_schedules(
    p_now timestamptz, p_kinds text[], p_families text[], p_limit int, p_after_at timestamptz, p_after_tenant text,
    p_after_name text
) RETURNS TABLE (tenant_id text, name text, next_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
    SELECT s.tenant_id, s.name, s.next_at FROM steelyard.schedule s
      JOIN steelyard.tenant t ON t.id = s.tenant_id AND t.status = 'active'
     WHERE s.next_at <= p_now AND (s.next_at, s.tenant_id, s.name) > (p_after_at, p_after_tenant, p_after_name)
       AND s.kind = ANY (p_kinds) AND s.family = ANY (p_families)
     ORDER BY s.next_at, s.tenant_id, s.name LIMIT p_limit
$$;

-- Schedules whose next moment was found by a clock that was ahead: it said later than p_ahead.
CREATE FUNCTION steelyard.list_schedules_counted_ahead(p_ahead timestamptz, p_limit int)
    RETURNS TABLE (tenant_id text, name text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT s.tenant_id, s.name FROM steelyard.schedule s WHERE s.next_at IS NOT NULL AND s.counted_at > p_ahead
     ORDER BY s.counted_at LIMIT p_limit
$$;

-- Tenants that lack one of these schedules.
CREATE FUNCTION steelyard.list_tenants_lacking_schedules(p_names text[], p_limit int)
    RETURNS TABLE (tenant_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.id FROM steelyard.tenant t
     WHERE t.status = 'active' AND EXISTS (
         SELECT FROM unnest(p_names) AS n (name)
          WHERE NOT EXISTS (SELECT FROM steelyard.schedule s WHERE s.tenant_id = t.id AND s.name = n.name))
     ORDER BY t.id LIMIT p_limit
$$;

-- Effect: sets the time zone of the unit of work's own tenant. Returns the one before, or nothing if there is no such tenant.
CREATE FUNCTION steelyard.set_tenant_zone(p_tenant text, p_time_zone text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_before text;
BEGIN
    SELECT t.time_zone INTO v_before FROM steelyard.tenant t
     WHERE t.id = p_tenant AND t.id = steelyard.current_tenant() FOR NO KEY UPDATE;
    UPDATE steelyard.tenant t SET time_zone = p_time_zone WHERE t.id = p_tenant AND t.id = steelyard.current_tenant();
    RETURN v_before;
END $$;

DO $$
DECLARE v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY[
            'list_due_schedules(timestamptz, text[], text[], int, timestamptz, text, text)',
            'list_schedules_counted_ahead(timestamptz, int)', 'list_tenants_lacking_schedules(text[], int)', 'set_tenant_zone(text, text)'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
        EXECUTE format('ALTER FUNCTION steelyard.%s OWNER TO steelyard_ledger', v_function);
    END LOOP;
END $$;
