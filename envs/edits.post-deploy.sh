#!/usr/bin/env bash
# hgvs-weaver asks for a build tool that nothing runs, so it comes without what it asks for.
set -euo pipefail
python -m pip install --no-deps hgvs-weaver==1.0.1
