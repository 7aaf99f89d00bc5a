-- Customers of a bank: their number there, and who has an account of a number.

ALTER TABLE steelyard.app_user ADD COLUMN customer_number text
    CONSTRAINT app_user_customer_number CHECK (length(customer_number) BETWEEN 1 AND 64);

-- A number that another user has already is found before it is given to a second one.
CREATE INDEX mirrored_account_number ON steelyard.mirrored_account (tenant_id, provider, number);
