-- The chain: what one change's hash covers, and why history cannot be edited.

-- The bytes are the same whatever the caller's session is set to, and no two changes can give the same ones:
--   previous hash; account, seq, amount, balance_after and time (microseconds since 2000) as big-endian 64-bit
--   the other account alone, as one more such number, if it is > 0 and nothing is held, targeted or transferred;
--     otherwise the byte ff and an array of the five numbers, with its NULLs, in PostgreSQL's binary format
--   tenant, a bar, kind; if there are details a zero byte and them: UTF-8. No tenant holds a bar, no text a zero byte
-- Short ones matter: SHA-256 takes its time per 64 bytes, and most changes need only two of those.
CREATE FUNCTION steelyard.chain_hash(
    p_previous bytea, p_tenant text, p_account bigint, p_seq bigint, p_kind text, p_amount bigint,
    p_held_amount bigint, p_balance_after bigint, p_held_after bigint, p_contra bigint, p_contra_seq bigint,
    p_target bigint, p_posted_at timestamptz, p_details text
) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN sha256(p_previous || int8send(p_account) || int8send(p_seq) || int8send(p_amount)
        || int8send(p_balance_after) || timestamptz_send(p_posted_at)
        || CASE WHEN p_contra > 0 AND p_contra_seq IS NULL AND p_target IS NULL AND p_held_amount = 0 AND p_held_after = 0
                THEN int8send(p_contra)
                ELSE '\xff'::bytea || array_send(ARRAY[p_contra, p_contra_seq, p_target, p_held_amount, p_held_after]) END
        || CASE WHEN p_details IS NULL THEN convert_to(p_tenant || '|' || p_kind, 'UTF8')
                ELSE convert_to(p_tenant || '|' || p_kind, 'UTF8') || '\x00'::bytea || convert_to(p_details, 'UTF8') END);

-- refuse_rewriting.sql says what it lets through.
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON steelyard.change
    FOR EACH ROW EXECUTE FUNCTION steelyard.refuse_rewriting();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON steelyard.change
    FOR EACH STATEMENT EXECUTE FUNCTION steelyard.refuse_rewriting();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON steelyard.operation
    FOR EACH ROW EXECUTE FUNCTION steelyard.refuse_rewriting();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON steelyard.operation
    FOR EACH STATEMENT EXECUTE FUNCTION steelyard.refuse_rewriting();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON steelyard.audit
    FOR EACH ROW EXECUTE FUNCTION steelyard.refuse_rewriting();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON steelyard.audit
    FOR EACH STATEMENT EXECUTE FUNCTION steelyard.refuse_rewriting();
