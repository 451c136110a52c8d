"""The networks of Flow++ as Keras layers (section 3.2.2)."""

from flowpp_tf.call import fold_in
from flowpp_tf.layers.conditioner import Conditioner
from flowpp_tf.layers.conditioner import ConvAttentionBlock
from flowpp_tf.layers.context_net import ContextNet
from flowpp_tf.layers.dropout import Dropout
from flowpp_tf.layers.gated import GatedAttention
from flowpp_tf.layers.gated import GatedConv
from flowpp_tf.layers.gated import GatedPointwise
from flowpp_tf.layers.gated import concat_elu
from flowpp_tf.layers.gated import gate
from flowpp_tf.layers.init_norm import InitNormConv2D
from flowpp_tf.layers.init_norm import InitNormDense
from flowpp_tf.layers.network_config import NetworkConfig
