"""What services that answer HTTP have in common: how they log, and what a connection may do."""
