"""Pure rules and records: what is allowed, what follows, what is written down. No file, no network; time is an argument."""
