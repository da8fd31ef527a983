"""What a vector is made of, how a sentence becomes one, and how it is read back.

Stands on `storage`, `ledger` and `corpus.text`; imports neither Ray nor gensim, so torch alone is enough to encode. Nothing
is imported here, so that reading a configuration does not import torch.
"""
