"""Promises as checks that ship: run them on a class of yours.

from fieldforge.contracts import check_encoding
check_encoding(lambda: MyEncoding(3))
"""

from fieldforge.contracts.activation import check_activation as check_activation
from fieldforge.contracts.codec import check_codec as check_codec
from fieldforge.contracts.codec import check_symmetries as check_symmetries
from fieldforge.contracts.encoding import check_encoding as check_encoding
from fieldforge.contracts.field import check_field as check_field
from fieldforge.contracts.generator import check_denoiser as check_denoiser
from fieldforge.contracts.generator import check_generator as check_generator
from fieldforge.contracts.network import check_network as check_network
from fieldforge.contracts.partition import check_partition as check_partition
from fieldforge.contracts.weight_network import check_weight_network as check_weight_network
