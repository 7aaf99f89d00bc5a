-- A change is never edited or removed. The one update allowed is a repair: it must turn a row that does
-- not fit its hash, or the change before it, into one that does, with the hash itself untouched.
CREATE OR REPLACE FUNCTION steelyard.refuse_rewriting() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE v_previous bytea;
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'change' THEN
        SELECT c.hash INTO v_previous FROM steelyard.change c
         WHERE c.tenant_id = OLD.tenant_id AND c.account_id = OLD.account_id AND c.seq = OLD.seq - 1;
        IF OLD.seq = 1 THEN v_previous := decode(repeat('00', 32), 'hex'); END IF;
        IF (NEW.tenant_id, NEW.account_id, NEW.seq, NEW.hash, NEW.xid)
               = (OLD.tenant_id, OLD.account_id, OLD.seq, OLD.hash, OLD.xid)
           AND NEW.previous_hash = v_previous
           AND NEW.hash = steelyard.chain_hash(v_previous, NEW.tenant_id, NEW.account_id, NEW.seq, NEW.kind,
               NEW.amount, NEW.held_amount, NEW.balance_after, NEW.held_after, NEW.contra_id, NEW.contra_seq,
               NEW.target_seq, NEW.posted_at, NEW.details::text) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% is append-only: correct by a reversal', TG_TABLE_NAME USING ERRCODE = 'SY001';
END $$;
