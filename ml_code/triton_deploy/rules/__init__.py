"""Pure rules and records: decisions and the data that they need. No file, no network; time is an argument."""
