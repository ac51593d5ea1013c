"""The pure core of search agents: no framework, no I/O, standard library only."""
