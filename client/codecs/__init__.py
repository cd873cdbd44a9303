"""How models travel in fewer bytes: one file for each codec, and chains of them. Pure NumPy and PyTorch."""

from fedquit.client.codecs.chain import CODECS, Chain, Coded, chain_of, settings_of_codec
from fedquit.client.codecs.codec import Codec, Slot, Traits, slot_of
from fedquit.client.codecs.fp16 import FP16
from fedquit.client.codecs.int8 import Int8
from fedquit.client.codecs.parcel import read_npy
from fedquit.client.codecs.svd import SVD
from fedquit.client.codecs.top_k import TopK
from fedquit.client.codecs.zstd import Zstd

__all__ = [
    "CODECS",
    "FP16",
    "SVD",
    "Chain",
    "Codec",
    "Coded",
    "Int8",
    "Slot",
    "TopK",
    "Traits",
    "Zstd",
    "chain_of",
    "read_npy",
    "settings_of_codec",
    "slot_of",
]
