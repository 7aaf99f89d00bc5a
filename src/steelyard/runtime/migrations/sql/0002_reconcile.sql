-- Proof and repair. What a change did is read from the change alone; nothing here trusts a number that
-- was handed in. docs/decisions/0001 names the roles.

-- What was proved, account by account, so that the next proof begins there.
CREATE TABLE steelyard.checkpoint (
    tenant_id       text COLLATE "C" NOT NULL,
    account_id      bigint NOT NULL,
    seq             bigint NOT NULL CHECK (seq > 0),
    posted          bigint NOT NULL,
    held            bigint NOT NULL,
    total_recharged bigint NOT NULL,
    total_spent     bigint NOT NULL,
    hash            bytea NOT NULL,         -- of the change at seq
    taken_at        timestamptz NOT NULL,
    seal            bytea NOT NULL,         -- tells a damaged checkpoint from a rewritten history
    PRIMARY KEY (tenant_id, account_id)
);
ALTER TABLE steelyard.checkpoint ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON steelyard.checkpoint USING (tenant_id = (SELECT steelyard.current_tenant()))
    WITH CHECK (tenant_id = (SELECT steelyard.current_tenant()));
CREATE POLICY ledger_door ON steelyard.checkpoint TO steelyard_ledger USING (true) WITH CHECK (true);
GRANT SELECT ON steelyard.checkpoint TO steelyard_app;
GRANT SELECT, INSERT, UPDATE ON steelyard.checkpoint TO steelyard_ledger;
GRANT DELETE ON steelyard.hold TO steelyard_ledger;  -- a hold without its change, removed by a fix

CREATE FUNCTION steelyard.seal_checkpoint(
    p_tenant text, p_account bigint, p_seq bigint, p_posted bigint, p_held bigint, p_recharged bigint,
    p_spent bigint, p_hash bytea
) RETURNS bytea
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN sha256(p_hash || convert_to(concat_ws('|', p_account, p_seq, p_posted, p_held, p_recharged, p_spent,
                                                 p_tenant), 'UTF8'));

-- What one change adds to the two totals: docs/explanation/ledger.md, "Totals". p_target_kind: kind of what it takes back.
CREATE FUNCTION steelyard.adds_to_recharged(p_kind text, p_target_kind text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN p_kind IN ('recharge', 'topup') OR p_kind = 'reversal' AND coalesce(p_target_kind IN ('recharge', 'topup'), false);

CREATE FUNCTION steelyard.takes_from_spent(p_kind text, p_target_kind text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN p_kind IN ('charge', 'booking', 'capture', 'refund')
        OR p_kind = 'reversal' AND coalesce(p_target_kind IN ('charge', 'booking', 'capture'), false);

-- Does a change stand for a request of its own? Not so: a book's batch, an outside reading, the second side of
-- a transfer or of a reversed transfer.
CREATE FUNCTION steelyard.has_operation(p_kind text, p_amount bigint, p_target bigint, p_contra_seq bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN p_kind IN ('batch', 'sync') THEN false
                WHEN p_contra_seq IS NULL THEN true
                WHEN p_kind = 'transfer' THEN p_amount < 0
                ELSE p_target IS NOT NULL END;

-- The state a hold is in after the change that ended it.
CREATE FUNCTION steelyard.hold_status(p_kind text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE p_kind WHEN 'capture' THEN 'captured' WHEN 'release' THEN 'released' WHEN 'expire' THEN 'expired' ELSE 'open' END;
