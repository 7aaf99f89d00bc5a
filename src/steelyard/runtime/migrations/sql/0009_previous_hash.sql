-- Each change carries the hash of the change before it. docs/decisions/0019.
SELECT 1;
