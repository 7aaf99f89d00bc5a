"""Named work and its runs: kinds with their options, the engine behind a port, and what users see of it."""
