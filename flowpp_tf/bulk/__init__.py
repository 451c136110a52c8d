"""Millions of images on many machines: what an engine such as Ray Data applies to batches."""

from flowpp_tf.bulk.batch_functions import CompressImages, EncodeImages, ScoreImages
