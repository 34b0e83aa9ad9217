"""What assures that keys can be recovered, and are gone when they must be: backups, tests, destruction, status."""
