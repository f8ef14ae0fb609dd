"""One file per command: its flags, and what it runs; torch is imported only then."""
