"""Why an operator has no rule: every axis at its nodes is frozen, and this is the reason a user reads.

All operators of ``ai.onnx`` and ``ai.onnx.ml`` have either a rule or an entry here, and so have those of ONNX Runtime's
own domain that its quantiser and optimiser write.
"""

from __future__ import annotations

__all__ = ["REFUSALS"]

_INTEGER = "it computes with integers, scaled afterwards: quantise in the QDQ format instead, which can grow"

_GROUPS = {
    "its bodies grow on their own; what they read and give stays as it is": "If Loop Scan",
    "its subgraph would have to grow with it": "SequenceMap",
    "its value is no tensor: a sequence, map or optional": (
        "ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct SequenceEmpty "
        "SequenceErase SequenceInsert SequenceLength SplitToSequence ai.onnx.ml:CastMap ai.onnx.ml:DictVectorizer "
        "ai.onnx.ml:ZipMap"
    ),
    "it holds strings, which have no channels": (
        "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer ai.onnx.ml:CategoryMapper "
        "ai.onnx.ml:LabelEncoder"
    ),
    _INTEGER: (
        "ConvInteger MatMulInteger QLinearConv QLinearMatMul com.microsoft:QLinearAdd com.microsoft:QLinearMul "
        "com.microsoft:QLinearSigmoid com.microsoft:QLinearLeakyRelu com.microsoft:QLinearConcat "
        "com.microsoft:QLinearGlobalAveragePool com.microsoft:QLinearAveragePool com.microsoft:QLinearSoftmax "
        "com.microsoft:QLinearReduceMean com.microsoft:QLinearWhere com.microsoft:QGemm com.microsoft:QAttention "
        "com.microsoft:QEmbedLayerNormalization com.microsoft:MatMulIntegerToFloat "
        "com.microsoft:MatMulInteger16 com.microsoft:NhwcMaxPool"
    ),
    "its scale is that of all its entries, new ones too": (
        "DynamicQuantizeLinear com.microsoft:DynamicQuantizeMatMul com.microsoft:DynamicQuantizeLSTM"
    ),
    "its weight is packed into blocks of a few bits": (
        "com.microsoft:MatMulNBits com.microsoft:MatMulBnb4 com.microsoft:MatMulFpQ4 "
        "com.microsoft:GatherBlockQuantized com.microsoft:QMoE"
    ),
    "quantisation of this domain is no constant to the proof: use that of ai.onnx": (
        "com.microsoft:DequantizeLinear com.microsoft:QuantizeLinear"
    ),
    "random: its values depend on how many it draws": (
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike"
    ),
    "the size of its output depends on data": "Compress NonMaxSuppression NonZero Unique",
    "it computes over positions of an image or region; its channels are not followed": (
        "AffineGrid CenterCropPad Col2Im DeformConv MaxRoiPool MaxUnpool"
    ),
    "it computes over a signal or a whole matrix: every entry enters every result": "DFT Det MelWeightMatrix STFT",
    "it makes a table of a given size from nothing": "BlackmanWindow EyeLike HammingWindow HannWindow",
    "fused: states or gates lie inside its axes, which are not followed": "CausalConvWithState LinearAttention SwiGLU",
    "fused: heads and caches lie inside its axes, which are not followed": (
        "com.microsoft:DecoderMaskedMultiHeadAttention com.microsoft:DecoderMaskedSelfAttention "
        "com.microsoft:DecoderAttention com.microsoft:PackedAttention com.microsoft:PackedMultiHeadAttention "
        "com.microsoft:SparseAttention com.microsoft:PagedAttention com.microsoft:LongformerAttention "
        "com.microsoft:GatedRelativePositionBias com.microsoft:RelativePositionBias com.microsoft:MoE "
        "com.microsoft:BiasSplitGelu com.microsoft:BiasAdd "
        "com.microsoft:BiasDropout com.microsoft:BiasSoftmax com.microsoft:NhwcConv com.microsoft:GroupNorm "
        "com.microsoft:SkipGroupNorm"
    ),
    "it moves entries to positions that are data": "TensorScatter",
    "a loss: it reduces over the classes": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "it decodes a file": "ImageDecoder",
    "it reads the bits of its input": "BitCast",
    "classical machine learning: its weights are attributes, one per named feature or class": (
        "ai.onnx.ml:ArrayFeatureExtractor ai.onnx.ml:Binarizer ai.onnx.ml:FeatureVectorizer ai.onnx.ml:Imputer "
        "ai.onnx.ml:LinearClassifier ai.onnx.ml:LinearRegressor ai.onnx.ml:Normalizer ai.onnx.ml:OneHotEncoder "
        "ai.onnx.ml:SVMClassifier ai.onnx.ml:SVMRegressor ai.onnx.ml:Scaler ai.onnx.ml:TreeEnsemble "
        "ai.onnx.ml:TreeEnsembleClassifier ai.onnx.ml:TreeEnsembleRegressor"
    ),
}

REFUSALS: dict[tuple[str, str], str] = {
    (domain, op_type): reason
    for reason, names in _GROUPS.items()
    for domain, _, op_type in (name.rpartition(":") for name in names.split())
}
"""(domain, operator) → why it has no rule."""
