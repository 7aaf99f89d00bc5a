"""All SQL of reconciliation. Written rows have one door: the functions of migration 0002."""
