"""Who asks: tenant, principal, roles, tokens, API keys, audit record."""
