"""Models for other tools: folders of sentence-transformers and ONNX, with the tokenizer and a model card.

Stands on `model`, `corpus.text`, `storage` and `ledger`. `standalone` knows nothing of this package: it is copied into the
exported folder. Nothing is imported here, so that reading a configuration does not import torch.
"""
