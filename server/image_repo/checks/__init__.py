"""`image_repo --check`: a configuration, and the world it names."""
