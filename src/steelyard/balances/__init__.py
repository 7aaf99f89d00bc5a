"""The one door: owns accounts and changes, and the SQL that writes them."""
