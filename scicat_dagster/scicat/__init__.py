"""SciCat over its REST API (v3): the client, what its answers mean, and registration that converges."""
