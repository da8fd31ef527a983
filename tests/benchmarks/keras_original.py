"""The original autoencoder in Keras 3 on TensorFlow: sentences trained a second on one thread. For `bench_training.py`.

Runs in an environment of its own, with keras, tensorflow-cpu and numpy:

    python -m venv keras-venv && keras-venv/bin/pip install keras tensorflow-cpu
    python tests/benchmarks/bench_training.py --only original --keras-python keras-venv/bin/python
"""

from __future__ import annotations

import os
import sys
import time

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

import keras
import numpy as np
import tensorflow as tf

POSITIONS, DIMENSION, UNITS = 64, 128, 512


def main() -> None:
    """Print "KERAS <sentences a second>" for the batch size and the number of batches in the arguments."""
    batch_size, num_batches = int(sys.argv[1]), int(sys.argv[2])
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((POSITIONS, DIMENSION)),
            layers.Bidirectional(layers.LSTM(UNITS)),
            layers.RepeatVector(POSITIONS),
            layers.LSTM(UNITS, return_sequences=True),
            layers.TimeDistributed(layers.Dense(DIMENSION, activation="tanh")),
        ]
    )
    model.compile(optimizer="adam", loss="mse", jit_compile=False)
    # Every position is computed whatever it holds, so random vectors take as long as a text's.
    batch = np.random.default_rng(0).normal(size=(batch_size, POSITIONS, DIMENSION)).astype(np.float32)
    model.train_on_batch(batch, batch)
    begun = time.perf_counter()
    for _ in range(num_batches):
        model.train_on_batch(batch, batch)
    print(f"KERAS {batch_size * num_batches / (time.perf_counter() - begun):.2f}")


if __name__ == "__main__":
    main()
