-- Who may open mirrored accounts and write what was read of them.
DO $$
DECLARE v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['mirror_balances(timestamptz, text, bigint[], bigint[], timestamptz[], text[])',
            'open_mirrored_accounts(timestamptz, text, text[], text[], text[], text[], text[], boolean[], boolean[])'] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION steelyard.%s FROM PUBLIC', v_function);
        EXECUTE format('GRANT EXECUTE ON FUNCTION steelyard.%s TO steelyard_app', v_function);
        EXECUTE format('ALTER FUNCTION steelyard.%s OWNER TO steelyard_ledger', v_function);
    END LOOP;
END $$;
