-- Jobs: what is queued, who works on it, what became of it. docs/decisions/0016.
SELECT 1;
