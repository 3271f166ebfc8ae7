"""HTTP: the only room that knows aiohttp's server."""
