"""Changes of one thing in the engine, each of which a test must see."""
