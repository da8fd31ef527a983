"""Word vectors: trained by gensim on a token set, continued, or imported; a matrix aligned to the token set's vocabulary.

Nothing is imported here, so that reading a configuration does not import gensim.
"""
