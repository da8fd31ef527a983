"""The LSTM autoencoder: what it is, how it is trained on a group of sentences, and how it encodes text.

Stands on `storage`, `ledger` and `corpus.text`; imports neither Ray nor gensim, so torch alone is enough to encode. Nothing
is imported here, so that reading a configuration does not import torch.
"""
