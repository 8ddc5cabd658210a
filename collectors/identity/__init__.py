"""Who a process is: identity for the rows of every source. Shared by sources; not a source itself."""
