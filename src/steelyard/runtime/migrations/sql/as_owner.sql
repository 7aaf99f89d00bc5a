-- Back to who migrates.
SET LOCAL ROLE steelyard_owner;
