"""What Steelyard runs on: database, unit of work, migrations, relay, cache and bus, secrets, telemetry."""
