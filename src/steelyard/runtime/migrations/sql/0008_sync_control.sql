-- Pausing and cancelling of syncs, and what their first release got wrong. docs/decisions/0015.
SELECT 1;
