"""Word vectors: trained by gensim on a token set, continued, or imported; a matrix aligned to the token set's vocabulary."""

from lstm_embed.words.config import WordVectorsConfig
from lstm_embed.words.folder import WordVectors
from lstm_embed.words.train import train_word_vectors

__all__ = ["WordVectors", "WordVectorsConfig", "train_word_vectors"]
