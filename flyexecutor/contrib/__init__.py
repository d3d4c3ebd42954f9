"""Level 8: integrations, one per file; each is imported only when it is used."""
