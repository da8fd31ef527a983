"""How good sentence vectors are: similarity, classification, retrieval, clustering, decoding, beside simple baselines.

Nothing here chooses a checkpoint: labelled sets are only measured on.
"""
