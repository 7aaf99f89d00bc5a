"""The push gateway: every committed change on its user's screens, once per position and in order."""
