"""All SQL of jobs and of their runs."""
