"""SciCat over its REST API, v3 and v4: the client, what answers mean, and registration that converges."""
