"""Flows of vectors as posteriors p(theta | x): what simulation-based inference adds to a conditional flow."""

from flowpp_tf.posterior import support
