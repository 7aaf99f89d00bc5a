"""The whole product under virtual time."""
