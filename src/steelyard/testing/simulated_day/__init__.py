"""A day of a bank's users in virtual time: engine, simulated bank and real database, with everything that goes wrong."""
