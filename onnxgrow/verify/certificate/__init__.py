"""The structural certificate: a local, independent proof that the grown model computes the same function.

It shares no code with what grew the model: from the original, the result and the growth map alone it
    proves, value by
value, that the old entries of every value are those of the original.
"""

from onnxgrow.verify.certificate.certify import certify

__all__ = ["certify"]
