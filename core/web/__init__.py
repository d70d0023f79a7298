"""A web page that enlarges photos."""
