-- Functions that steelyard_ledger owns already are replaced in its name; the owner does not inherit its rights.
SET LOCAL ROLE steelyard_ledger;
