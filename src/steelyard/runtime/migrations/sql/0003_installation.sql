-- What tells this installation from every other: one row, made here, that no process ever changes.
CREATE TABLE steelyard.installation (
    is_only     boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    signing_key bytea NOT NULL CHECK (length(signing_key) = 32)  -- of hints between processes, docs/decisions/0009
);
-- 366 random bits from PostgreSQL's strong source, without an extension.
INSERT INTO steelyard.installation (signing_key)
SELECT sha256(convert_to(string_agg(gen_random_uuid()::text, ''), 'UTF8')) FROM generate_series(1, 3);
GRANT SELECT ON steelyard.installation TO steelyard_app;
