"""The networks of Flow++ as Keras layers (section 3.2.2)."""

from flowpp_tf.config.network import NetworkConfig
from flowpp_tf.core.context import fold_in
from flowpp_tf.layers.activations import concat_elu, gate
from flowpp_tf.layers.condition_net import ConditionNet
from flowpp_tf.layers.conditioner import Conditioner, ConvAttentionBlock
from flowpp_tf.layers.context_net import ContextNet
from flowpp_tf.layers.dense_conditioner import DenseConditioner
from flowpp_tf.layers.dropout import Dropout
from flowpp_tf.layers.flow import Flow
from flowpp_tf.layers.gated import GatedAttention, GatedConv, GatedPointwise
from flowpp_tf.layers.init_norm import InitNormConv2D, InitNormDense
from flowpp_tf.layers.label_embedding import LabelEmbedding
