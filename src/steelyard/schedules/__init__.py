"""When named work begins by itself: ticks in time zones, each exactly once."""
