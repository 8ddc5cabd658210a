"""Sources: one module each, named for what can be seen. `warpline check` says which of them can run here."""
