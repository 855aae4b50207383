"""seqprior: sequence language models as evidence for variants."""

VERSION = "0.1.0"
