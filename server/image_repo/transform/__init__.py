"""From an original's bytes to a derived image's, in child processes.

The parent sees `pool` alone. What decodes and encodes runs in `worker`, the only
place that loads ImageMagick.
"""
