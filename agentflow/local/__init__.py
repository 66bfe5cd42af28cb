"""The private Redis of a data directory and its one supervised worker."""
