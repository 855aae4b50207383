#!/usr/bin/env bash
# conda has no memelite.
set -euo pipefail
python -m pip install --no-deps memelite==0.5.0
