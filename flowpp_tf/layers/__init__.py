"""The networks of Flow++ as Keras layers (section 3.2.2)."""

from flowpp_tf.config.model import NetworkConfig
from flowpp_tf.core.context import fold_in
from flowpp_tf.layers.conditioner import Conditioner
from flowpp_tf.layers.context_net import ConditionNet, ContextNet, LabelEmbedding
from flowpp_tf.layers.dense_conditioner import DenseConditioner
from flowpp_tf.layers.dropout import Dropout
from flowpp_tf.layers.flow import Flow
from flowpp_tf.layers.gated import ConvAttentionBlock, GatedAttention, GatedConv, GatedPointwise, concat_elu, gate
from flowpp_tf.layers.init_norm import InitNormConv2D, InitNormDense
