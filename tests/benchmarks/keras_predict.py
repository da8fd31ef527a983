"""The original encoder in Keras 3 on TensorFlow: sentences a CPU second of `predict` on one thread. For `bench_model.py`.

Runs in an environment of its own, with keras and tensorflow-cpu; see `keras_original.py`.
"""

from __future__ import annotations

import os
import time

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

import keras
import numpy as np
import tensorflow as tf

POSITIONS, DIMENSION, UNITS, SENTENCES, ROUNDS = 64, 128, 512, 512, 4


def main() -> None:
    """Print "KERAS <sentences a CPU second>", the best of a few rounds and batch sizes."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.Sequential(
        [keras.layers.Input((POSITIONS, DIMENSION)), keras.layers.Bidirectional(keras.layers.LSTM(UNITS))]
    )
    # Every position is computed whatever it holds, so random vectors take as long as a text's.
    vectors = np.random.default_rng(0).normal(size=(SENTENCES, POSITIONS, DIMENSION)).astype(np.float32)
    best = 0.0
    for batch_size in (32, 128):
        model.predict(vectors[:batch_size], batch_size=batch_size, verbose=0)
        for _ in range(ROUNDS):
            begun = time.process_time()
            model.predict(vectors, batch_size=batch_size, verbose=0)
            best = max(best, SENTENCES / (time.process_time() - begun))
    print(f"KERAS {best:.2f}")


if __name__ == "__main__":
    main()
