"""Records about real recordings, one builder config a part."""
