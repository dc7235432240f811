"""What decoding costs inside engines: a script an engine, run where the engine is installed."""
