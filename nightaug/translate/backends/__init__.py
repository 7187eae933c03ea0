"""Trained translators outside torch: graphs, the files they are exported to, and the runtimes that compute them."""
