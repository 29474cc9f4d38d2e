"""The soak: a whole facility whose parts fail and are killed all the time, and an account of every file.

``python -m benchmarks.soak --files 200 --seed 7`` starts the catalogue's stand-in, a broker, a code server
and a daemon, announces files, lets requests fail and the broker go away, and kills processes. Then it lets
everything settle, compares what was announced with what is in the catalogue, and prints one JSON object. The
parts themselves are the demo's.
"""
