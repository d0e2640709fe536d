"""Who may do what: keys, the tokens issued for them, and scopes."""
