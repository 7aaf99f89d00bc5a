-- Schedules: when named work begins by itself, each tick once. docs/decisions/0017.
SELECT 1;
