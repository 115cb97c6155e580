"""The applications under load; each runs in an environment that need not have the service."""
