"""Training: exact, elastic, hard to kill, and watched.

`batches` says which sentences every step trains on, `loop` trains, `checkpoint` and `run` keep what has been reached,
`tracking` shows it, and `trainer` puts all of it on Ray Train. Nothing is imported here, so that reading a configuration
imports neither torch nor Ray.
"""
